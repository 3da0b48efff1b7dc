"""One metric of all candidates, in the form of the paper's Fig. 1, with each network's value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ckrm_kernels.presentation.drawing import MARGIN, TYPE, WIDTH, new_figure, plain
from ckrm_kernels.presentation.theme import LIGHT

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_HEIGHT = 2.9  # inches
_BOX, _DOTS = 0.46, 0.15  # widths, where 1 is a candidate's
_LEAST_GROUPS = 3  # for which there is room
_SIDE_BY_SIDE = 4  # groups whose names have room on one line
_LEAST_RANGE = 0.002  # of the vertical axis
_LEAST_ROOM = 0.08  # above the highest value, where 1 is half the range: that of its dot


def box_plots(title: str, groups: Sequence[tuple[str, Sequence[float]]]) -> Figure:
    """A box for each group: quartiles, whiskers to the ends, a dot for each network. A single network has only its dot.

    groups: a candidate's name, and one value in [0, 1] for each of its networks
    """
    figure = new_figure(_HEIGHT)
    lower = len(groups) > _SIDE_BY_SIDE  # every second name stands on a second line
    bottom = 0.155 if lower else 0.11
    axes = figure.add_axes((0.165, bottom, 0.795, 0.87 - bottom))
    plain(axes)
    for place, (name, values) in enumerate(groups):
        if len(values) > 1:
            _box(axes, place, values, LIGHT[name])
        spread = [place + _DOTS * (2 * index / max(len(values) - 1, 1) - 1) for index in range(len(values))]
        places = spread if len(values) > 1 else [place]
        axes.scatter(places, values, s=22, color=LIGHT[name], edgecolors=LIGHT["back"], linewidths=0.8, zorder=3)
    middle, half = (len(groups) - 1) / 2, max(len(groups), _LEAST_GROUPS) / 2 + 0.1
    axes.set_xlim(middle - half, middle + half)
    names = [f"\n{name}" if lower and place % 2 else name for place, (name, _) in enumerate(groups)]
    axes.set_xticks(range(len(groups)), names, fontsize=TYPE, color=LIGHT["text"])
    axes.tick_params(axis="x", length=0, pad=7)
    _scale(axes, [value for _, values in groups for value in values])
    figure.text(MARGIN / WIDTH, 0.975, title, fontsize=TYPE + 1, fontweight="bold", color=LIGHT["text"], va="top")
    return figure


def _box(axes: Axes, place: int, values: Sequence[float], colour: str) -> None:
    line = {"color": colour, "linewidth": 1.2}
    axes.boxplot(
        [list(values)],
        positions=[place],
        widths=_BOX,
        whis=(0, 100),
        showfliers=False,
        manage_ticks=False,
        patch_artist=True,
        boxprops={"facecolor": f"{colour}2e", "edgecolor": colour, "linewidth": 1.2},
        medianprops={"color": colour, "linewidth": 2.2, "solid_capstyle": "butt"},
        whiskerprops=line,
        capprops=line,
    )


def _scale(axes: Axes, values: Sequence[float]) -> None:
    """The vertical axis about the values, with a few rules, none beyond 1."""
    from matplotlib.ticker import MaxNLocator

    middle, half = (min(values) + max(values)) / 2, max(max(values) - min(values), _LEAST_RANGE) / 2
    middle = min(middle, 1 - half)
    low, high, room = middle - half, middle + half, 0.24 * half
    axes.set_ylim(low - room, max(min(high + room, 1), high + _LEAST_ROOM * half))
    ticks = [tick for tick in MaxNLocator(5).tick_values(low, high) if low - room <= tick <= min(high + room, 1)]
    decimals = max((len(f"{tick:.5f}".rstrip("0").partition(".")[2]) for tick in ticks), default=1)
    axes.set_yticks(ticks, [f"{tick:.{decimals}f}" for tick in ticks])
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", color=LIGHT["line"], linewidth=0.7)
    axes.set_axisbelow(True)
