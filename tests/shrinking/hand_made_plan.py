"""A plan made by hand: what the views of one show can be told by reading."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from torch import nn

from ckrm_kernels.shrinking.plan_views import PlanViews
from ckrm_kernels.shrinking.rows import ShrunkLayer, Totals


@dataclass(frozen=True)
class Proof:
    deviation: float | None
    exact: bool
    reason: str = ""


@dataclass(frozen=True)
class Plan(PlanViews):
    layers: tuple[ShrunkLayer, ...]
    before: Totals
    after: Totals
    proof: dict[str, Proof] = field(default_factory=dict)
    deviation: float | None = None
    choose: str = "error"
    budget: str = "half of the parameters"
    notes: tuple[str, ...] = ()
    model: nn.Module = field(default_factory=nn.Identity)
    created: str = "2026-01-02T03:04:05+00:00"
    versions: dict[str, str] = field(default_factory=lambda: {"torch": "2.13.0"})


FIRST = ShrunkLayer(
    name="block.first",
    kind="Conv2d",
    coupling="block.first",
    kept=(0, 2, 5),
    width=8,
    wanted=3,
    reached=3,
    why="",
    redundancy=0.25,
    chance=0.0625,
    psi=0.75,
    deviation=3e-16,
    error=0.125,
)
SECOND = replace(
    FIRST,
    name="block.second",
    kept=tuple(range(8)),
    coupling="",
    wanted=8,
    reached=8,
    why="its filters are added to the input, line 12 of model.py",
    psi=None,
    deviation=None,
    error=None,
    error_before=0.5,
    error_after=0.03125,
)
ROUNDED = replace(
    FIRST, name="rounded", coupling="other", kept=(0, 1, 2, 3), wanted=3, reached=4, why="rounded up to multiples of 4"
)
HEADS = tuple(
    ShrunkLayer(name, "Linear", "", (0, 1), 2, 2, 2, "its filters are the model's output") for name in ("a", "b<b>")
)
NASTY = ShrunkLayer("x\x1b[31m$\\", "Conv2d", "n", (1,), 4, 1, 1, "")

PLAN = Plan(
    layers=(FIRST, SECOND, ROUNDED, NASTY, *HEADS),
    before=Totals(2_000_000, 50_000_000, 8_000_000, 0.004),
    after=Totals(1_000_000, 10_000_000, 4_000_000, 0.003),
    proof={
        "block.first": Proof(3e-16, True),
        "other": Proof(1e-15, True),
        "n": Proof(None, False, "statistics change: LayerNorm"),
        "unused": Proof(0.5, False, "differs"),
    },
    notes=("calibrated with 256 images",),
)
NOTHING = replace(PLAN, layers=HEADS, after=PLAN.before, proof={}, notes=())
