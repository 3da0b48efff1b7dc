"""A report as a figure: the distribution of Omega in each layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckrm_kernels.extras import require

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ckrm_kernels.report.result import LayerRedundancy, RedundancyReport

BELOW, ABOVE, CHANCE = "#4c78a8", "#d1495b", "#555555"
_ROW_HEIGHT, _MARGIN = 0.42, 1.5  # inches
_LONGEST_NAME = 40
_LAMBDA_AT = 1.04  # where the column of lambda starts, right of the axis from 0 to 1


def figure(report: RedundancyReport) -> Figure:
    """One row a measured layer: its distribution of Omega, the threshold, lambda and the chance level.

    Made by matplotlib's object interface: no window opens and pyplot's state stays as it is.
    """
    with require("plot", "matplotlib"):
        from matplotlib.figure import Figure
    rows = max(len(report.measured), 1)
    result = Figure(figsize=(8, _MARGIN + _ROW_HEIGHT * rows), layout="constrained")
    draw(result.add_subplot(), report)
    return result


def draw(axes: Axes, report: RedundancyReport, *, names: bool = True) -> None:
    """Draws the rows into axes, the model's first layer on top; `names` labels them."""
    layers, t = report.measured, report.threshold
    chance_at = _LAMBDA_AT + (0.2 if report.models > 1 else 0.11)
    for row, layer in enumerate(layers):
        _draw_row(axes, len(layers) - 1 - row, layer, t, chance_at)
    axes.axvline(t, color=ABOVE, linewidth=1, linestyle=(0, (4, 3)))
    axes.text(t, len(layers) + 0.12, f"t = {t:g}", color=ABOVE, ha="center", va="bottom", fontsize=8)
    axes.text(_LAMBDA_AT, len(layers) + 0.12, rf"$\mathbf{{\lambda^{{{t:g}}}}}$", va="bottom", fontsize=9)
    axes.text(chance_at, len(layers) + 0.12, "chance", color=CHANCE, va="bottom", fontsize=8)
    axes.set(xlim=(0, 1), ylim=(-0.1, max(len(layers), 1) + 0.1), xlabel="Ψ of pairs of filters")
    axes.set_yticks([len(layers) - 1 - row + 0.3 for row in range(len(layers))])
    axes.set_yticklabels([_label(layer) for layer in layers] if names else [], fontsize=8)
    axes.tick_params(axis="y", length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    if not layers:
        axes.text(0.5, 0.5, "no layer was measured", ha="center", va="center")


def _draw_row(axes: Axes, base: int, layer: LayerRedundancy, threshold: float, chance_at: float) -> None:
    """The histogram on its base line, each bin's height relative to the layer's fullest; above the threshold red."""
    histogram = layer.histogram or ()
    bins, fullest = len(histogram), max(histogram, default=0)
    if fullest:
        edges = [index / bins for index in range(bins)]
        heights = [max(0.85 * count / fullest, 0.03 if count else 0) for count in histogram]
        colours = [ABOVE if edge >= threshold - 1e-9 else BELOW for edge in edges]
        axes.bar(edges, heights, width=1 / bins, bottom=base, align="edge", color=colours, linewidth=0)
    axes.axhline(base, color="#cccccc", linewidth=0.6, zorder=0)
    redundancy, chance = layer.redundancy, layer.chance
    text = "" if redundancy is None else f"{redundancy:.3f}"
    if layer.deviation is not None:
        text += f" ± {layer.deviation:.3f}"
    axes.text(_LAMBDA_AT, base + 0.3, text, va="center", fontsize=8, weight="bold")
    if chance is not None:
        axes.text(chance_at, base + 0.3, f"{chance:.3f}", color=CHANCE, va="center", fontsize=8)


def _label(layer: LayerRedundancy) -> str:
    name = layer.name or layer.kind
    if len(name) > _LONGEST_NAME:
        name = "…" + name[1 - _LONGEST_NAME :]
    name = name.replace("$", r"\$")  # matplotlib would read mathematics between dollar signs
    return f"{name}  ({layer.filters})"
