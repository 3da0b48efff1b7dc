"""A report as a figure: the distribution of Omega in each layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ckrm_kernels.presentation.drawing import new_figure, plain, shortened
from ckrm_kernels.presentation.theme import LIGHT
from ckrm_kernels.psi_config import PsiConfig

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ckrm_kernels.report.result import LayerRedundancy, RedundancyReport

_WIDTH, _ROW_HEIGHT, _MARGIN = 8.0, 0.42, 1.5  # inches
_TYPE = 8.0
_LONGEST_NAME = 40
_LAMBDA_AT, _CHANCE_AT, _CHANCE_AFTER_DEVIATION = 12, 54, 96  # points, right of the axis from 0 to 1


def figure(report: RedundancyReport) -> Figure:
    """One row a measured layer, the first on top: its distribution of Omega, lambda and the chance level.

    What is above the threshold is red; a lambda above its chance level is bold.
    """
    layers, t = report.measured, report.threshold
    result = new_figure(_MARGIN + _ROW_HEIGHT * max(len(layers), 1), _WIDTH, wanted_by="plot", layout="constrained")
    axes = result.add_subplot()
    plain(axes)
    chance_at = _CHANCE_AFTER_DEVIATION if report.models > 1 else _CHANCE_AT
    for row, layer in enumerate(layers):
        _draw_row(axes, len(layers) - 1 - row, layer, t, chance_at)
    axes.axvline(t, color=LIGHT["redundant"], linewidth=1, linestyle=(0, (4, 3)))
    above: dict[str, Any] = {"xytext": (0, 4), "textcoords": "offset points", "va": "bottom", "fontsize": _TYPE}
    axes.annotate(f"t = {t:g}", (t, len(layers)), ha="center", color=LIGHT["redundant"], **above)
    _beside(axes, len(layers) + 0.12, rf"$\lambda^{{{t:g}}}$", _LAMBDA_AT)
    _beside(axes, len(layers) + 0.12, "chance", chance_at, color=LIGHT["soft"])
    axes.set(xlim=(0, 1), ylim=(-0.1, max(len(layers), 1) + 0.1))
    axes.set_xlabel(f"Ψ of pairs of filters, {PsiConfig.of(report.psi).in_words()}", color=LIGHT["soft"])
    axes.set_yticks([len(layers) - 1 - row + 0.3 for row in range(len(layers))])
    axes.set_yticklabels([_label(layer) for layer in layers], fontsize=_TYPE, color=LIGHT["text"])
    axes.tick_params(axis="y", length=0)
    if not layers:
        axes.text(0.5, 0.5, "no layer was measured", ha="center", va="center", color=LIGHT["text"])
    return result


def _draw_row(axes: Axes, base: int, layer: LayerRedundancy, threshold: float, chance_at: float) -> None:
    """The histogram on its base line, each bin's height relative to the layer's fullest, and the numbers beside it."""
    histogram = layer.histogram or ()
    bins, fullest = len(histogram), max(histogram, default=0)
    if fullest:
        edges = [index / bins for index in range(bins)]
        heights = [max(0.85 * count / fullest, 0.03 if count else 0) for count in histogram]
        colours = [LIGHT["redundant" if edge >= threshold - 1e-9 else "below"] for edge in edges]
        axes.bar(edges, heights, width=1 / bins, bottom=base, align="edge", color=colours, linewidth=0)
    axes.axhline(base, color=LIGHT["line"], linewidth=0.6, zorder=0)
    text = "" if layer.redundancy is None else f"{layer.redundancy:.3f}"
    if layer.deviation is not None:
        text += f" ± {layer.deviation:.3f}"
    _beside(axes, base + 0.3, text, _LAMBDA_AT, weight="bold" if (layer.finding in ("repeats", "scale")) else "normal")
    if layer.chance is not None:
        _beside(axes, base + 0.3, f"{layer.chance:.3f}", chance_at, color=LIGHT["soft"])


def _beside(axes: Axes, height: float, text: str, points: float, color: str = LIGHT["text"], **options: Any) -> None:
    """Writes at a height of the vertical axis, so many points right of the axes whatever their width."""
    place: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "va": "center"}
    axes.annotate(text, (1, height), (points, 0), color=color, fontsize=_TYPE, **place, **options)


def _label(layer: LayerRedundancy) -> str:
    name = shortened(layer.name or layer.kind, _LONGEST_NAME)
    name = name.replace("$", r"\$")  # matplotlib would read mathematics between dollar signs
    return f"{name}  ({layer.filters})"
