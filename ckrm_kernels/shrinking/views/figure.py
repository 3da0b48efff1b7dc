"""A plan as a figure: each layer's width before and after."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckrm_kernels.extras import require
from ckrm_kernels.presentation.drawing import MARGIN, TYPE, WIDTH, new_figure, plain, shortened
from ckrm_kernels.presentation.theme import LIGHT
from ckrm_kernels.shrinking.views.columns import shown_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ckrm_kernels.shrinking.plan_views import PlanViews

_LONGEST_NAME = 24
_LEFT, _RIGHT = 150.0, 84.0  # points beside the bars, for the names and for the numbers
_ABOVE, _BELOW = 44.0, 26.0  # points
_ROW, _LOWEST_ROW, _MANY_ROWS = 15.0, 3.0, 40 * 72.0  # points, the last of all rows together
_SMALLEST = 0.62  # of a row: the size of its type, in points


def figure(plan: PlanViews) -> Figure:
    """A bar a layer, the first on top: all of it the width before, its filled part the filters that stay."""
    with require("plot", "matplotlib"):
        from matplotlib.ticker import MaxNLocator
    rows = max(len(plan.layers), 1)
    row = min(_ROW, max(_LOWEST_ROW, _MANY_ROWS / rows))
    across, bars = 72 * WIDTH, rows * row
    total = bars + _ABOVE + _BELOW
    result = new_figure(total / 72)
    axes = result.add_axes((_LEFT / across, _BELOW / total, (across - _LEFT - _RIGHT) / across, bars / total))
    plain(axes)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    widest = max((layer.width for layer in plan.layers), default=1)
    axes.set(xlim=(0, widest), ylim=(rows - 0.5, -0.5), yticks=[])
    places = range(len(plan.layers))
    before, after = ([getattr(layer, name) for layer in plan.layers] for name in ("width", "reached"))
    axes.barh(places, before, height=0.62, color=LIGHT["line"])
    axes.barh(places, after, height=0.62, color=LIGHT["searched"])
    size = min(TYPE, _SMALLEST * row)
    for place, layer in enumerate(plan.layers):
        y = (_BELOW + bars - (place + 0.5) * row) / total
        colour = LIGHT["text" if layer.shrinks else "soft"]
        style = {"fontsize": size, "color": colour, "va": "center_baseline", "parse_math": False}
        name = shortened(shown_name(layer), _LONGEST_NAME)
        result.text((_LEFT - 6) / across, y, name, ha="right", **style)  # type: ignore[arg-type]
        numbers = f"{layer.width} → {layer.reached}" if layer.shrinks else f"{layer.width}"
        result.text((across - _RIGHT + 6) / across, y, numbers, **style)  # type: ignore[arg-type]
    top = 1 - 8 / total
    result.text(
        MARGIN / WIDTH, top, "Filters of each layer", fontsize=TYPE + 1, weight="bold", color=LIGHT["text"], va="top"
    )
    result.text(
        MARGIN / WIDTH,
        1 - 26 / total,
        "before (all of the bar) → after",
        fontsize=TYPE - 1,
        color=LIGHT["soft"],
        va="top",
    )
    return result
