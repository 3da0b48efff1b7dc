"""The figure of a comparison, in the form of the paper's Table 3: Omega of each layer, shrunk beside standard."""

from __future__ import annotations

import math
from collections.abc import Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Literal

from ckrm_kernels.shrinking.comparison import Candidate, spread
from ckrm_kernels.shrinking.measured import ABSOLUTE, MeasuredLayer

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = {"standard": "#3d5a80", "shrunk": "#1b8a7a", "uniform": "#8a6d3b"}
_REDUNDANT, _INK, _SOFT = "#c8374d", "#22262b", "#6b737c"
_COLUMN_WIDTH, _ROW_HEIGHT, _MARGIN = 4.4, 0.92, 1.5  # inches
_BANDWIDTH, _POINTS = 0.015, 201
_HEADROOM = 1.55  # of a panel, over its highest curve, for what is written in it


def comparison_figure(candidates: Sequence[Candidate], threshold: float, target: float) -> Figure:
    """One row a layer and one column a candidate: the distribution of Omega, one curve a seed, lambda written in.

    candidates: of one structure but for their widths, the leftmost first
    threshold, target: lambda of a layer that is not clean is red
    Made by matplotlib's object interface: no window opens and pyplot's state stays as it is.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('the figure needs matplotlib: pip install "ckrm-kernels[report]"') from error
    rows, columns = len(candidates[0].layers), len(candidates)
    size = (_COLUMN_WIDTH * columns + 1.4, _ROW_HEIGHT * rows + _MARGIN)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, squeeze=False)
    widest = max(each.parameters for each in candidates)
    for column, each in enumerate(candidates):
        _title(grid[0, column], each, widest)
        for row, layer in enumerate(each.layers):
            _draw_panel(grid[row, column], layer, threshold, target, _COLOURS[each.name])
        grid[-1, column].set_xlabel("Ψ of a pair of filters", fontsize=9.5, color=_INK)
    for row, layer in enumerate(candidates[0].layers):
        grid[row, 0].set_ylabel(layer.name, rotation=0, ha="right", va="center", fontsize=10, labelpad=10, color=_INK)
    seeds = len(candidates[0].scores)
    curves = f"one curve for each of {seeds} seeds" if seeds > 1 else "one seed"
    figure.suptitle(
        f"Distribution of Ω in each layer, smoothed, {curves}; pairs in the shaded part are redundant",
        fontsize=10,
        color=_SOFT,
    )
    return figure


def figure_png(figure: Figure, dots_per_inch: int = 130) -> bytes:
    """The figure as a PNG file's bytes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=dots_per_inch)
    return buffer.getvalue()


def _title(axes: Axes, candidate: Candidate, widest: int) -> None:
    """The column's head: the network's name, and its size below."""
    share = f" ({candidate.parameters / widest:.1%})" if candidate.parameters < widest else ""
    axes.set_title(f"{candidate.name.capitalize()} network\n", fontsize=12.5, fontweight="bold", color=_INK)
    size = f"{candidate.parameters:,} parameters{share}"
    axes.text(0.5, 1.07, size, transform=axes.transAxes, ha="center", va="bottom", fontsize=9.5, color=_SOFT)


def _draw_panel(axes: Axes, layer: MeasuredLayer, threshold: float, target: float, colour: str) -> None:
    """One layer of one network, the highest curve scaled to the same height in every panel."""
    axes.axvspan(threshold, 1, color=_REDUNDANT, alpha=0.07, linewidth=0)
    axes.axvline(threshold, color=_REDUNDANT, linewidth=0.9, linestyle=(0, (4, 3)))
    curves = [_smoothed(histogram) for histogram in layer.histograms]
    highest = max(max(curve) for curve in curves) or 1.0
    places = [point / (_POINTS - 1) for point in range(_POINTS)]
    for curve in curves:
        heights = [value / highest for value in curve]
        axes.fill_between(places, heights, color=colour, alpha=0.13, linewidth=0)
        axes.plot(places, heights, color=colour, linewidth=1.2, alpha=0.9)
    level, shape = layer.levels[ABSOLUTE], "×".join(map(str, (layer.filters, layer.slices, *layer.kernel_size)))  # noqa: RUF001
    written = rf"$\lambda^{{{threshold:g}}}$ = {level.mean:.3f} ± {spread(level.per_seed):.3f}"
    _write(axes, 0.985, "right", written, 10, _INK if layer.is_clean(target) else _REDUNDANT)
    _write(axes, 0.012, "left", shape, 8.5, _SOFT)
    axes.set(xlim=(0, 1), ylim=(0, _HEADROOM), yticks=[])
    axes.tick_params(axis="x", labelsize=8.5, color="#b8bec6", labelcolor=_INK)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color("#b8bec6")


def _write(axes: Axes, x: float, side: Literal["left", "right"], text: str, size: float, colour: str) -> None:
    """Writes into a panel, at its top."""
    axes.text(x, 0.95, text, transform=axes.transAxes, ha=side, va="top", fontsize=size, color=colour)


def _smoothed(histogram: Sequence[int]) -> list[float]:
    """The density at equal steps over [0, 1]: each bin spread by a Gaussian, reflected at both ends."""
    total, bins = max(sum(histogram), 1), len(histogram)
    centres = [((place + 0.5) / bins, count / total) for place, count in enumerate(histogram) if count]

    def density(x: float) -> float:
        images = ((x - c, share) for centre, share in centres for c in (centre, -centre, 2 - centre))
        return sum(share * math.exp(-((d / _BANDWIDTH) ** 2) / 2) for d, share in images)

    return [density(point / (_POINTS - 1)) for point in range(_POINTS)]
