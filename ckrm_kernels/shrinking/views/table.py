"""A plan as lines of text, within a width or as long as they have to be."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ckrm_kernels.presentation.grid import Line, fitting, lines_of, listed, wrapped
from ckrm_kernels.presentation.tables import aligned
from ckrm_kernels.shrinking.views.columns import columns, shown, shown_name
from ckrm_kernels.shrinking.views.words import explanations, grouped, proved, provenance, totals, unchanged, verdict

if TYPE_CHECKING:
    from ckrm_kernels.shrinking.plan_views import PlanViews


def table(plan: PlanViews) -> str:
    """The plan as text."""
    return "\n".join(line.text for line in lines(plan))


def lines(plan: PlanViews, width: int | None = None) -> Iterator[Line]:
    """The verdict, the proof and the totals, a line a layer that shrinks, one a reason for the others, what words mean.

    width: in characters; where not all fits, the columns that matter least are left out, and then names are shortened
    """
    yield from wrapped(verdict(plan), width, "verdict")
    yield from wrapped(proved(plan), width)
    for note in plan.notes:
        yield from wrapped(f"note: {note}", width)
    yield Line("")
    head, *body = aligned([("", "before", "after", "left"), *totals(plan)], (1, 2, 3)).split("\n")
    yield from (Line(head, "head"), *map(Line, body))
    rows = shown(plan.layers)
    found = fitting(columns(rows), rows, width) if rows else []
    if rows:
        yield Line("")
        yield from lines_of(found, rows, width, lambda layer: "")
    short = [layer for layer in rows if layer.shrinks and layer.why]
    noted = [] if any(column.key == "why" for column in found) else grouped(short)
    left = unchanged(plan)
    if noted or left:
        yield Line("")
    for word, groups in (("with fewer filters gone than wanted", noted), ("unchanged", left)):
        for reason, same in groups:
            yield from listed(f"{len(same)} {word}: {reason}", [shown_name(layer) for layer in same], width)
    yield Line("")
    if rows:
        for term, text in explanations(plan).items():
            yield from wrapped(f"{term}: {text}", width, "soft")
    for name, value in provenance(plan):
        yield from wrapped(f"{name}: {value}", width, "soft")
