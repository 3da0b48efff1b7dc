"""A plan kept in a file until its small model is made, so that a run that was killed need not plan again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ckrm_kernels.shrinking.calibration import Calibration
from ckrm_kernels.shrinking.graph import trace
from ckrm_kernels.shrinking.inputs import as_inputs
from ckrm_kernels.shrinking.plan import ShrinkPlan
from ckrm_kernels.shrinking.proof import Proof, prove_removal
from ckrm_kernels.shrinking.rows import ShrunkLayer, Totals
from ckrm_kernels.storage.files import read_json, write_json

_PLAIN = ("deviation", "choose", "budget", "created", "_merges")  # fields that JSON holds as they are


def keep_plan(path: Path, plan: ShrinkPlan) -> None:
    """Writes the plan, but for the model, what tracing found of it, and the calibration."""
    value = {name: getattr(plan, name) for name in _PLAIN}
    value |= {name: dict(getattr(plan, name)) for name in ("removed", "versions")}
    value |= {name: asdict(getattr(plan, name)) for name in ("before", "after")}
    value |= {"notes": plan.notes, "proof": {name: asdict(proof) for name, proof in plan.proof.items()}}
    write_json(path, {**value, "_rows": [asdict(row) for row in plan._rows]})


def kept_plan(
    path: Path, model: nn.Module, example_inputs: Any, calibration: Tensor | None, images: int
) -> ShrinkPlan | None:
    """The plan that was kept in the file for this model and these inputs; None where there is none that holds.

    That it removes what it says is proved anew, as a whole.
    """
    if not path.exists():
        return None
    inputs = as_inputs("example_inputs", example_inputs)
    graph = trace(model, (inputs.args, inputs.kwargs))
    data = None if calibration is None else Calibration(calibration, (inputs.args, inputs.kwargs), images=images)
    try:
        plan = ShrinkPlan(model=model, graph=graph, _calibration=data, **_fields(read_json(path)))
    except (KeyError, TypeError, AttributeError):  # of another version, or edited by hand
        return None
    if not set(plan.removed) <= {coupling.name for coupling in graph.couplings}:
        return None
    return plan if prove_removal(model, graph, plan.removed, inputs).holds else None


def _fields(value: Mapping[str, Any]) -> dict[str, Any]:
    """What `keep_plan` wrote, as the plan has it."""
    return {
        **{name: value[name] for name in (*_PLAIN, "versions")},
        "removed": {name: tuple(filters) for name, filters in value["removed"].items()},
        "proof": {name: Proof(**proof) for name, proof in value["proof"].items()},
        "before": Totals(**value["before"]),
        "after": Totals(**value["after"]),
        "notes": tuple(value["notes"]),
        "_rows": tuple(ShrunkLayer(**{**row, "kept": tuple(row["kept"])}) for row in value["_rows"]),
    }
