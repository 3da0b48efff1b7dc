"""A report as a figure: the distribution of Omega in each layer."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ckrm_kernels.extras import require
from ckrm_kernels.presentation import drawing
from ckrm_kernels.presentation.grid import grid
from ckrm_kernels.presentation.tables import short_names
from ckrm_kernels.presentation.theme import LIGHT
from ckrm_kernels.report.columns import columns, finding, place, shown_name, similarity_word
from ckrm_kernels.report.words import explanations, heading, provenance, verdict

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ckrm_kernels.report.result import LayerRedundancy, RedundancyReport

_AXIS, _NARROWEST, _MARGIN, _GAP = 3.6, 9.0, 0.15, 0.12  # inches: of the axis, the figure, around it, between parts
_HEAD, _SCALE = 0.5, 0.5  # inches, above and below the rows
_ROW, _LOWEST_ROW, _MANY_ROWS = 0.42, 0.2, 40.0  # inches, the last of all rows together
_HIGHEST = 600.0  # inches of all rows: fewer than 2^16 dots, the most that matplotlib draws
_DOTS, _DOTS_OF_MANY = 150, 100  # an inch; the latter of figures with more than 100 rows
_TYPE, _SMALL = 8.0, 6.5  # points
_LINE, _SMALL_LINE = 0.17, 0.125  # inches
_MONOSPACED = 0.64  # width of a character, in the size of the type, where it is rounded up to a dot
_DIGITS = 12  # of a digest
_BLANK = "\N{NO-BREAK SPACE}"  # several of which an SVG file keeps
_LONGEST_NAME = 40
_SHOWN = (
    *("redundancy", "deviation", "chance"),
    *("scale-free redundancy", "scale-free deviation", "scale-free chance", "scale-free distinct"),
    *("dead", "live redundancy", "finding"),
)
_STYLES: dict[str, dict[str, str]] = {
    "repeats": {"color": LIGHT["redundant"], "weight": "bold"},
    "scale": {"color": LIGHT["scale"], "style": "italic"},
    "": {},
}
Point = tuple[float, float]


def figure(report: RedundancyReport) -> Figure:
    """One row a measured layer, the first on top: its distribution of Omega and its numbers, as in the table.

    The verdict stands above, what the words mean and what was measured below. What is above the threshold is red.
    """
    layers, t, at = report.measured, report.threshold, place(report, report.threshold)
    row = _row_height(max(len(layers), 1))
    short = short_names([shown_name(layer) for layer in layers], _LONGEST_NAME)
    names = [f"{name} ({layer.filters})" for name, layer in zip(short, layers, strict=True)]
    above, head, _, *numbers = grid([each for each in columns(report, layers) if each.key in _SHOWN], layers)
    left = _MARGIN + _widest(["layer (filters)", *names]) + _GAP
    right = left + _AXIS + _GAP
    width = max(right + _MONOSPACED * _TYPE / 72 * max(map(len, (head, *numbers))) + _MARGIN, _NARROWEST)
    title = _lines([verdict(report)], width, _TYPE + 1)
    foot = _lines(_foot(report), width, _SMALL)
    top = _MARGIN + _LINE * len(title) + _HEAD
    bottom = top + row * max(len(layers), 1)
    height = bottom + _SCALE + _SMALL_LINE * len(foot) + _MARGIN
    result = drawing.new_figure(height, width, wanted_by="plot")

    def write(x: float, y: float, text: str, **style: Any) -> None:
        """At inches from the figure's left and top."""
        style = {"fontsize": _TYPE, "color": LIGHT["text"], "va": "center", **style}
        result.text(x / width, 1 - y / height, text, parse_math=False, **style)

    axes = result.add_axes((left / width, 1 - bottom / height, _AXIS / width, (bottom - top) / height))
    _draw_distributions(axes, report)
    write(left + at * _AXIS, top - 0.1, f"t = {t:g}", ha="center", color=LIGHT["redundant"])
    write(left - _GAP, top - 0.1, "layer (filters)", ha="right", color=LIGHT["soft"])
    for line, text in enumerate((above, head)):
        write(right, top - 0.26 + 0.16 * line, text.replace(" ", _BLANK), color=LIGHT["soft"], family="monospace")
    size = min(_TYPE, 0.6 * 72 * row)
    for line, (layer, name, text) in enumerate(zip(layers, names, numbers, strict=True)):
        style = {"fontsize": size, **_STYLES[finding(layer)]}
        write(left - _GAP, top + (line + 0.6) * row, name, ha="right", **style)
        write(right, top + (line + 0.6) * row, text.replace(" ", _BLANK), family="monospace", **style)
    for line, text in enumerate(title):
        write(_MARGIN, _MARGIN + _LINE * (line + 0.5), text, fontsize=_TYPE + 1, weight="bold")
    for line, text in enumerate(foot):
        write(_MARGIN, bottom + _SCALE + _SMALL_LINE * (line + 0.5), text, fontsize=_SMALL, color=LIGHT["soft"])
    return result


def figure_file(report: RedundancyReport, drawn: Figure, suffix: str) -> bytes:
    """The figure as a file, with what was measured in its metadata. suffix: a format of matplotlib"""
    facts = [f"{name}: {value}" for name, value in provenance(report)]
    maker = ", ".join(map(" ".join, report.versions.items()))
    metadata: dict[str, Any] = {"Title": verdict(report)}
    if suffix in ("png", "svg"):
        metadata |= {"Description": "\n".join(facts), "Date" if suffix == "svg" else "Creation Time": report.created}
    if suffix == "png":
        metadata["Software"] = maker
    elif suffix == "svg":
        metadata["Creator"] = maker
    elif suffix == "pdf":
        metadata |= {"Subject": "\n".join(facts), "Creator": maker}
    else:
        metadata = {}
    dots = _DOTS if len(report.measured) <= 100 else _DOTS_OF_MANY
    return drawing.figure_file(drawn, suffix, dots_per_inch=dots, metadata=metadata or None)


def _draw_distributions(axes: Axes, report: RedundancyReport) -> None:
    """A histogram on each base line, its bins relative to the layer's fullest. Few artists, however many layers."""
    from matplotlib.collections import PolyCollection

    layers, lowest = report.measured, report.similarity.lowest
    rows = max(len(layers), 1)
    axes.set(xlim=(lowest, 1), ylim=(rows, 0), yticks=[])
    drawing.plain(axes)
    axes.tick_params(labelsize=_TYPE)
    axes.set_xlabel(
        f"{similarity_word(report).replace('Psi', 'Ψ')} of pairs of filters", color=LIGHT["soft"], fontsize=_TYPE
    )
    outlines = [_outlines(layer, line + 1, report.threshold) for line, layer in enumerate(layers)]
    for part, colour in enumerate(("below", "redundant")):
        shapes = [both[part] for both in outlines if both[part]]
        axes.add_collection(PolyCollection(shapes, facecolors=LIGHT[colour], linewidths=0), autolim=False)
    axes.hlines(range(1, rows + 1), lowest, 1, colors=LIGHT["line"], linewidths=0.6, zorder=0)
    axes.axvline(report.threshold, color=LIGHT["redundant"], linewidth=1, linestyle=(0, (4, 3)))
    if not layers:
        axes.text(
            (lowest + 1) / 2,
            0.5,
            "no layer was measured",
            ha="center",
            va="center",
            color=LIGHT["text"],
            fontsize=_TYPE,
        )


def _outlines(layer: LayerRedundancy, base: int, threshold: float) -> tuple[list[Point], list[Point]]:
    """The corners of the bins below and of those above the threshold."""
    parts: tuple[list[Point], list[Point]] = ([], [])
    histogram = layer.histogram or ()
    width, fullest = (1 - layer.lowest) / max(len(histogram), 1), max(histogram, default=0)
    for index, count in enumerate(histogram if fullest else ()):
        top = base - max(0.85 * count / fullest, 0.03 if count else 0)
        low, high = (layer.lowest + edge * width for edge in (index, index + 1))
        part = parts[low >= threshold - 1e-9]
        part.extend(((low, top), (high, top)))
    for part in parts:
        if part:
            part.extend(((part[-1][0], base), (part[0][0], base)))
    return parts


def _row_height(rows: int) -> float:
    """In inches: lower where there are many rows."""
    return min(_ROW, max(_LOWEST_ROW, _MANY_ROWS / rows), _HIGHEST / rows)


def _foot(report: RedundancyReport) -> list[str]:
    """What the words mean, and what was measured."""
    means = [f"{word}: {text}" for word, text in explanations(report).items()]
    return [*heading(report), *means, *(f"{name}: {value}" for name, value in provenance(report, _DIGITS))]


def _lines(texts: Sequence[str], width: float, size: float) -> list[str]:
    """The texts broken between words to what fits beside each other, in type whose characters are 0.62 of it wide."""
    most = int((width - 2 * _MARGIN) * 72 / (0.62 * size))
    return [line for text in texts for line in textwrap.wrap(text, most, break_long_words=False)]


def _widest(texts: Sequence[str]) -> float:
    """Of the longest texts, in inches."""
    with require("plot", "matplotlib"):
        from matplotlib.textpath import TextPath
    longest = sorted(texts, key=len)[-5:]
    widths = (TextPath((0, 0), text.replace("$", "S"), size=_TYPE).get_extents().width for text in longest)
    return 1.15 * max(widths) / 72  # bold ones are wider
