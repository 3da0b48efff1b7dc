"""A report in words: what was measured, the one thing to know of it, what its words mean, and what it was made with."""

from __future__ import annotations

from collections.abc import Sequence

from ckrm_kernels.presentation.numbers import counted, size
from ckrm_kernels.presentation.reasons import by_reason
from ckrm_kernels.report.columns import absolute_group, note, shown_name, similarity_word
from ckrm_kernels.report.result import TARGET, LayerRedundancy, RedundancyReport
from ckrm_kernels.report.selection import excess
from ckrm_kernels.similarity import written

_NAMED = 5  # layers in the verdict
_SOURCES = 8  # shown where space is short


def heading(report: RedundancyReport) -> list[str]:
    """What was measured and with which options, and what is to be known of the sources."""
    word = similarity_word(report)
    share = f"Redundancy (lambda) is the share of pairs of filters with {word} above {report.threshold:g}"
    models = f"; mean of {report.models} models" if report.models > 1 else ""
    whole = report.whole or report
    measured = f"{len(whole.measured)} of {len(whole.layers)} layers measured."
    return [
        f"{share}; {report.similarity.in_words()}{models}.",
        *(f"note: {note}" for note in report.notes),
        measured,
    ]


def verdict(report: RedundancyReport) -> str:
    """The one thing to know: which layers repeat themselves beyond chance, that none does, or that only scale speaks.

    Those with the most excess over chance are named.
    """
    report = report.whole or report
    if not report.measured:
        return _nothing_measured(report)
    known = [layer for layer in report.measured if layer.finding]
    if not known:
        return "No chance level is known, so this does not say whether layers repeat themselves beyond it."
    found = sorted(known, key=lambda layer: -(excess(layer) or 0))
    repeats = [layer for layer in found if layer.finding == "repeats"]
    scale = [layer for layer in known if layer.finding == "scale"]
    others = f"other{'s' * (len(scale) > 1)}" if repeats else f"of {counted(len(known), 'layer')}"
    only_scale = f"in {len(scale)} {others} only scale speaks" if scale else ""
    if repeats:
        verb = "repeat themselves" if len(repeats) > 1 else "repeats itself"
        first = f"{len(repeats)} of {counted(len(known), 'layer')} {verb} beyond chance{_list(repeats)}"
        return f"{first}; {only_scale}." if scale else f"{first}."
    first = "No layer repeats itself beyond chance"
    return f"{first}; {only_scale}{_list(scale)}." if scale else f"{first}."


def explanations(report: RedundancyReport) -> dict[str, str]:
    """What the words and marks mean that the views of this report show, by the word."""
    layers, eps = report.layers, f"eps {written(report.similarity.eps)}"
    found, has_scale_free = {layer.finding for layer in layers}, bool(absolute_group(report))
    by_shape = "scale-free lambda" if has_scale_free else "lambda"
    errors = "by three standard errors"
    terms = {}
    if has_scale_free:
        terms["scale-free"] = "of the layer divided by its root mean square: shapes alone, whatever their scale"
    if found & {"repeats", "scale", "none"}:
        terms["chance"] = "lambda of the same slices with the positions in each permuted"
    if "repeats" in found:
        limit = f"above {TARGET:g} and above its chance level {errors}"
        terms["repeats"] = f"filters repeat each other's shape: {by_shape} is {limit}"
    if "scale" in found:
        limit = f"above {TARGET:g} and above the scale-free chance level {errors}"
        terms["scale"] = f"only lambda at {eps} is {limit}: small weights, which say nothing of shapes"
    if any(layer.distinct is not None for layer in layers):
        terms["distinct"] = "filters left when repeats are merged, where lambda exceeds chance"
    if any(layer.dead for layer in layers):
        alike = ", all alike" if report.similarity.name == "psi" else ""
        terms["dead"] = f"filters that are all but zero{alike}; live: lambda and chance among the others"
    if any(layer.patterns for layer in layers):
        terms["kernels"] = (
            "shares of spatial kernels near to the identity, to a blur, to an edge detector, of either sign, all but "
            "zero, near to none; chance: near to any once the positions in each are permuted"
        )
    return terms


def grouped(layers: Sequence[LayerRedundancy]) -> list[tuple[str, list[LayerRedundancy]]]:
    """The layers by their reasons, the most frequent first; those that differ only in names and numbers together."""
    return by_reason(layers, note, lambda layer: layer.name)


def provenance(report: RedundancyReport, digits: int | None = None) -> list[tuple[str, str]]:
    """What was measured, how, when and with what: names and values.

    digits: in short, with so many of a digest, and a few of many sources
    """
    sources = []
    few = report.sources[:_SOURCES] if digits else report.sources
    for each in few:
        facts = [size(each.size) if each.size is not None else "", each.weights and f"weights {each.weights}"]
        facts.append(f"sha256 {each.sha256[:digits]}{'…' if digits else ''}" if each.sha256 else "")
        sources.append(("measured", ", ".join(filter(None, (each.name, *facts)))))
    if len(few) < len(report.sources):
        sources.append(("measured", f"{len(report.sources) - len(few)} more"))
    settings = f"threshold {report.threshold:g}, {report.similarity.in_words()}, pointwise {report.pointwise}"
    made = [
        ("settings", settings),
        ("date", report.created),
        ("versions", ", ".join(map(" ".join, report.versions.items()))),
    ]
    return [*sources, *((name, value) for name, value in made if value)]


def _nothing_measured(report: RedundancyReport) -> str:
    if not report.layers:
        return "Nothing was measured: there is no layer with a weight."
    text = f"Nothing was measured: {counted(len(report.layers), 'layer')} skipped"
    single = sum("pointwise" in layer.reason for layer in report.layers)
    if not single:
        reasons = {layer.reason for layer in report.layers}
        return f"{text}: {reasons.pop()}." if len(reasons) == 1 else f"{text}."
    return f'{text}, {single} as pointwise, which --pointwise vector measures (in Python, pointwise="vector").'


def _list(layers: Sequence[LayerRedundancy]) -> str:
    more = [f"{len(layers) - _NAMED} more"] if len(layers) > _NAMED else []
    return f": {', '.join([*map(shown_name, layers[:_NAMED]), *more])}"
