"""The redundancy of a network's layers over its seeds, at several eps: what the width rules and the report go by."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from ckrm_kernels.distribution import psi_histogram
from ckrm_kernels.functional import PsiOptions
from ckrm_kernels.groups import redundant_groups
from ckrm_kernels.measurement import measure
from ckrm_kernels.report import LayerRedundancy

BINS = 50
ABSOLUTE, TINY, SCALE_FREE = "eps 1e-4", "eps 1e-6", "scale-free"
PSI_SETTINGS: dict[str, PsiOptions] = {
    TINY: {"eps": 1e-6},
    ABSOLUTE: {"eps": 1e-4},
    SCALE_FREE: {"eps": 1e-4, "scale_free": True},
}


@dataclass(frozen=True)
class Level:
    """lambda of one layer at one eps: in each of the networks, and the mean chance level."""

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
    distinct: for each network the number of filters left when repeats are merged, at eps 1e-4
    levels: lambda by the names of `PSI_SETTINGS`
    histograms: for each network the number of pairs by Psi, in `BINS` equal bins over [0, 1], at eps 1e-4
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
    def allowed(self) -> float:
        """The scale-free chance level, and three standard errors that a share of so few pairs has."""
        chance = self.levels[SCALE_FREE].chance
        pairs = max(self.pairs * len(self.histograms), 1)
        return chance + 3 * math.sqrt(chance * (1 - chance) / pairs)

    def is_within(self, target: float) -> bool:
        """Whether lambda at eps 1e-4 is at most the target, or at most what is allowed."""
        return self.levels[ABSOLUTE].mean <= max(target, self.allowed)


def measure_networks(models: Sequence[nn.Module], threshold: float) -> tuple[MeasuredLayer, ...]:
    """The layers of the networks that have slices of more than one number, in order."""
    reports = {name: measure(list(models), threshold, **options) for name, options in PSI_SETTINGS.items()}
    rows = zip(*(report.layers for report in reports.values()), strict=True)
    return tuple(
        _measured(dict(zip(reports, row, strict=True)), models, threshold)
        for row in rows
        if row[0].status == "measured"
    )


def majority(distinct: Sequence[int]) -> int:
    """The number of filters that more than half of the networks do with."""
    return sorted(distinct)[len(distinct) // 2]


def _measured(rows: dict[str, LayerRedundancy], models: Sequence[nn.Module], threshold: float) -> MeasuredLayer:
    row = rows[ABSOLUTE]
    weights = [model.get_submodule(row.name) for model in models]
    assert row.filters is not None
    assert row.slices is not None
    assert row.kernel_size is not None
    return MeasuredLayer(
        row.name,
        row.filters,
        row.slices,
        row.kernel_size,
        row.pairs,
        tuple(redundant_groups(weight, threshold, **PSI_SETTINGS[ABSOLUTE]).kept.numel() for weight in weights),
        {name: Level(each.per_model, each.chance or 0.0) for name, each in rows.items()},
        tuple(tuple(psi_histogram(weight, BINS, **PSI_SETTINGS[ABSOLUTE]).tolist()) for weight in weights),
    )
