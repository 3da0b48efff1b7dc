"""A report as lines of text, within a width or as long as they have to be."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ckrm_kernels.presentation.grid import Line, fitting, lines_of, listed, wrapped
from ckrm_kernels.presentation.tables import aligned
from ckrm_kernels.report.columns import columns, finding, note, shape, shown_name
from ckrm_kernels.report.result import LayerRedundancy, RedundancyReport
from ckrm_kernels.report.words import explanations, grouped, heading, provenance, verdict

_DIGITS = 12  # of a digest, where the width is limited


def table(report: RedundancyReport) -> str:
    """The report as text."""
    return "\n".join(line.text for line in lines(report))


def lines(report: RedundancyReport, width: int | None = None, *, every: bool = False) -> Iterator[Line]:
    """A heading that ends with the verdict, a line a measured layer, one a reason for the others, what words mean.

    width: in characters; where not all fits, the columns that matter least are left out, and then names are shortened
        in their middle; no word is broken
    every: names each layer that was skipped, on a line of its own
    """
    for text in heading(report):
        yield from wrapped(text, width)
    yield from wrapped(verdict(report), width, "verdict")
    measured = report.measured
    shown = fitting(columns(report, measured), measured, width) if measured else []
    if measured:
        yield Line("")
        yield from lines_of(shown, measured, width, finding)
    noted = () if any(column.key == "note" for column in shown) else [layer for layer in measured if note(layer)]
    skipped = [layer for layer in report.layers if layer.status == "skipped"]
    if noted or skipped:
        yield Line("")
    for word, layers in (("measured", noted), ("skipped", skipped)):
        for reason, same in grouped(layers):
            yield from _group(f"{len(same)} {word}: {reason}", same, width, every and word == "skipped")
    yield Line("")
    for word, text in explanations(report).items():
        yield from wrapped(f"{word}: {text}", width, "soft")
    for name, value in provenance(report, None if width is None else _DIGITS):
        yield from wrapped(f"{name}: {value}", width, "soft")


def _group(text: str, layers: Sequence[LayerRedundancy], width: int | None, every: bool) -> Iterator[Line]:
    """What is said of several layers, with a few of their names, or all, each on a line with its kind and shape."""
    if every:
        yield from wrapped(f"{text}:", width)
        own = [note(layer) if note(layer) not in text else "" for layer in layers]
        rows = [(shown_name(layer), layer.kind, shape(layer), each) for layer, each in zip(layers, own, strict=True)]
        for row in aligned(rows, ()).split("\n"):
            yield from wrapped(f"  {row}", width, "soft")
        return
    yield from listed(text, [shown_name(layer) for layer in layers], width)
