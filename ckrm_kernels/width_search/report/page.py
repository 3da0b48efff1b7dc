"""The page: everything that an experiment found, in one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping

from markupsafe import Markup, escape

from ckrm_kernels.comparison.statistics import Comparison
from ckrm_kernels.comparison.verdict import verdict, with_p
from ckrm_kernels.presentation.markup import render
from ckrm_kernels.presentation.numbers import counted, percent, signed
from ckrm_kernels.similarity import Similarity
from ckrm_kernels.storage.machine import versions
from ckrm_kernels.width_search.findings import Findings
from ckrm_kernels.width_search.report.layers import layers_section
from ckrm_kernels.width_search.report.quality import quality_section
from ckrm_kernels.width_search.report.redundancy import redundancy_section
from ckrm_kernels.width_search.report.saliency import saliency_section
from ckrm_kernels.width_search.report.search_path import search_section
from ckrm_kernels.width_search.report.structure import structure_section
from ckrm_kernels.width_search.shrunk_runs import TUNING_EPOCHS, TUNING_SHARE

_LEAD = 3  # sentences
_SALIENCY = (
    "Where a network expects people to look: a probability for each pixel, q, beside the gaze, p, scaled to the sum 1. "
    "KL is their divergence, the sum of p ln(p / q), 0 at best; CC their correlation over the pixels, 1 at best; "
    "histogram similarity the sum of the smaller of both, 1 at best. All are means over the held-out images."
)
_FALL = (
    ": a redundant width falls to their number, or by a fixed factor where that is next to no step. Between a width "
    "within target and a redundant one the search tries one in the middle, until they are near each other"
)


def page(findings: Findings, drawings: Mapping[str, Markup]) -> str:
    """The page as text.

    drawings: the figures as SVG elements, by their names
    """
    return render(
        __file__,
        title=f"Width search of {findings.network} on {findings.data}",
        brief=findings.brief,
        lead=" ".join(findings.conclusions[:_LEAD]),
        headline=_headline(findings),
        rest=findings.conclusions[_LEAD:],
        advice=list(map(_with_code, findings.advice)),
        sections=[
            structure_section(findings),
            quality_section(findings, drawings),
            *([saliency_section(findings, drawings)] if findings.saliency else []),
            redundancy_section(findings, drawings),
            search_section(findings, drawings),
            layers_section(findings),
        ],
        provenance={**findings.provenance, "page written with": _written_with()},
        terms=_terms(findings),
    )


def _headline(findings: Findings) -> list[tuple[str, str, str]]:
    """The few numbers that matter the most: each with its name and a detail."""
    standard, narrowed = findings.standard, findings.narrowed
    if narrowed is None:
        return []
    kept = "kept" if findings.outcome.chosen else f"in round {findings.outcome.compared}, not chosen"
    facts = [
        (
            percent(narrowed.parameters, standard.parameters),
            f"of the parameters {kept}",
            f"{narrowed.parameters:,} of {standard.parameters:,}",
        ),
        (
            percent(narrowed.multiply_adds, standard.multiply_adds),
            f"of the multiply-adds {kept}",
            f"{narrowed.multiply_adds:,} of {standard.multiply_adds:,}",
        ),
    ]
    for each in findings.comparisons:
        if (each.metric, each.second) == ("accuracy", standard.name):
            low, high = each.difference.low, each.difference.high
            interval = "" if low is None or high is None else f"95% interval {signed(low)} to {signed(high)}"
            facts += [
                (signed(each.difference.mean), f"accuracy, {each.first} less standard", interval),
                (verdict(each).capitalize(), f"in accuracy, within ±{each.margin:g}", _tested(each)),
            ]
    return facts


def _tested(comparison: Comparison) -> str:
    if comparison.equivalence_p is None:
        return ""
    tests = "two one-sided paired tests" if comparison.paired else "two one-sided tests"
    return f"{tests}, {with_p(comparison.equivalence_p)}"


def _terms(findings: Findings) -> dict[str, str]:
    """What the words and the colours of the page mean."""
    threshold = f"{findings.threshold:g}"
    networks = len(findings.standard.scores)
    terms: dict[str, str] = {
        "width": (
            "A number of filters that can be chosen. Layers that are added to each other share one. The search trains "
            "a network, measures it, changes its widths, and trains again: each time is a round."
        ),
        Markup(f"λ, the redundancy (λ<sup>{threshold}</sup>)"): (
            f"Two filters are compared slice by slice, {_comparison_in_words(findings.similarity)}; Ψ is the mean over "
            f"their slices, between {findings.similarity.lowest:g} and 1. Ω holds Ψ of all pairs of a layer’s filters, "
            f"and λ is the share of them strictly above {threshold}."
        ),
        **({"ε (eps)": _eps_in_words(findings.similarity)} if findings.similarity.name == "psi" else {}),
        "scale-free": (
            "The layer’s weight is first divided by its root mean square. Then only filters that repeat each "
            "other’s shape count, however small the weights are."
        ),
        "chance": (
            "λ of the same slices with the positions in each shuffled. A λ no larger than that says nothing of shapes."
        ),
        "within target, redundant": (
            f"A layer is within target when its λ at {findings.similarity.in_words()} is at most {findings.target:g}, "
            "or at most its scale-free chance level and three standard errors of so few pairs; else it is redundant. A "
            "width is redundant when a layer of it is."
        ),
        "distinct, repeat": (
            f"Filters with Ψ above {threshold} repeat each other. Distinct are those left when each group of repeats "
            f"is merged into one{'' if findings.outcome.by_error else _FALL}."
        ),
        "red, amber": _colours_in_words(findings),
        **_networks(findings),
        "accuracy, AUC": (
            "The share of images whose class a network names, and the area under the ROC curve of each class against "
            "the others, averaged over the classes (macro AUC). Validation accuracy is what the search goes by; the "
            "comparison is made on held-out images, which it never saw."
        ),
        **({} if findings.saliency is None else {"saliency": _SALIENCY}),
        "multiply-adds, checkpoint, latency": (
            "What one image costs in multiplications with additions, what the weights take as a file, and how long a "
            "forward pass takes, all networks timed in turns."
        ),
        "margin": (
            "The difference in accuracy, and in AUC, that counts as none. A round that loses more in validation "
            "accuracy than this is chosen only if it is within target."
        ),
        "intervals and tests": (
            "Intervals of means are Student’s, over networks trained from different seeds and scored on the same "
            "held-out images: they do not include the chance of drawing other images, and they may reach beyond 1. "
            "Differences are paired by seed: networks of two kinds that were trained from one seed are compared with "
            "each other, by Student’s paired t-test and interval. A large p of the test for a difference is not "
            "evidence of sameness; that is what the equivalence test is for: two one-sided tests against a margin "
            "chosen beforehand."
            if networks > 1
            else "One network of each kind was trained: there is no deviation over seeds, no interval and no test."
        ),
    }
    return terms


def _networks(findings: Findings) -> dict[str, str]:
    """What the names of the networks compared mean."""
    begun = "The network that the search began with"
    if findings.narrowed is None:
        return {"standard": f"{begun}."}
    name = findings.narrowed.name
    narrowed = (
        "the one that the search found"
        if findings.outcome.chosen
        else "that of the most accurate of the narrower rounds, none of which was chosen"
    )
    terms = {
        f"standard, {name}, uniform": (
            f"{begun}; {narrowed}; and the standard one with all widths narrowed alike to about as many parameters as "
            f"the {name} one."
        ),
        "uniform-macs": f"The same, narrowed alike to about as many multiply-adds as the {name} one.",
        "shrunk, tuned": (
            "The trained standard network of each seed without the filters that it misses least, as many parameters "
            "left as the search was to keep, what reads them refitted on unlabelled images of the training part, with "
            f"no training; and the same trained for {counted(TUNING_EPOCHS, 'epoch')} more, at {TUNING_SHARE:g} of the "
            "learning rate. Each seed’s network has widths of its own, so that costs are means and layers are not "
            "measured."
        ),
    }
    names = {each.name for each in findings.candidates}
    return {term: text for term, text in terms.items() if names.issuperset(term.split(", "))}


def _comparison_in_words(similarity: Similarity) -> str:
    if similarity.name == "cosine":
        return "by their cosine"
    return "as SSIM compares patches of images, by luminance, contrast and structure"


def _eps_in_words(psi: Similarity) -> str:
    """What eps is in this experiment, and what follows from it."""
    constant = f"A small constant in each of the three factors. Here λ is measured at {psi.in_words()}"
    if psi.depends_on_scale:
        return f"{constant}: it falls as weights grow, and a layer of tiny weights is redundant whatever their shape."
    return f"{constant}: it does not depend on how large the weights are."


def _colours_in_words(findings: Findings) -> str:
    """What red and amber are, as on the page of `ckrm measure`."""
    pairs = f"Red are pairs of filters with Ψ above {findings.threshold:g}; blue, in the squares, are the pairs below."
    if not findings.similarity.depends_on_scale:
        return f"{pairs} A layer’s λ is red where its filters repeat each other’s shape: where it is not within target."
    return (
        f"{pairs} A layer’s λ is red where its filters repeat each other’s shape, so that its scale-free λ is above "
        "what a layer within target has, and amber where only its small weights make it redundant."
    )


def _with_code(text: str) -> Markup:
    """The text with what stands between backticks as code."""
    parts = [
        Markup("<code>{}</code>").format(part) if at % 2 else escape(part) for at, part in enumerate(text.split("`"))
    ]
    return Markup("").join(parts)


def _written_with() -> str:
    """The versions of what drew the page."""
    return ", ".join(f"{name} {version}" for name, version in versions("scipy", "matplotlib").items())
