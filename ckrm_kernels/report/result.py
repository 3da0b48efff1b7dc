"""The result of measuring a model: one row a layer."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Literal

from ckrm_kernels.functional import PsiOptions

if TYPE_CHECKING:
    import matplotlib.figure
    import pandas


@dataclass(frozen=True)
class LayerRedundancy:
    """One layer with a weight, measured or skipped.

    The fields per model hold a value for each model, in order, and none where the value for all is None.

    name, kind: the module's path and class
    filters, slices, kernel_size: F2, F1 and the kernel's shape; None where the weight is not a convolution's
    pairs: of filters that were compared, in one model
    redundancy, per_model: lambda^t, its mean and of each model; None where skipped
    deviation: standard deviation (n - 1) of lambda^t over the models; None for a single one
    chance, chance_per_model: lambda^t of the same slices with permuted positions, its mean and of each model; None
        where skipped, K = 1 or without details
    distinct, distinct_per_model: filters left when repeats are merged (`redundant_groups`), their mean and of each
        model; None where skipped or without details
    histogram, histogram_per_model: number of pairs in equal bins over [0, 1] with the edges of `psi_histogram`, of all
        models together and of each; None where skipped
    status, reason: "measured" or "skipped", and why skipped or how compared
    """

    name: str
    kind: str
    filters: int | None
    slices: int | None
    kernel_size: tuple[int, ...] | None
    pairs: int
    redundancy: float | None
    deviation: float | None
    per_model: tuple[float, ...]
    chance: float | None
    chance_per_model: tuple[float, ...]
    distinct: float | None
    distinct_per_model: tuple[int, ...]
    histogram: tuple[int, ...] | None
    histogram_per_model: tuple[tuple[int, ...], ...]
    status: Literal["measured", "skipped"]
    reason: str

    @property
    def above_chance(self) -> bool:
        """Whether lambda^t is known to exceed its chance level."""
        return self.redundancy is not None and self.chance is not None and self.redundancy > self.chance

    def quantile(self, q: float) -> float | None:
        """The q-quantile of Omega, to within one bin of the histogram; None where there is no pair."""
        if not 0 <= q <= 1:
            raise ValueError(f"q must lie in [0, 1], got {q!r}")
        if not self.histogram or not sum(self.histogram):
            return None
        wanted, below = q * sum(self.histogram), 0
        for index, count in enumerate(self.histogram):
            if count and below + count >= wanted:
                return (index + max(wanted - below, 0.0) / count) / len(self.histogram)
            below += count
        return 1.0


@dataclass(frozen=True)
class RedundancyReport:
    """Every layer of a model, or of several models of one structure, with its redundancy.

    layers: a row for every layer with a weight, in the model's order
    threshold: t of lambda^t
    models: how many were measured
    psi: the options that Psi was computed with
    """

    layers: tuple[LayerRedundancy, ...]
    threshold: float
    models: int
    psi: PsiOptions

    @property
    def measured(self) -> tuple[LayerRedundancy, ...]:
        """The rows that were measured."""
        return tuple(layer for layer in self.layers if layer.status == "measured")

    def __str__(self) -> str:
        from ckrm_kernels.report.table import table

        return table(self)

    def to_json(self) -> str:
        """The report as JSON: `threshold`, `models`, `psi` and `layers`, whose keys are those of `LayerRedundancy`."""
        return json.dumps(asdict(self), indent=2, allow_nan=False)

    def to_csv(self) -> str:
        """The report as CSV, a row a layer: the fields of `LayerRedundancy` but the histograms, and median_psi.

        The values of the models are in one field, divided by blanks.
        """
        from ckrm_kernels.report.table import as_csv

        names = [field.name for field in fields(LayerRedundancy)]
        return as_csv(self, [name for name in names if not name.startswith("histogram")])

    def to_pandas(self) -> pandas.DataFrame:
        """The report as a DataFrame, a row a layer; the extra `report` installs pandas."""
        from ckrm_kernels.report.table import frame

        return frame(self)

    def to_html(self) -> str:
        """The report as one self-contained HTML page, without scripts or outside resources."""
        from ckrm_kernels.report.page import page

        return page(self)

    def plot(self) -> matplotlib.figure.Figure:
        """The distribution of Omega in each measured layer; the extra `report` installs matplotlib."""
        from ckrm_kernels.report.figure import figure

        return figure(self)
