"""The widths of every round of the search, a line each, labelled where it ends."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ckrm_kernels.presentation.drawing import MARGIN, TYPE, WIDTH, new_figure, plain, shortened
from ckrm_kernels.presentation.theme import LIGHT
from ckrm_kernels.width_search.search import Outcome, Round

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LONGEST_NAME = 19
_LEFT, _RIGHT = 42.0, 142.0  # points beside the lines, for the numbers and for the labels
_ABOVE, _BELOW = 48.0, 46.0  # points
_LINE = 13.5  # points from one label to the next
_BESIDE = 2.6  # points between lines of one width
_TITLE = "Width by round of the search"


def widths_path(rounds: Sequence[Round], outcome: Outcome) -> Figure:
    """log2 of each width by round; a redundant width has a filled dot, the lines of equal widths run side by side.

    outcome: names the round whose widths were chosen, or compared all the same
    """
    names = list(rounds[0].widths)
    height = max(190.0, _LINE * (len(names) + 1))
    figure = new_figure((height + _ABOVE + _BELOW) / 72)
    total = height + _ABOVE + _BELOW
    across = 72 * WIDTH
    axes = figure.add_axes((_LEFT / across, _BELOW / total, (across - _LEFT - _RIGHT) / across, height / total))
    plain(axes)
    levels = [math.log2(width) for each in rounds for width in each.widths.values()]
    low, high = min(levels) - 0.4, max(levels) + 0.4
    axes.set(xlim=(-0.2, len(rounds) - 0.8), ylim=(low, high))
    unit = (high - low) / height  # a point on the paper, in doublings
    for name in names:
        _line(axes, rounds, name, unit, LIGHT["searched" if outcome.chosen else "narrower"])
    _labels(axes, rounds, unit, (low, high))
    powers = range(math.ceil(low), math.floor(high) + 1)
    axes.set_yticks(powers, [str(2**power) for power in powers])
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", color=LIGHT["line"], linewidth=0.7)
    axes.set_axisbelow(True)
    labels = {outcome.compared: "chosen" if outcome.chosen else "compared", 0: "standard"}
    axes.set_xticks(range(len(rounds)), [f"{place}\n{labels.get(place, '')}" for place in range(len(rounds))])
    top = 1 - 8 / total
    figure.text(MARGIN / WIDTH, top, _TITLE, fontsize=TYPE + 1, fontweight="bold", color=LIGHT["text"], va="top")
    _legend(figure, top - 24 / total)
    return figure


def spread_apart(places: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """The nearest places, in the squares' sense, that keep the order, a gap between each other, and low to high.

    places: ascending; they must fit: (len - 1) * gap <= high - low
    """
    blocks: list[tuple[float, int]] = []  # mean and number of the labels that touch, less their gaps
    for index, place in enumerate(places):
        mean, count = place - index * gap, 1
        while blocks and blocks[-1][0] > mean:
            other, number = blocks.pop()
            mean, count = (mean * count + other * number) / (count + number), count + number
        blocks.append((mean, count))
    last = high - (len(places) - 1) * gap
    apart = [min(max(mean, low), last) for mean, count in blocks for _ in range(count)]
    return [place + index * gap for index, place in enumerate(apart)]


def _line(axes: Axes, rounds: Sequence[Round], name: str, unit: float, of_moved: str) -> None:
    heights = [_height(each, name, unit) for each in rounds]
    moved = _moved(rounds, name)
    colour = of_moved if moved else LIGHT["soft"]
    axes.plot(range(len(rounds)), heights, color=colour, linewidth=1.3 if moved else 0.8, clip_on=False, zorder=2)
    for place, each in enumerate(rounds):
        if name not in each.observations:
            continue
        fill = LIGHT["back"] if each.observations[name].within_target else colour
        axes.plot(place, heights[place], "o", ms=4.2, mfc=fill, mec=colour, mew=1.0, clip_on=False, zorder=3)


def _moved(rounds: Sequence[Round], name: str) -> bool:
    """Whether a width ever changed."""
    return len({each.widths[name] for each in rounds}) > 1


def _height(done: Round, name: str, unit: float) -> float:
    """log2 of the width, moved a little where several widths are equal."""
    width = done.widths[name]
    equal = [other for other, value in done.widths.items() if value == width]
    beside = (len(equal) - 1) / 2 - equal.index(name)
    return math.log2(width) + beside * min(_BESIDE, 0.3 / unit / len(equal)) * unit


def _labels(axes: Axes, rounds: Sequence[Round], unit: float, limits: tuple[float, float]) -> None:
    last, end = rounds[-1], len(rounds) - 1
    ends = sorted((_height(last, name, unit), name) for name in last.widths)
    places = spread_apart([height for height, _ in ends], _LINE * unit, limits[0], limits[1])
    point = (end + 0.4) / (72 * WIDTH - _LEFT - _RIGHT)  # on the paper, in rounds
    for (height, name), place in zip(ends, places, strict=True):
        axes.plot(
            [end + 5 * point, end + 16 * point, end + 19 * point],
            [height, place, place],
            color=LIGHT["line"],
            linewidth=0.8,
            clip_on=False,
        )
        axes.text(
            end + 22 * point,
            place,
            f"{last.widths[name]} {shortened(name, _LONGEST_NAME)}",
            fontsize=TYPE,
            color=LIGHT["text" if _moved(rounds, name) else "soft"],
            va="center_baseline",
            parse_math=False,
        )


def _legend(figure: Figure, top: float) -> None:
    from matplotlib.lines import Line2D

    dot: dict[str, Any] = {"linestyle": "none", "marker": "o", "markersize": 4.2}
    handles = [
        Line2D([], [], **dot, markerfacecolor=LIGHT["soft"], markeredgecolor=LIGHT["soft"]),
        Line2D([], [], **dot, markerfacecolor=LIGHT["back"], markeredgecolor=LIGHT["soft"]),
    ]
    figure.legend(
        handles,
        ["redundant", "within target"],
        loc="upper left",
        bbox_to_anchor=(MARGIN / WIDTH, top),
        borderpad=0,
        borderaxespad=0,
        handlelength=0.9,
        ncols=2,
        frameon=False,
        fontsize=TYPE,
        labelcolor=LIGHT["soft"],
        handletextpad=0.4,
        columnspacing=1.2,
    )
