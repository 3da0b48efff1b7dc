"""A plan as one HTML page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from markupsafe import Markup

from ckrm_kernels.presentation.drawing import inline_svg
from ckrm_kernels.presentation.markup import Table, breakable, render
from ckrm_kernels.shrinking.views.columns import columns, shown, shown_name
from ckrm_kernels.shrinking.views.figure import figure
from ckrm_kernels.shrinking.views.words import explanations, proved, provenance, totals, unchanged, verdict

if TYPE_CHECKING:
    from ckrm_kernels.shrinking.plan_views import PlanViews
    from ckrm_kernels.shrinking.rows import ShrunkLayer

_BELOW_THE_NAME = ("kind", "why")  # columns


def page(plan: PlanViews) -> str:
    """The totals, the proof, the figure of the widths, the table, the unchanged layers by reasons, what words mean."""
    rendered = render(
        __file__,
        title=f"{type(plan.model).__name__} shrunk",
        verdict=verdict(plan),
        proved=proved(plan),
        notes=plan.notes,
        headline=[(after, name, f"of {before}, {left}") for name, before, after, left in totals(plan)],
        figure=inline_svg(figure(plan), "widths", "width of each layer before and after") if plan.layers else "",
        table=_table(plan),
        unchanged=[
            (reason, [(shown_name(layer), layer.kind, layer.width, layer.why) for layer in same])
            for reason, same in unchanged(plan)
        ],
        terms={_greek(term): _greek(text) for term, text in explanations(plan).items()},
        provenance=provenance(plan),
    )
    return str(rendered)  # no `Markup`, which would escape what is added to it


def _table(plan: PlanViews) -> Table | None:
    rows = shown(plan.layers)
    if not rows:
        return None
    found = [column for column in columns(rows) if column.key not in _BELOW_THE_NAME]
    heads = [_greek(f"{column.group} {column.head}".strip()) for column in found]
    cells = [[_name(layer), *(column.text(layer) for column in found[1:])] for layer in rows]
    return Table("Layers that lose filters, or read fewer", heads, cells)


def _name(layer: ShrunkLayer) -> Markup:
    about = "; ".join(filter(None, (layer.kind, layer.why)))
    return Markup("{}<small>{}</small>").format(breakable(shown_name(layer)), about)


def _greek(text: str) -> str:
    """Words of this package as the page has them."""
    return text.replace("lambda", "λ").replace("Psi", "Ψ")
