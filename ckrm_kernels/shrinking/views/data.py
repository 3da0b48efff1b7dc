"""A plan as data: JSON, CSV and a data frame."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

from ckrm_kernels.extras import require
from ckrm_kernels.presentation.tables import csv_text, together
from ckrm_kernels.shrinking.rows import ShrunkLayer
from ckrm_kernels.shrinking.views.words import proved, verdict

if TYPE_CHECKING:
    import pandas

    from ckrm_kernels.shrinking.plan_views import PlanViews


def as_json(plan: PlanViews) -> str:
    """See `PlanViews.to_json`."""
    value = {**_of_all(plan), "layers": [asdict(layer) for layer in plan.layers]}
    return json.dumps(value, indent=2, allow_nan=False)


def as_csv(plan: PlanViews) -> str:
    """See `PlanViews.to_csv`; empty where there is no value."""
    names = [field.name for field in fields(ShrunkLayer)]
    rows = ([_in_one_field(getattr(layer, name)) for name in names] for layer in plan.layers)
    return csv_text(names, rows)


def frame(plan: PlanViews) -> pandas.DataFrame:
    """A row a layer, with the fields of `ShrunkLayer`."""
    with require("to_pandas", "pandas"):
        import pandas
    result = pandas.DataFrame([asdict(layer) for layer in plan.layers])
    result.attrs = _of_all(plan)
    return result


def _of_all(plan: PlanViews) -> dict[str, Any]:
    """What holds for every layer of a plan."""
    proof = {
        name: {"deviation": each.deviation, "exact": each.exact, "reason": each.reason}
        for name, each in plan.proof.items()
    }
    return {
        "model": type(plan.model).__name__,
        "budget": plan.budget,
        "choose": plan.choose,
        "verdict": verdict(plan),
        "proved": proved(plan),
        "before": asdict(plan.before),
        "after": asdict(plan.after),
        "deviation": plan.deviation,
        "proof": proof,
        "notes": list(plan.notes),
        "created": plan.created,
        "versions": dict(plan.versions),
    }


def _in_one_field(value: Any) -> Any:
    return together(value) if isinstance(value, tuple) else value
