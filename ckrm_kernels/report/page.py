"""A report as one HTML page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ckrm_kernels.presentation.markup import render
from ckrm_kernels.report.table import WORDS, cells, columns, heading

if TYPE_CHECKING:
    from ckrm_kernels.report.result import LayerRedundancy, RedundancyReport

_OF_SKIPPED = ("kind", "filters", "slices", "kernel")  # columns; a note takes the place of the others
_EXPLANATION = (
    "Chance is the same layer's redundancy with the positions in every slice permuted; a redundancy above it is bold. "
    "Pairs with Psi above the threshold are red."
)


def page(report: RedundancyReport) -> str:
    """A page of one table, with a small histogram of Omega in each measured row."""
    return render(
        __file__,
        title="Redundancy of a model's layers",
        explanation=f"{heading(report)} {_EXPLANATION}",
        columns=columns(report),
        words=WORDS,
        threshold=report.threshold,
        layers=[_row(layer, report) for layer in report.layers],
    )


def _row(layer: LayerRedundancy, report: RedundancyReport) -> dict[str, Any]:
    """What the template shows of a layer. bars: the histogram's, none where there is no pair"""
    cell_of = dict(zip(columns(report), cells(layer, report), strict=True))
    skipped = layer.status == "skipped"
    shown = _OF_SKIPPED if skipped else columns(report)[1:]
    return {
        "status": layer.status,
        "name": cell_of["layer"],
        "cells": [(column, cell_of[column]) for column in shown],
        "note": cell_of["note"] if skipped else "",
        "above_chance": (layer.finding in ("repeats", "scale")),
        "bars": _bars(layer.histogram or (), report.threshold),
    }


def _bars(histogram: tuple[int, ...], threshold: float) -> dict[str, str]:
    """Paths of the bars below and of those above the threshold, on a base line at 20, where Psi of 1 is 100 wide."""
    width = 100 / max(len(histogram), 1)
    bars = {"below": "", "redundant": ""}
    for index, count in enumerate(histogram):
        if count:
            height = max(19 * count / max(histogram), 0.4)
            above = index * width >= 100 * threshold - 1e-6
            bars["redundant" if above else "below"] += f"M{index * width:g} 20v{-height:.3g}h{width:g}v{height:.3g}z"
    return bars if any(histogram) else {}
