"""A report of patterns as lines of text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from ckrm_kernels.patterns.bank import FAMILIES, NONE, ZERO, family_of, in_words
from ckrm_kernels.patterns.result import LayerPatterns, PatternReport
from ckrm_kernels.presentation.grid import Column, Line, fitting, lines_of, listed, wrapped
from ckrm_kernels.presentation.numbers import counted
from ckrm_kernels.presentation.reasons import by_reason
from ckrm_kernels.presentation.tables import printable


def lines(report: PatternReport, width: int | None = None) -> Iterator[Line]:
    """What was compared and the one thing to know, a line a layer, one a reason for those skipped, what words mean."""
    sign = "a kernel and its negative differ" if report.signed else "of either sign"
    yield from wrapped(f"A kernel is of the nearest pattern whose cosine is above {report.threshold:g}; {sign}.", width)
    for note in report.notes:
        yield from wrapped(f"note: {note}", width)
    yield from wrapped(f"{len(report.measured)} of {len(report.layers)} layers measured.", width)
    yield from wrapped(summary(report), width, "verdict")
    if report.measured:
        yield Line("")
        columns = fitting(_columns(report), report.measured, width)
        yield from lines_of(columns, report.measured, width, lambda layer: "")
    skipped = [layer for layer in report.layers if layer.status == "skipped"]
    if skipped:
        yield Line("")
    for reason, same in by_reason(skipped, lambda layer: layer.reason, lambda layer: layer.name):
        yield from listed(f"{len(same)} skipped: {reason}", [shown_name(layer) for layer in same], width)
    yield Line("")
    for word, text in explanations(report).items():
        yield from wrapped(f"{word}: {text}", width, "soft")
    for source in report.sources:
        yield from wrapped(f"measured: {source.name}", width, "soft")


def summary(report: PatternReport) -> str:
    """How many kernels look like a pattern beside chance, which, and how many are zero."""
    kernels = sum(layer.kernels for layer in report.measured)
    if not kernels:
        return "No kernel was compared."
    shares = {family: _over_all(report, _share_of(family)) for family in families(report)}
    near = 1 - shares[ZERO] - shares[NONE]
    chance = _over_all(report, lambda layer: layer.chance or 0.0)
    each = ", ".join(f"{share:.1%} {family}" for family, share in shares.items() if family not in (ZERO, NONE))
    return (
        f"{near:.1%} of {counted(kernels, 'kernel')} look like a pattern ({chance:.1%} by chance): {each}; "
        f"{shares[ZERO]:.1%} are zero."
    )


def explanations(report: PatternReport) -> dict[str, str]:
    """What the words of this report mean."""
    meanings = {
        "identity": "one value in the middle, of either sign",
        "blur": "a Gaussian or a constant, of either sign",
        "edge": "one of six edge detectors, of either sign",
    }
    return {
        **{family: meanings[family] for family in families(report) if family in meanings},
        ZERO: "kernels whose root mean square is at most a hundredth of the layer's",
        "chance": "the share near to any pattern once the positions in each kernel are permuted",
    }


def families(report: PatternReport) -> list[str]:
    """Those of the report's patterns, the known ones first, then zero and none."""
    found = dict.fromkeys(map(family_of, report.names))
    return [
        *(each for each in FAMILIES if each in found),
        *(each for each in found if each not in FAMILIES),
        ZERO,
        NONE,
    ]


def shown_name(layer: LayerPatterns) -> str:
    """The name, with what would move a terminal's cursor written out."""
    return printable(layer.name) or "(whole)"


def _columns(report: PatternReport) -> list[Column[LayerPatterns]]:
    shares = [Column(each, each, "", _percent(_share_of(each)), 2) for each in families(report)]
    return [
        Column("layer", "layer", "", shown_name, 0, True),
        Column("kind", "kind", "", lambda layer: layer.kind, 7, True),
        Column("kernels", "kernels", "", lambda layer: f"{layer.kernels:,}", 4),
        Column("size", "size", "", lambda layer: in_words(layer.kernel_size or ()), 5),
        *shares,
        Column("chance", "chance", "", _percent(lambda layer: layer.chance or 0.0), 3),
        Column("mostly", "mostly", "", lambda layer: layer.most_frequent, 6, True),
    ]


def _share_of(family: str) -> Callable[[LayerPatterns], float]:
    return lambda layer: layer.families.get(family, 0.0)


def _percent(share: Callable[[LayerPatterns], float]) -> Callable[[LayerPatterns], str]:
    return lambda layer: f"{share(layer):.1%}"


def _over_all(report: PatternReport, share: Callable[[LayerPatterns], float]) -> float:
    layers: Sequence[LayerPatterns] = report.measured
    return sum(share(layer) * layer.kernels for layer in layers) / sum(layer.kernels for layer in layers)
