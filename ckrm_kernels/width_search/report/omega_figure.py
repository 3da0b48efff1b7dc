"""The figure of a comparison, in the form of the paper's Table 3: Omega of each layer, searched beside standard."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING, Any, Literal

from ckrm_kernels.comparison.candidates import Candidate
from ckrm_kernels.comparison.measured_layers import MeasuredLayer
from ckrm_kernels.comparison.statistics import deviation
from ckrm_kernels.presentation.drawing import MARGIN, TYPE, WIDTH, new_figure, plain, shortened
from ckrm_kernels.presentation.numbers import times
from ckrm_kernels.presentation.theme import LIGHT
from ckrm_kernels.similarity import Similarity

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ROW_HEIGHT, _GAP = 0.98, 0.16  # inches, the gap below each row's own height
_ABOVE, _BELOW, _LINE_HEIGHT = 0.57, 0.5, 0.19  # inches, above without the caption's lines
_LONGEST_NAME, _LONGEST_LINE = 26, 60
_BANDWIDTH, _POINTS = 0.015, 201
_TICKS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)  # as shares of the axis
_HEADROOM = 2.4  # of a panel, over its highest curve, for what is written in it


def comparison_figure(candidates: Sequence[Candidate], threshold: float, psi: Similarity, target: float) -> Figure:
    """One row a layer and one column a candidate: the distribution of Omega, one curve a seed, lambda written in.

    candidates: of one structure but for their widths, the leftmost first
    threshold, psi: of lambda; target: of the search, beyond which lambda is red or, if by scale alone, amber
    """
    rows, columns = len(candidates[0].layers), len(candidates)
    caption = textwrap.wrap(_caption(len(candidates[0].scores), psi), _LONGEST_LINE * columns)
    above = _ABOVE + _LINE_HEIGHT * len(caption)
    width, height = WIDTH * columns, above + _ROW_HEIGHT * rows + _BELOW
    figure = new_figure(height, width)
    widest = max(each.parameters for each in candidates)
    for column, each in enumerate(candidates):
        figure.text(
            _left(column) / width, 1 - 0.1 / height, _head(each, widest), **_text(TYPE + 1, "text"), weight="bold"
        )
    for row, column in product(range(rows), range(columns)):
        bottom, size = (
            height - above - (row + 1) * _ROW_HEIGHT + _GAP,
            (WIDTH - 2 * MARGIN, _ROW_HEIGHT - _GAP),
        )
        axes = figure.add_axes((_left(column) / width, bottom / height, size[0] / width, size[1] / height))
        each = candidates[column]
        _draw_panel(axes, each.layers[row], threshold, psi.lowest, target, LIGHT[each.name])
        axes.tick_params(axis="x", labelbottom=row == rows - 1)
        ticks = [psi.lowest + (1 - psi.lowest) * tick for tick in _TICKS]
        axes.set_xticks(ticks)
        if row == rows - 1:
            axes.set_xticks(ticks, [f"{tick:.2g}" for tick in ticks])
            axes.get_xticklabels()[0].set_horizontalalignment("left")
            axes.get_xticklabels()[-1].set_horizontalalignment("right")
            axes.set_xlabel("Ψ of a pair of filters", fontsize=TYPE, color=LIGHT["soft"])
    figure.text(MARGIN / width, 1 - 0.36 / height, "\n".join(caption), **_text(TYPE, "soft"), linespacing=1.35)
    return figure


def _caption(seeds: int, psi: Similarity) -> str:
    curves = f"one curve for each of {seeds} seeds" if seeds > 1 else "one seed"
    return f"Distribution of Ω at {psi.in_words()}, smoothed, {curves}; pairs in the shaded part are redundant"


def _left(column: int) -> float:
    """Where a column's panels begin, in inches."""
    return column * WIDTH + MARGIN


def _head(candidate: Candidate, widest: int) -> str:
    """The network's name and size."""
    share = f" ({candidate.parameters / widest:.1%})" if candidate.parameters < widest else ""
    return f"{candidate.name.capitalize()} network, {candidate.parameters:,} parameters{share}"


def _text(size: float, colour: str) -> dict[str, Any]:
    return {"fontsize": size, "color": LIGHT[colour], "va": "top", "parse_math": False}


def _draw_panel(axes: Axes, layer: MeasuredLayer, threshold: float, lowest: float, target: float, colour: str) -> None:
    """One layer of one network, the highest curve scaled to the same height in every panel.

    lowest: the least value that a pair can have
    """
    plain(axes)
    axes.axvspan(threshold, 1, color=LIGHT["redundant"], alpha=0.08, linewidth=0)
    axes.axvline(threshold, color=LIGHT["redundant"], linewidth=0.9, linestyle=(0, (4, 3)))
    curves = [_smoothed(histogram) for histogram in layer.histograms]
    highest = max(max(curve) for curve in curves) or 1.0
    places = [lowest + (1 - lowest) * point / (_POINTS - 1) for point in range(_POINTS)]
    for curve in curves:
        heights = [value / highest for value in curve]
        axes.fill_between(places, heights, color=colour, alpha=0.13, linewidth=0)
        axes.plot(places, heights, color=colour, linewidth=1.2, alpha=0.9)
    level = layer.configured
    after_mean = f" ± {deviation(level.per_model):.3f}" if len(level.per_model) > 1 else ""
    _write(axes, 0.0, 0.98, "left", shortened(layer.name, _LONGEST_NAME), "text")
    _write(axes, 0.0, 0.77, "left", times(layer.shape), "soft")
    _write(axes, 0.99, 0.98, "right", f"λ = {level.mean:.3f}{after_mean}", colour_of_level(layer, target))
    _write(axes, 0.99, 0.77, "right", f"chance {level.chance:.3f}", "soft")
    axes.set(xlim=(lowest, 1), ylim=(0, _HEADROOM), yticks=[])


def colour_of_level(layer: MeasuredLayer, target: float) -> Literal["redundant", "scale", "text"]:
    """By the same rule as `LayerRedundancy.finding`: repeated shapes, small weights alone, or neither."""
    if layer.scale_free.mean > max(target, layer.allowed):
        return "redundant"
    return "text" if layer.is_within(target) else "scale"


def _write(axes: Axes, x: float, y: float, side: Literal["left", "right"], text: str, colour: str) -> None:
    """Writes into a panel."""
    axes.text(x, y, text, transform=axes.transAxes, ha=side, **_text(TYPE, colour))


def _smoothed(histogram: Sequence[int]) -> list[float]:
    """The density at equal steps over all bins, their range as 1: each spread by a Gaussian, reflected at both ends."""
    total, bins = max(sum(histogram), 1), len(histogram)
    centres = [((place + 0.5) / bins, count / total) for place, count in enumerate(histogram) if count]

    def density(x: float) -> float:
        images = ((x - c, share) for centre, share in centres for c in (centre, -centre, 2 - centre))
        return sum(share * math.exp(-((d / _BANDWIDTH) ** 2) / 2) for d, share in images)

    return [density(point / (_POINTS - 1)) for point in range(_POINTS)]
