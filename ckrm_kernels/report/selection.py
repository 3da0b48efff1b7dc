"""Some layers of a report, in another order."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any, get_args

from ckrm_kernels.choices import Sort
from ckrm_kernels.report.result import LayerRedundancy, RedundancyReport


def selected(report: RedundancyReport, pattern: str, sort: Sort, top: int | None) -> RedundancyReport:
    """See `RedundancyReport.selected`."""
    if sort not in get_args(Sort):
        raise ValueError(f"sort must be one of {', '.join(get_args(Sort))}, got {sort!r}")
    if top is not None and top < 1:
        raise ValueError(f"top must be at least 1, got {top}")
    names = fitting([layer.name for layer in report.layers], pattern)
    layers = [layer for layer in report.layers if layer.name in names]
    if len(layers) < len(report.layers):
        note = f"only the layers whose names fit {pattern!r}, {len(layers)} of {len(report.layers)}"
        report = replace(report, notes=(*report.notes, note))
    if sort != "model":
        layers.sort(key=_ORDERS[sort])
    report = replace(report, layers=tuple(layers))
    if top is None or top >= len(report.measured):
        return report
    note = f"only the first {top} of {len(report.measured)} measured layers, by {sort}"
    return replace(report, layers=report.measured[:top], notes=(*report.notes, note), whole=report)


def fitting(names: Sequence[str], pattern: str) -> set[str]:
    """The names that the pattern is a part of, or fits as a glob; raises ValueError where there is none."""
    found = {name for name in names if pattern in name or fnmatchcase(name, pattern)}
    if names and not found:
        such = ", ".join(name or "'' (the whole)" for name in names[:5])
        raise ValueError(f"no layer's name fits the pattern {pattern!r}; names are such as {such}")
    return found


def excess(layer: LayerRedundancy) -> float | None:
    """lambda^t less its chance level, scale-free where that is known; None without a chance level."""
    by_shape = layer.scale_free or layer
    return None if by_shape.redundancy is None or by_shape.chance is None else by_shape.redundancy - by_shape.chance


def natural(name: str) -> list[tuple[int, str]]:
    """A key that puts block 2 before block 11."""
    parts = re.split(r"([0-9]+)", name)
    return [(len(part.lstrip("0")), part.lstrip("0")) if at % 2 else (0, part) for at, part in enumerate(parts)]


def _largest(value: Callable[[LayerRedundancy], float | None]) -> Callable[[LayerRedundancy], float]:
    def key(layer: LayerRedundancy) -> float:
        found = value(layer)
        return float("inf") if found is None else -found  # what has none comes last

    return key


def _kept(layer: LayerRedundancy) -> float | None:
    """Minus the share of distinct filters."""
    by_shape = layer.scale_free or layer
    return None if by_shape.distinct is None or not layer.filters else -by_shape.distinct / layer.filters


_ORDERS: dict[Sort, Callable[[LayerRedundancy], Any]] = {
    "name": lambda layer: natural(layer.name),
    "redundancy": _largest(lambda layer: layer.redundancy),
    "scale-free": _largest(lambda layer: (layer.scale_free or layer).redundancy),
    "excess": _largest(excess),
    "distinct": _largest(_kept),
    "dead": _largest(lambda layer: layer.dead),
    "filters": _largest(lambda layer: layer.filters),
}
