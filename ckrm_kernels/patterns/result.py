"""What kernels were found to look like: one row a layer, and the views of all."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from math import fsum
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, overload

from torch import Tensor

from ckrm_kernels.patterns.bank import NONE, ZERO, family_of
from ckrm_kernels.report.result import KernelPatterns, Source
from ckrm_kernels.storage.files import text_or_file, write_atomically

if TYPE_CHECKING:
    import matplotlib.figure


class Shown(NamedTuple):
    """What a figure draws of a layer.

    kernels: (n, *K) float32, some of them; patterns: the name of each one's; counts: of all of the layer's values, in
        equal bins between -limit and limit
    """

    kernels: Tensor
    patterns: tuple[str, ...]
    limit: float
    counts: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class LayerPatterns:
    """What the spatial kernels of one layer look like.

    name, kind: the module's path and class
    filters, slices, kernel_size: F2, F1 and the kernel's shape; None where the weight is not a convolution's
    status, reason: "measured" or "skipped", and why
    places: (F2, F1) int64, of each kernel the place of its pattern in the report's names, followed by "zero" and "none"
    nearness: (F2, F1), the cosine of each kernel with the pattern that it is nearest to, 0 of a zero one
    shares: of the kernels, by the name of each pattern, "zero" and "none"; they sum to 1
    chance: the share near to any pattern once the positions in each kernel are permuted
    Those from places on are None where the layer was skipped.
    """

    name: str
    kind: str
    filters: int | None
    slices: int | None
    kernel_size: tuple[int, ...] | None
    status: Literal["measured", "skipped"]
    reason: str
    places: Tensor | None = None
    nearness: Tensor | None = None
    shares: dict[str, float] | None = None
    chance: float | None = None
    shown: Shown | None = field(default=None, repr=False)

    @property
    def kernels(self) -> int:
        """How many there are."""
        return (self.filters or 0) * (self.slices or 0)

    @property
    def families(self) -> dict[str, float]:
        """The shares with those of one family together: identity, blur, edge, a bank's own names, zero and none."""
        together: dict[str, list[float]] = {}
        for name, share in (self.shares or {}).items():
            together.setdefault(family_of(name), []).append(share)
        return {family: fsum(shares) for family, shares in together.items()}

    @property
    def most_frequent(self) -> str:
        """The pattern of the most kernels; "" where none has one."""
        patterns = {name: share for name, share in (self.shares or {}).items() if name not in (ZERO, NONE) and share}
        return max(patterns, key=patterns.__getitem__, default="")

    def as_columns(self) -> KernelPatterns:
        """What `measure` shows of it, of the known patterns."""
        of = self.families
        assert self.chance is not None
        return KernelPatterns(of["identity"], of["blur"], of["edge"], of[ZERO], of[NONE], self.chance)


@dataclass(frozen=True, eq=False)
class PatternReport:
    """Every layer of a model, or one weight, with what its kernels look like.

    layers: a row for every layer with a weight, in the model's order
    names: of the patterns compared with
    threshold, signed: see `match_patterns`
    sources, notes: what was measured, and what is to be known of how it was read
    created: when, in UTC, as ISO 8601
    versions: of the packages that decide the numbers, by their names
    """

    layers: tuple[LayerPatterns, ...]
    names: tuple[str, ...]
    threshold: float
    signed: bool
    sources: tuple[Source, ...] = ()
    notes: tuple[str, ...] = ()
    created: str = ""
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def measured(self) -> tuple[LayerPatterns, ...]:
        """The rows of layers whose kernels were compared."""
        return tuple(layer for layer in self.layers if layer.status == "measured")

    def __str__(self) -> str:
        from ckrm_kernels.patterns.table import lines

        return "\n".join(line.text for line in lines(self))

    @overload
    def to_json(self, path: None = None) -> str: ...
    @overload
    def to_json(self, path: str | PathLike[str]) -> None: ...
    def to_json(self, path: str | PathLike[str] | None = None) -> str | None:
        """The report as JSON: its fields without those of single kernels, and the layers with their families.

        path: where to write it; without one, it is returned
        """
        return text_or_file(json.dumps(_plain(self), indent=2, allow_nan=False), path)

    def plot(self, path: str | PathLike[str] | None = None) -> matplotlib.figure.Figure:
        """Kernels of each layer, coloured by pattern, above the distribution of its values (the paper's Figs. 1 to 5).

        At most 24 layers, evenly spread over the model; the extra `report` installs matplotlib.
        path: where to write it as well, ending in .png, .pdf, .svg or another format of matplotlib
        """
        from ckrm_kernels.patterns.figure import figure
        from ckrm_kernels.presentation.drawing import figure_file

        result = figure(self)
        if path is not None:
            write_atomically(Path(path), figure_file(result, Path(path).suffix[1:].lower()))
        return result


def _plain(report: PatternReport) -> dict[str, Any]:
    of_all = ("names", "threshold", "signed", "notes", "created", "versions")
    of_layer = ("name", "kind", "filters", "slices", "kernel_size", "status", "reason", "shares", "families", "chance")
    return {
        **{name: getattr(report, name) for name in of_all},
        "sources": [asdict(source) for source in report.sources],
        "layers": [{name: getattr(layer, name) for name in of_layer} for layer in report.layers],
    }
