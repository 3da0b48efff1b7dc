"""Shrinking any trained model: `plan_shrink`, and the plan that makes the small model of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ckrm_kernels.choices import Chooser
from ckrm_kernels.measurement import measure
from ckrm_kernels.report import LayerRedundancy
from ckrm_kernels.shrinking import batch_norm, fold, merging
from ckrm_kernels.shrinking.budget import Budget, checked_budget
from ckrm_kernels.shrinking.calibration import Calibration
from ckrm_kernels.shrinking.carrying import carry_over
from ckrm_kernels.shrinking.couplings import Coupling, Graph
from ckrm_kernels.shrinking.curves import error_curves
from ckrm_kernels.shrinking.graph import trace
from ckrm_kernels.shrinking.proof import Proof, prove, prove_removal
from ckrm_kernels.shrinking.rows import ShrunkLayer, Totals, layer_rows
from ckrm_kernels.shrinking.surgery import without
from ckrm_kernels.shrinking.totals import totals_of
from ckrm_kernels.whole_numbers import whole_number


@dataclass(frozen=True, eq=False)
class ShrinkPlan:
    """Which filters leave a trained model, proved; `apply` makes the small model.

    model: the model as it was given, which no call changes
    graph: what was found by tracing it
    removed: for each coupling the filters that leave, ascending
    proof: for each coupling what its proof found; "" is that of the whole small model
    before, after: parameters, multiply-adds, bytes of the weights and latency of the model and of the small one
    choose, budget: how filters were chosen, and what the small model may have, in words
    notes: what is to be known of how the plan was made
    """

    model: nn.Module
    graph: Graph
    removed: Mapping[str, tuple[int, ...]]
    proof: Mapping[str, Proof]
    before: Totals
    after: Totals
    choose: str
    budget: str
    notes: tuple[str, ...]
    _rows: tuple[ShrunkLayer, ...]
    _calibration: Calibration | None
    _merges: bool
    _refits: dict[str, fold.Refit] = field(default_factory=dict)

    @property
    def layers(self) -> tuple[ShrunkLayer, ...]:
        """A row for every layer, in the order in which the model runs; with the errors of its fold once applied."""
        return tuple(
            replace(row, error_before=refit.before, error_after=refit.after) if refit else row
            for row, refit in ((row, self._refits.get(row.name)) for row in self._rows)
        )

    @property
    def kept(self) -> dict[str, tuple[int, ...]]:
        """The filters that stay of each layer, ascending, by its name."""
        return {row.name: row.kept for row in self._rows}

    def apply(
        self,
        fold: bool = True,
        *,
        optimizer: torch.optim.Optimizer | None = None,
        scheduler: torch.optim.lr_scheduler.LRScheduler | None = None,
        ema: nn.Module | None = None,
        progress: bool = False,
    ) -> nn.Module:
        """The small model: a copy of the model as it is now without the filters that leave.

        fold: refit what reads the removed filters to what it computed with them, front to back, from the plan's
            calibration (of a plan without any: what they did is added to the most similar ones that stay); False
            leaves all weights that stay as they are
        optimizer: afterwards trains the small model, its state shrunk too; scheduler: goes on with it
        ema: a model of averaged weights (`torch.optim.swa_utils.AveragedModel`), shrunk in place
        progress: shows on standard error how far it is
        """
