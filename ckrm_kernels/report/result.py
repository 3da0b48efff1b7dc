"""The result of measuring a model: one row a layer."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Literal, overload

from ckrm_kernels.choices import Sort
from ckrm_kernels.sampling import pairs_drawn
from ckrm_kernels.similarity import Similarity
from ckrm_kernels.storage.files import text_or_file, write_atomically

if TYPE_CHECKING:
    import matplotlib.figure
    import pandas

TARGET = 0.01
"""Of lambda^t: what is not above it counts as no redundancy, whatever chance gives."""
Finding = Literal["repeats", "scale", "none"]


def allowed_by_chance(chance: float, pairs: int, models: int) -> float:
    """The largest lambda^t that chance explains: its level, and three standard errors of their difference.

    Of lambda^t, a share of `pairs` in each of the models, and of the chance level, a share of as many as are drawn for
    it, which are at most 4,096 where a layer has more.
    """
    return chance + 3 * math.sqrt(chance * (1 - chance) * (1 / max(pairs, 1) + 1 / max(pairs_drawn(pairs), 1)) / models)


def exceeds_chance(redundancy: float, chance: float, pairs: int, models: int) -> bool:
    """Whether lambda^t over so many pairs in each model is above `TARGET` and above what its chance level allows."""
    return redundancy > max(TARGET, allowed_by_chance(chance, pairs, models))


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
class KernelPatterns:
    """Shares of a layer's spatial kernels, its slices, which `match_patterns` finds near to a known pattern.

    identity, blur, edge: to the identity, to a Gaussian blur or a constant, to an edge detector, of either sign
    zero: all but zero; none: all others
    chance: near to a pattern once the positions in each are permuted
    """

    identity: float
    blur: float
    edge: float
    zero: float
    none: float
    chance: float


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
    histogram, histogram_per_model: number of pairs in equal bins with the edges of `psi_histogram`, of all
        models together and of each; None where skipped
    status, reason: "measured" or "skipped", and why skipped or how compared
    dead, dead_per_model: filters that are all but zero, with a root mean square of at most a hundredth of the layer's,
        their mean and of each model; None where skipped or without details
    live_redundancy, live_chance: means of lambda^t and its chance level among the other filters; None where the former
        are
    scale_free: None where the similarity measured does not depend on scale, where skipped, or without details
    lowest: the edge of the histogram's first bin, -1 of a signed similarity; the last one ends at 1
    patterns: of the spatial kernels, means over the models; None unless asked for, where skipped or K = 1
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
    lowest: float = 0.0
    patterns: KernelPatterns | None = None

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
        models = max(len(self.per_model), 1)
        if exceeds_chance(by_shape.redundancy, by_shape.chance, self.pairs, models):
            return "repeats"
        return "scale" if exceeds_chance(self.redundancy, by_shape.chance, self.pairs, models) else "none"

    def quantile(self, q: float) -> float | None:
        """The q-quantile of Omega, to within one bin of the histogram; None where there is no pair.

        Raises ValueError for a q outside [0, 1].
        """
        if not 0 <= q <= 1:
            raise ValueError(f"q must lie in [0, 1], got {q!r}")
        if not self.histogram or not sum(self.histogram):
            return None
        wanted, below = q * sum(self.histogram), 0
        for index, count in enumerate(self.histogram):
            if count and below + count >= wanted:
                share = (index + max(wanted - below, 0.0) / count) / len(self.histogram)
                return self.lowest + (1 - self.lowest) * share
            below += count
        return 1.0


@dataclass(frozen=True)
class RedundancyReport:
    """Every layer of a model, or of several models of one structure, with its redundancy.

    layers: a row for every layer with a weight, in the model's order
    threshold: t of lambda^t
    models: how many were measured
    similarity: what was computed
    pointwise: what was done with layers whose slices are single numbers, see `measure`
    sources: what was measured, one for each model or file
    notes: what is to be known of how the sources were read
    created: when, in UTC, as ISO 8601
    versions: of the packages that decide the numbers, by their names
    whole: the report that this one shows the first rows of, see `selected`
    """

    layers: tuple[LayerRedundancy, ...]
    threshold: float
    models: int
    similarity: Similarity
    pointwise: str = "skip"
    sources: tuple[Source, ...] = ()
    notes: tuple[str, ...] = ()
    created: str = field(default="", compare=False)
    versions: dict[str, str] = field(default_factory=dict)
    whole: RedundancyReport | None = field(default=None, repr=False)

    @property
    def measured(self) -> tuple[LayerRedundancy, ...]:
        """The rows that were measured."""
        return tuple(layer for layer in self.layers if layer.status == "measured")

    def selected(self, pattern: str = "*", *, sort: Sort = "model", top: int | None = None) -> RedundancyReport:
        """The report of some of its layers, such as `print(report.selected(top=10, sort="excess"))`.

        pattern: a part of the layers' names, or a glob such as "layer1.*.conv?"
        sort: by what, the largest first; "model" is the order in the model, "name" begins with A and "distinct" with
            the smallest share of distinct filters; "excess" is scale-free lambda^t less its chance level
        top: so many of the measured layers, the first; what is said of the model stays as it is
        Raises ValueError where no layer's name fits, and for a sort or a top that there is not.
        """
        from ckrm_kernels.report.selection import selected

        return selected(self, pattern, sort, top)

    def __str__(self) -> str:
        from ckrm_kernels.report.table import table

        return table(self)

    @overload
    def to_json(self, path: None = None) -> str: ...
    @overload
    def to_json(self, path: str | PathLike[str]) -> None: ...
    def to_json(self, path: str | PathLike[str] | None = None) -> str | None:
        """The report as JSON: its fields, `verdict` in words, and the layers with `finding` and `median_psi`.

        path: where to write it; without one, it is returned
        """
        from ckrm_kernels.report.data import as_json

        return text_or_file(as_json(self), path)

    @overload
    def to_csv(self, path: None = None) -> str: ...
    @overload
    def to_csv(self, path: str | PathLike[str]) -> None: ...
    def to_csv(self, path: str | PathLike[str] | None = None) -> str | None:
        """The report as CSV, a row a layer: the fields of `LayerRedundancy` but the histograms, finding, median_psi.

        Fields of `ScaleFreeRedundancy` begin with scale_free_, those of `KernelPatterns`, if asked for, with patterns_.
        The values of the models are in one field, divided by blanks. What holds for all layers is in the last columns
        of every row, so that a reader needs no second file: threshold, models, similarity, pointwise, sources, notes,
        created and versions.
        path: where to write it; without one, it is returned
        """
        from ckrm_kernels.report.data import as_csv

        return text_or_file(as_csv(self), path)

    def to_pandas(self) -> pandas.DataFrame:
        """The report as a DataFrame, a row a layer; the extra `report` installs pandas.

        What holds for all layers is in its `attrs`, as in `to_json`.
        """
        from ckrm_kernels.report.data import frame

        return frame(self)

    @overload
    def to_html(self, path: None = None) -> str: ...
    @overload
    def to_html(self, path: str | PathLike[str]) -> None: ...
    def to_html(self, path: str | PathLike[str] | None = None) -> str | None:
        """The report as one HTML page that needs nothing else; its script only sorts, filters and enlarges.

        path: where to write it; without one, it is returned
        """
        from ckrm_kernels.report.page import page

        return text_or_file(page(self), path)

    def plot(self, path: str | PathLike[str] | None = None) -> matplotlib.figure.Figure:
        """The distribution of Omega in each measured layer; the extra `report` installs matplotlib.

        path: where to write it as well, ending in .png, .pdf, .svg or another format of matplotlib, with what was
            measured in the file's metadata
        """
        from ckrm_kernels.report.figure import figure, figure_file

        result = figure(self)
        if path is not None:
            write_atomically(Path(path), figure_file(self, result, Path(path).suffix[1:].lower()))
        return result
