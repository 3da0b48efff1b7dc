"""Kernels of each layer, coloured by pattern, above the distribution of its values."""

from __future__ import annotations

import textwrap
from itertools import cycle
from math import ceil
from pathlib import PurePath
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ckrm_kernels.patterns.bank import NONE, ZERO, family_of, in_words
from ckrm_kernels.patterns.result import LayerPatterns, PatternReport, Shown
from ckrm_kernels.patterns.table import families, shown_name, summary
from ckrm_kernels.presentation.drawing import new_figure, plain
from ckrm_kernels.presentation.tables import short_names
from ckrm_kernels.presentation.theme import LIGHT, PATTERNS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST, _COLUMNS, _SIDE = 24, 6, 8  # layers, layers side by side, kernels in a row
_OTHERS = ("#c07a1c", "#4d8f2f", "#a3476f", "#2a8fa8", "#6b6bd1")  # of a bank's own patterns
_CELL, _GAP = 24, 3  # dots of a kernel's longer side, between kernels
_WIDTH, _HEIGHT, _LINE, _FOOT = 1.75, 2.6, 0.18, 0.4  # inches: of a layer, of a line of type, below the layers
_LONGEST = 22  # of a layer's name


def figure(report: PatternReport) -> Figure:
    """See `PatternReport.plot`. A kernel's lightness goes from its least weight, dark, to its greatest; 0 is plain."""
    layers = report.measured
    shown = [layers[place * len(layers) // _MOST] for place in range(_MOST)] if len(layers) > _MOST else list(layers)
    columns = min(max(len(shown), 3), _COLUMNS)
    rows = ceil(len(shown) / columns)
    some = f", {len(shown)} of {len(layers)} layers drawn" if len(shown) < len(layers) else ""
    names = "".join(f"{PurePath(source.name).name}: " for source in report.sources[:1])
    title = textwrap.wrap(f"{names}{summary(report).rstrip('.')}{some}.", int(_WIDTH * columns * 12))
    head = 0.2 + _LINE * len(title)
    height = head + _HEIGHT * max(rows, 1) + _FOOT
    result = new_figure(height, _WIDTH * columns, wanted_by="plot")
    for line, words in enumerate(title):
        y = 1 - (0.15 + _LINE * (line + 0.5)) / height
        result.text(0.08 / columns, y, words, fontsize=8.5, weight="bold", color=LIGHT["text"], va="center")
    colours = _colours(report)
    for place, (layer, name) in enumerate(zip(shown, short_names([*map(shown_name, shown)], _LONGEST), strict=True)):
        left, top = place % columns / columns, height - head - place // columns * _HEIGHT
        _draw(result, layer, name, colours, (left + 0.08 / columns, top, 0.84 / columns))
    _legend(result, colours)
    return result


def _colours(report: PatternReport) -> dict[str, str]:
    others = cycle(_OTHERS)
    return {family: PATTERNS.get(family) or next(others) for family in families(report)}


def _draw(
    drawn: Figure, layer: LayerPatterns, name: str, colours: dict[str, str], place: tuple[float, float, float]
) -> None:
    """place: left as a share, top in inches, width as a share of the figure"""
    left, top, width = place
    height = drawn.get_figheight()
    assert layer.shown is not None
    side = width * drawn.get_figwidth()
    kernels = drawn.add_axes((left, (top - 0.42 - side) / height, width, side / height))
    kernels.imshow(_mosaic(layer.shown, colours), interpolation="nearest", aspect="equal", resample=False)
    kernels.set_axis_off()
    kernels.set_anchor("NW")
    size = f"{layer.kernels:,} of {in_words(layer.kernel_size or ())}"
    for line, (text, colour) in enumerate(((name, LIGHT["text"]), (size, LIGHT["soft"]))):
        y = (top - 0.14 - 0.15 * line) / height
        drawn.text(left, y, text, fontsize=7.5, color=colour, va="center", parse_math=False)
    _distribution(drawn.add_axes((left, (top - 0.42 - side - 0.48) / height, width, 0.4 / height)), layer.shown)


def _mosaic(shown: Shown, colours: dict[str, str]) -> NDArray[np.float64]:
    """(rows, columns, 3): the kernels beside each other on the paper's colour."""
    pictures = [_plane(kernel) for kernel in shown.kernels.numpy()]
    rows, columns = pictures[0].shape
    dots = max(_CELL // max(rows, columns), 1)
    cell = (rows * dots, columns * dots)
    across = max(round((_SIDE * _SIDE * cell[0] / cell[1]) ** 0.5), 1) if cell[0] != cell[1] else _SIDE
    down = ceil(len(pictures) / across)
    result = np.ones((down * (cell[0] + _GAP) - _GAP, across * (cell[1] + _GAP) - _GAP, 3))
    for index, (picture, name) in enumerate(zip(pictures, shown.patterns, strict=True)):
        family = family_of(name)
        values = np.zeros_like(picture) if family == ZERO else picture / (np.abs(picture).max() or 1.0)
        tile = _coloured(values, colours[family]).repeat(dots, 0).repeat(dots, 1)
        y, x = index // across * (cell[0] + _GAP), index % across * (cell[1] + _GAP)
        result[y : y + cell[0], x : x + cell[1]] = tile
    return result


def _plane(kernel: NDArray[np.float32]) -> NDArray[np.float64]:
    """The kernel as a picture: a line as a row as high as can be seen, of a volume its middle."""
    picture = kernel.astype(np.float64)
    while picture.ndim > 2:
        picture = picture[len(picture) // 2]
    if picture.ndim == 1 or 1 in picture.shape:
        return picture.reshape(1, -1).repeat(max(picture.size // 4, 1), 0)
    return picture


def _coloured(values: NDArray[np.float64], colour: str) -> NDArray[np.float64]:
    """Values in [-1, 1] as shades of a colour, dark to light."""
    middle = np.array([int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)])
    dark, light = 0.25 * middle, 1 - 0.2 * (1 - middle)
    share = values[..., None]
    return np.where(share < 0, middle + share * (middle - dark), middle + share * (light - middle))


def _distribution(axes: Axes, shown: Shown) -> None:
    plain(axes)
    counts = np.array(shown.counts, dtype=float)
    edges = np.linspace(-shown.limit, shown.limit, len(counts) + 1)
    axes.bar(edges[:-1], counts, width=edges[1] - edges[0], align="edge", color=LIGHT["below"], linewidth=0)
    axes.set(yticks=[], xticks=[-shown.limit, 0, shown.limit], xlim=(-shown.limit, shown.limit))
    low, _, high = axes.set_xticklabels([f"{-shown.limit:.2g}", "0", f"{shown.limit:.2g}"], fontsize=6)
    low.set_horizontalalignment("left")  # both within the layer's own room
    high.set_horizontalalignment("right")
    axes.tick_params(length=2, pad=1)


def _legend(drawn: Figure, colours: dict[str, str]) -> None:
    from matplotlib.patches import Patch

    words = {NONE: "no pattern"}
    handles = [Patch(color=colour, label=words.get(family, family)) for family, colour in colours.items()]
    drawn.legend(
        handles=handles, loc="lower left", ncols=len(handles), frameon=False, fontsize=8, labelcolor=LIGHT["text"]
    )
