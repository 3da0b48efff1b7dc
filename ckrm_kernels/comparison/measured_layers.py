"""The redundancy of a network's layers over its seeds, at one psi and its neighbours: what rules and reports go by."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

import torch
from torch import nn

from ckrm_kernels.layers import model_layers
from ckrm_kernels.measurement import measure_layers
from ckrm_kernels.report import LayerRedundancy
from ckrm_kernels.report.result import ScaleFreeRedundancy, allowed_by_chance
from ckrm_kernels.similarity import Similarity

BINS = 50
CONFIGURED, SMALLER_EPS, SCALE_FREE = "configured", "smaller_eps", "scale_free"


@dataclass(frozen=True)
class Level:
    """lambda of one layer at one psi: in each of the networks, and the mean chance level."""

    per_model: tuple[float, ...]
    chance: float

    @property
    def mean(self) -> float:
        """Over the networks."""
        return statistics.fmean(self.per_model)


@dataclass(frozen=True)
class MeasuredLayer:
    """One layer of several networks of one structure, trained from different seeds.

    name, filters, slices, kernel_size: of the layer; pairs: of its filters
    distinct: for each network the number of filters left when repeats are merged, at the configured psi
    levels: lambda by the names of `psi_settings`
    histograms: for each network the number of pairs by Psi, in `BINS` equal bins over its values, at the configured psi
    """

    name: str
    filters: int
    slices: int
    kernel_size: tuple[int, ...]
    pairs: int
    distinct: tuple[int, ...]
    levels: dict[str, Level]
    histograms: tuple[tuple[int, ...], ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """(F2, F1, *K)."""
        return (self.filters, self.slices, *self.kernel_size)

    @property
    def configured(self) -> Level:
        """lambda at the configured psi."""
        return self.levels[CONFIGURED]

    @property
    def scale_free(self) -> Level:
        """lambda at the configured psi made scale-free; that at the configured one where both are the same."""
        return self.levels.get(SCALE_FREE, self.configured)

    @property
    def allowed(self) -> float:
        """The scale-free chance level, and three standard errors that shares of so few pairs have."""
        return allowed_by_chance(self.scale_free.chance, self.pairs, len(self.histograms))

    def is_within(self, target: float) -> bool:
        """Whether lambda at the configured psi is at most the target, or at most what is allowed."""
        return self.configured.mean <= max(target, self.allowed)


def psi_settings(psi: Similarity) -> dict[str, Similarity]:
    """The configured psi between its neighbours: at a hundredth of its eps, and scale-free; none that is the same."""
    settings = {CONFIGURED: psi}
    if psi.has_eps:
        settings = {SMALLER_EPS: replace(psi, eps=float(Decimal(repr(psi.eps)) / 100)), **settings}
    if psi.depends_on_scale:
        settings[SCALE_FREE] = replace(psi, scale_free=True)
    return settings


def names_of_settings(psi: Similarity) -> dict[str, str]:
    """What tables call the settings of `psi_settings`."""
    words = {name: each.in_words() for name, each in psi_settings(psi).items()}
    return {name: "scale-free" if name == SCALE_FREE else each for name, each in words.items()}


def measure_networks(models: Sequence[nn.Module], threshold: float, psi: Similarity) -> tuple[MeasuredLayer, ...]:
    """The layers of the networks that have slices of more than one number, in order."""
    with torch.no_grad():
        layers = [model_layers(model) for model in models]
    settings = psi_settings(psi)
    measured = measure_layers(layers, threshold, "skip", psi).measured
    levels = {CONFIGURED: [_level(row) for row in measured]}
    if SCALE_FREE in settings:
        levels[SCALE_FREE] = [_level(row.scale_free) for row in measured if row.scale_free is not None]
    if SMALLER_EPS in settings:
        report = measure_layers(layers, threshold, "skip", settings[SMALLER_EPS], scale_free_beside=False)
        levels[SMALLER_EPS] = [_level(row) for row in report.measured]
    by_layer = zip(*(levels[name] for name in settings), strict=True)
    return tuple(
        _measured_layer(row, dict(zip(settings, each, strict=True)))
        for row, each in zip(measured, by_layer, strict=True)
    )


def majority(distinct: Sequence[int]) -> int:
    """The number of filters that more than half of the networks do with."""
    return sorted(distinct)[len(distinct) // 2]


def _level(row: LayerRedundancy | ScaleFreeRedundancy) -> Level:
    return Level(row.per_model, row.chance or 0.0)


def _measured_layer(row: LayerRedundancy, levels: dict[str, Level]) -> MeasuredLayer:
    assert row.filters is not None
    assert row.slices is not None
    assert row.kernel_size is not None
    return MeasuredLayer(
        row.name,
        row.filters,
        row.slices,
        row.kernel_size,
        row.pairs,
        row.distinct_per_model,
        levels,
        tuple(_in_bins(histogram) for histogram in row.histogram_per_model),
    )


def _in_bins(histogram: Sequence[int]) -> tuple[int, ...]:
    """The histogram of a report in `BINS` bins, each a whole number of its own."""
    together = len(histogram) // BINS
    return tuple(sum(histogram[start : start + together]) for start in range(0, len(histogram), together))
