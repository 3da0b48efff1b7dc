"""How a plan is shown: as text, data, a page, a figure."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, overload

from ckrm_kernels.shrinking.rows import ShrunkLayer, Totals
from ckrm_kernels.storage.files import text_or_file, write_atomically

if TYPE_CHECKING:
    import matplotlib.figure
    import pandas
    from torch import nn


class Proven(Protocol):
    """What the proof found of a coupling.

    deviation: largest difference from the network that ignores its filters, of the output's scale
    exact: whether both are one function; where not, as behind a LayerNorm, the reason says why
    """

    @property
    def deviation(self) -> float | None: ...  # noqa: D102
    @property
    def exact(self) -> bool: ...  # noqa: D102
    @property
    def reason(self) -> str: ...  # noqa: D102


class PlanViews:
    """The views of a plan, as `RedundancyReport` has them, of what the plan says. It is for `ShrinkPlan` to inherit."""

    if TYPE_CHECKING:  # fields of the plan; at run time they would be taken for defaults of its own

        @property
        def model(self) -> nn.Module: ...  # noqa: D102
        @property
        def layers(self) -> tuple[ShrunkLayer, ...]: ...  # noqa: D102
        @property
        def before(self) -> Totals: ...  # noqa: D102
        @property
        def after(self) -> Totals: ...  # noqa: D102
        @property
        def proof(self) -> Mapping[str, Proven]: ...  # noqa: D102
        @property
        def deviation(self) -> float | None: ...  # noqa: D102
        @property
        def choose(self) -> str: ...  # noqa: D102
        @property
        def budget(self) -> str: ...  # noqa: D102
        @property
        def notes(self) -> tuple[str, ...]: ...  # noqa: D102
        @property
        def created(self) -> str: ...  # noqa: D102
        @property
        def versions(self) -> Mapping[str, str]: ...  # noqa: D102

    def __str__(self) -> str:
        from ckrm_kernels.shrinking.views.table import table

        return table(self)

    @overload
    def to_json(self, path: None = None) -> str: ...
    @overload
    def to_json(self, path: str | PathLike[str]) -> None: ...
    def to_json(self, path: str | PathLike[str] | None = None) -> str | None:
        """The plan as JSON: what it says of the whole, `verdict` in words, and its layers.

        path: where to write it; without one, it is returned
        """
        from ckrm_kernels.shrinking.views.data import as_json

        return text_or_file(as_json(self), path)

    @overload
    def to_csv(self, path: None = None) -> str: ...
    @overload
    def to_csv(self, path: str | PathLike[str]) -> None: ...
    def to_csv(self, path: str | PathLike[str] | None = None) -> str | None:
        """The plan as CSV, a row a layer with the fields of `ShrunkLayer`, `kept` in one field, divided by blanks.

        path: where to write it; without one, it is returned
        """
        from ckrm_kernels.shrinking.views.data import as_csv

        return text_or_file(as_csv(self), path)

    def to_pandas(self) -> pandas.DataFrame:
        """The plan as a DataFrame, a row a layer; what holds for all is in its `attrs`. Needs the extra `report`."""
        from ckrm_kernels.shrinking.views.data import frame

        return frame(self)

    @overload
    def to_html(self, path: None = None) -> str: ...
    @overload
    def to_html(self, path: str | PathLike[str]) -> None: ...
    def to_html(self, path: str | PathLike[str] | None = None) -> str | None:
        """The plan as one HTML page that needs nothing else and runs no script. Needs the extra `report`.

        path: where to write it; without one, it is returned
        """
        from ckrm_kernels.shrinking.views.page import page

        return text_or_file(page(self), path)

    def plot(self, path: str | PathLike[str] | None = None) -> matplotlib.figure.Figure:
        """The widths before and after, layer by layer; the extra `report` installs matplotlib.

        path: where to write it as well, ending in .png, .pdf, .svg or another format of matplotlib
        """
        from ckrm_kernels.presentation.drawing import figure_file
        from ckrm_kernels.shrinking.views.figure import figure

        result = figure(self)
        if path is not None:
            write_atomically(Path(path), figure_file(result, Path(path).suffix[1:].lower()))
        return result
