"""A report as one HTML page."""

from __future__ import annotations

from itertools import groupby
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from ckrm_kernels.presentation.grid import Column
from ckrm_kernels.presentation.markup import render
from ckrm_kernels.report.columns import columns, finding, note, place, shape, shown_name, similarity_word
from ckrm_kernels.report.words import explanations, grouped, heading, provenance, verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckrm_kernels.report.result import LayerRedundancy, RedundancyReport

_FIRST = ("layer", "finding")  # columns, before the distributions
_BELOW_THE_NAME = ("kind", "note")


def page(report: RedundancyReport) -> str:
    """A page of one table with the distribution of Omega in each row, the skipped layers by reasons, and what it means.

    Its script, page.js, sorts, filters and enlarges; without it the page is the same table.
    """
    measured = report.measured
    every = [column for column in columns(report, measured) if column.key not in _BELOW_THE_NAME]
    first = [column for column in every if column.key in _FIRST]
    rest = [column for column in every if column.key not in _FIRST]
    setting, *notes = heading(report)
    rendered = render(
        __file__,
        title=f"Redundancy in {_sources(report)}",
        verdict=verdict(report),
        heading=[_greek(setting), *notes],
        columns=[_column(column) for column in (*first, *rest)],
        first=len(first),
        groups=[(group, len(list(same))) for group, same in groupby(column.group for column in rest)],
        threshold=report.threshold,
        at=place(report, report.threshold),
        lowest=report.similarity.lowest,
        word=_greek(similarity_word(report)),
        layers=[_row(layer, [*first, *rest], report) for layer in measured],
        skipped=[
            (reason, [(shown_name(layer), layer.kind, shape(layer), note(layer)) for layer in same])
            for reason, same in grouped([layer for layer in report.layers if layer.status == "skipped"])
        ],
        terms={term: _greek(text) for term, text in explanations(report).items()},
        provenance=provenance(report),
    )
    return str(rendered)  # no `Markup`, which would escape what is added to it


def _greek(text: str) -> str:
    """Words of this package, not names, as the table's head has them."""
    return text.replace("lambda", "λ").replace("Psi", "Ψ")


def _sources(report: RedundancyReport) -> str:
    """The names of what was measured, without their folders."""
    names = [PurePath(source.name).name for source in report.sources]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "") or "a model's layers"


def _column(column: Column[LayerRedundancy]) -> dict[str, Any]:
    """What the template shows above a column, and as a label in a row where there is no head."""
    head = _greek(column.head)
    return {
        "key": column.key,
        "head": head,
        "label": f"{head}, {column.group}" if column.group else head,
        "is_word": column.is_word,
    }


def _row(layer: LayerRedundancy, shown: Sequence[Column[LayerRedundancy]], report: RedundancyReport) -> dict[str, Any]:
    """What the template shows of a measured layer. bars: the histogram's, none where there is no pair"""
    histogram = layer.histogram or ()
    above = round(sum(layer.per_model) * layer.pairs)
    models = f" in {report.models} models" if report.models > 1 else ""
    limit = f"{_greek(similarity_word(report))} above {report.threshold:g}"
    return {
        "name": shown_name(layer),
        "about": "; ".join(filter(None, (layer.kind, note(layer)))),
        "finding": finding(layer),
        "cells": [column.text(layer) for column in shown],
        "bars": _bars(histogram, place(report, report.threshold)),
        "counts": " ".join(map(str, histogram)),
        "in_words": f"{sum(histogram):,} pairs of filters{models}, {above:,} of them with {limit}",
    }


def _bars(histogram: tuple[int, ...], threshold: float) -> dict[str, str]:
    """Paths of the bars below and of those above the threshold, on a base line at 20, all of them 100 wide.

    threshold: its place between the histogram's ends, from 0 to 1
    """
    width = 100 / max(len(histogram), 1)
    bars = {"below": "", "redundant": ""}
    for index, count in enumerate(histogram):
        if count:
            height = max(19 * count / max(histogram), 0.4)
            above = index * width >= 100 * threshold - 1e-6
            bars["redundant" if above else "below"] += f"M{index * width:g} 20v{-height:.3g}h{width:g}v{height:.3g}z"
    return bars if any(histogram) else {}
