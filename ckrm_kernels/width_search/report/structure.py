"""What became of each layer, in the form of the paper's Table 2."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from ckrm_kernels.comparison.candidates import Candidate
from ckrm_kernels.presentation.markup import Table, render
from ckrm_kernels.presentation.numbers import percent, times
from ckrm_kernels.presentation.tables import csv_text
from ckrm_kernels.width_search.findings import Findings


@dataclass(frozen=True)
class Row:
    """A measured layer, the rest of the network, or the whole.

    part: "layer", "rest" or "network"; name: of the layer
    shapes: (F2, F1, *K) in each network; parameters: of the layer's weight, of the rest or of the network
    """

    part: str
    name: str
    shapes: tuple[tuple[int, ...], ...]
    parameters: tuple[int, ...]


def structure_rows(candidates: Sequence[Candidate]) -> list[Row]:
    """A row for each measured layer, one for all else, and the sum.

    candidates: of one structure but for their widths: standard and, where there is one, searched or narrower
    """
    rows = [
        Row("layer", same[0].name, shapes := tuple(layer.shape for layer in same), tuple(map(math.prod, shapes)))
        for same in zip(*(each.layers for each in candidates), strict=True)
    ]
    whole = tuple(each.parameters for each in candidates)
    rest = tuple(total - sum(row.parameters[place] for row in rows) for place, total in enumerate(whole))
    return [*rows, Row("rest", "", (), rest), Row("network", "", (), whole)]


def structure_section(findings: Findings) -> Markup:
    """The table under its heading."""
    candidates = findings.before_and_after
    rows = structure_rows(candidates)
    narrowed = findings.narrowed.name if findings.narrowed else ""
    cells = [_cells(row, len(candidates), narrowed) for row in rows]
    if narrowed:
        head = ["layer", "standard", narrowed, "parameters", f"parameters, {narrowed}", "kept"]
        caption = "Filters × slices × kernel of each measured layer, and the parameters of its weight"
    else:
        head = ["layer", "standard", "parameters"]
        caption = "The standard network, which the search left as it is"
    note = (
        "Layers whose slices are single numbers (1×1 convolutions, linear layers), normalisation and biases "
        "are not measured and have no row of their own; their widths follow from the layers shown."
    )
    return render(__file__, structure=Table(caption, head, cells[:-2], foot=cells[-2:]), note=note)


def structure_csv(findings: Findings) -> str:
    """A row for each measured layer, for the rest and for the whole network."""
    candidates = findings.before_and_after
    names, empty = [each.name for each in candidates], [""] * len(candidates)
    head = ["part", "layer", *(f"{name}_shape" for name in names), *(f"{name}_parameters" for name in names)]
    rows = [
        [row.part, row.name, *(["x".join(map(str, each)) for each in row.shapes] or empty), *row.parameters]
        for row in structure_rows(candidates)
    ]
    return csv_text(head, rows)


def _cells(row: Row, count: int, narrowed: str) -> list[str]:
    """narrowed: the name of the second network, empty where there is none"""
    named = {"layer": row.name, "rest": "not measured", "network": "whole network"}[row.part]
    numbers = [f"{number:,}" for number in row.parameters]
    kept = [_kept(row.parameters, narrowed)] if narrowed else []
    return [named, *(map(times, row.shapes) if row.shapes else [""] * count), *numbers, *kept]


def _kept(parameters: Sequence[int], network: str) -> Markup:
    """A percentage, and a bar of its length."""
    before, after = parameters
    if not before:
        return Markup("")
    bar = Markup('<span class="bar {}" style="--share:{:.2f}%" aria-hidden="true"></span>')
    return Markup('<span class="kept">{}<span>{}</span></span>').format(
        bar.format(network, 100 * min(after / before, 1)), percent(after, before)
    )
