"""The result of measuring a model: one row a layer."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Literal

from ckrm_kernels.functional import PsiOptions

if TYPE_CHECKING:
    import matplotlib.figure
    import pandas

TARGET = 0.01
"""Of lambda^t: what is not above it counts as no redundancy, whatever chance gives."""
Finding = Literal["repeats", "scale", "none"]


def allowed_by_chance(chance: float, pairs: int) -> float:
    """The largest lambda^t that chance explains: its level, and three standard errors of a share of so many pairs."""
    return chance + 3 * math.sqrt(chance * (1 - chance) / max(pairs, 1))


@dataclass(frozen=True)
class Source:
    """What was measured.

    name: a model's class, or the path of a checkpoint's file; size: of the file, in bytes; sha256: of its content
    weights: which of a file's weights, where it holds several
    """

    name: str
    size: int | None = None
    sha256: str | None = None
    weights: str = ""


@dataclass(frozen=True)
class ScaleFreeRedundancy:
    """What `LayerRedundancy` says of a layer, of the layer divided by its root mean square; see there."""

    redundancy: float
    deviation: float | None
    per_model: tuple[float, ...]
    chance: float | None
    chance_per_model: tuple[float, ...]
    distinct: float
    distinct_per_model: tuple[int, ...]


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
    dead, dead_per_model: filters that are all but zero, with a root mean square of at most a hundredth of the layer's,
        their mean and of each model; None where skipped or without details
    live_redundancy, live_chance: means of lambda^t and its chance level among the other filters; None where the former
        are
    scale_free: None where the psi measured does not depend on scale, where skipped, or without details
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
    dead: float | None = None
    dead_per_model: tuple[int, ...] = ()
    live_redundancy: float | None = None
    live_chance: float | None = None
    scale_free: ScaleFreeRedundancy | None = None

    @property
    def finding(self) -> Finding | None:
        """What lambda^t speaks of; None where no chance level is known. A search for widths goes by the same rule.

        "repeats": filters that repeat each other's shape: scale-free, lambda^t is above `TARGET` and above what its
            chance level allows
        "scale": small weights: only lambda^t as measured is above those
        "none": neither is
        """
        by_shape = self.scale_free or self
        if self.redundancy is None or by_shape.redundancy is None or by_shape.chance is None:
            return None
        limit = max(TARGET, allowed_by_chance(by_shape.chance, self.pairs * max(len(self.per_model), 1)))
        if by_shape.redundancy > limit:
            return "repeats"
        return "scale" if self.redundancy > limit else "none"

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
    pointwise: what was done with layers whose slices are single numbers, see `measure`
    sources: what was measured, one for each model or file
    notes: what is to be known of how the sources were read
    created: when, in UTC, as ISO 8601
    versions: of the packages that decide the numbers, by their names
    """

    layers: tuple[LayerRedundancy, ...]
    threshold: float
    models: int
    psi: PsiOptions
    pointwise: str = "skip"
    sources: tuple[Source, ...] = ()
    notes: tuple[str, ...] = ()
    created: str = field(default="", compare=False)
    versions: dict[str, str] = field(default_factory=dict)

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
