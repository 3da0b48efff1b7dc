"""Shrinking any trained model: `plan_shrink`, and the plan that makes the small model of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import nn

from ckrm_kernels.measurement import measure
from ckrm_kernels.report import LayerRedundancy
from ckrm_kernels.shrinking import merging
from ckrm_kernels.shrinking.batch_norm import reestimate
from ckrm_kernels.shrinking.budget import Budget, checked_budget
from ckrm_kernels.shrinking.calibration import Calibration
from ckrm_kernels.shrinking.carrying import carry_over
from ckrm_kernels.shrinking.choices import order, signed_psi
from ckrm_kernels.shrinking.couplings import Coupling, Graph
from ckrm_kernels.shrinking.curves import Choice, measured_curves, weight_curves
from ckrm_kernels.shrinking.elimination import Curve
from ckrm_kernels.shrinking.fold import Refit, refit
from ckrm_kernels.shrinking.graph import trace
from ckrm_kernels.shrinking.inputs import Inputs, as_inputs
from ckrm_kernels.shrinking.proof import Proof, prove, prove_removal
from ckrm_kernels.shrinking.redundant import repeats_beyond_doubt
from ckrm_kernels.shrinking.rows import ShrunkLayer, Totals
from ckrm_kernels.shrinking.surgery import without
from ckrm_kernels.shrinking.totals import bytes_of_weights, latencies
from ckrm_kernels.shrinking.widths import removals
from ckrm_kernels.whole_numbers import whole_number


@dataclass(frozen=True, eq=False)
class ShrinkPlan:
    """Which filters leave a trained model, proved; `apply` makes the small model.

    model: the model as it was given, which no call changes
    graph: what tracing it found
    removed: for each coupling of the graph the filters that leave, ascending
    proof: for each coupling what its proof found
    deviation: of the whole small model, before its fold, from the model with the same filters silenced, in units of
        the output's scale
    before, after: what the model takes and what the small one does
    choose, budget: how filters were chosen, and what the small model may have, in words
    notes: what is to be known of how the plan was made
    """

    model: nn.Module
    graph: Graph
    removed: Mapping[str, tuple[int, ...]]
    proof: Mapping[str, Proof]
    deviation: float
    before: Totals
    after: Totals
    choose: str
    budget: str
    notes: tuple[str, ...]
    _rows: tuple[ShrunkLayer, ...]
    _calibration: Calibration | None
    _merges: bool
    _refits: dict[str, Refit] = field(default_factory=dict)

    @property
    def layers(self) -> tuple[ShrunkLayer, ...]:
        """A row for every layer, in the order in which the model runs; with the errors of the fold once applied."""
        found = ((row, self._refits.get(row.name)) for row in self._rows)
        return tuple(replace(row, error_before=r.before, error_after=r.after) if r else row for row, r in found)

    def apply(
        self,
        fold: bool = True,
        *,
        optimizer: torch.optim.Optimizer | None = None,
        scheduler: torch.optim.lr_scheduler.LRScheduler | None = None,
        ema: nn.Module | None = None,
        progress: bool = False,
    ) -> nn.Module:
        """The small model: a copy of the model as it is now, without the filters that leave.

        fold: refit what reads removed filters to what it computed with them, front to back, from the plan's
            calibration; of a plan without any, merge filters instead. False leaves the weights that stay as they are
        optimizer: from now on trains the small model, its state shrunk too; scheduler: goes on with it
        ema: a model of averaged weights (`torch.optim.swa_utils.AveragedModel`), shrunk too
        progress: shows on standard error how far it is
        """
        small, refits = self._small(fold, progress)
        carry_over(
            self.model, small, self.graph, self.removed, optimizer=optimizer, scheduler=scheduler, ema=ema
        )
        self._refits.clear()
        self._refits.update(refits)
        return small

    def _small(self, fold: bool, progress: bool) -> tuple[nn.Module, dict[str, Refit]]:
        if fold and self._merges:
            widths = {c.name: c.width - len(self.removed.get(c.name, ())) for c in self.graph.couplings}
            return merging.merge(self.model, self.graph, widths).small, {}
        small = without(self.model, self.graph, self.removed)
        if not fold or self._calibration is None:
            return small, {}
        refits = refit(small, self.model, self.graph, self.removed, self._calibration, progress=progress)
        left = {name for name, each in refits.items() if each.after is None}
        norms = {layer.norm for layer in self.graph.layers if layer.name in left and layer.norm}
        if norms:
            reestimate(small, self._calibration, sorted(norms))
        return small, refits


def plan_shrink(
    model: nn.Module,
    example_inputs: Any,
    *,
    calibration: Any = None,
    parameters: float | None = None,
    macs: float | None = None,
    latency: float | None = None,
    tolerance: float | None = None,
    choose: Choice = "error",
    widths: Literal["error", "uniform"] = "error",
    threshold: float = 0.6,
    round_to: int = 1,
    minimum: int | float | Mapping[str, int] = 1,
    ignore: Iterable[str | nn.Module] = (),
    images: int = 256,
    seed: int = 0,
    progress: bool = False,
) -> ShrinkPlan:
    """Plans which filters of a trained model can leave, and proves that what is left is the network it claims to be.

    Three lines shrink a model: `plan = plan_shrink(model, example, calibration=images, parameters=0.5)`,
    `print(plan)`, `small = plan.apply()`. Neither labels nor training are needed, and the model is not changed.

    model: with at least one convolution or linear layer, in any mode
    example_inputs: of its forward pass, a batch of 2 or more: a tensor, a tuple of positional arguments, a mapping of
        keyword arguments, or a pair of both
    calibration: unlabelled inputs: a tensor (N, ...), a loader, or anything iterable; 128 to 256 images are enough.
        Without any, filters are merged by their weights alone, which is worse
    parameters, macs: how many may be left, parameters or multiply-adds of one example: a share in (0, 1], or a whole
        number; latency: the share of the model's own that may be left, measured here on the example inputs
    tolerance: instead of a budget, the relative error (of a consumer's output, of its variance) that may be added
        in each coupling. With none of the four, only what is redundant beyond doubt leaves: signed Psi above the
        threshold, in layers with more of it than chance allows, within an added error of 0.01
    choose: which filters leave: "error" by the error that their consumers can't make up for (block-wise optimal brain
        surgeon, ZipLM); "psi" by signed Psi, "l1", "fpgm", "bn" (the norm's scale), "random", or a function of the
        filters (filters, numbers), whose least scores (filters,) leave first
    widths: "error" takes next what adds the least relative error for what it saves, in whichever layer; "uniform"
        takes the same share everywhere
    threshold: of signed Psi, for "psi" and where no budget is given
    round_to: widths are multiples of it where they change; minimum: the least width, for all layers or by name, a
        share of a layer's where it is a fraction
    ignore: layers that stay as they are, by name, pattern ("layer1.*") or module
    images: how many of the calibration are used
    seed: of all that is drawn by chance
    progress: shows on standard error how far it is
    Raises TypeError or ValueError before anything is done: for arguments that no model can have, a model that can't be
    traced (data-dependent control flow, quantised, scripted, sharded, without a convolution), a budget out of reach,
    calibration that is empty, NaN or of another shape.
    Sources: OBC (Frantar and Alistarh 2022) and ZipLM (Kurtic et al. 2023) for the order; He et al. 2017 for the refit.
    """
    budget = checked_budget(parameters, macs, latency, tolerance)
    _check_options(budget, calibration, choose, widths, threshold, images, seed)
    inputs = as_inputs("example_inputs", example_inputs)
    graph = trace(model, inputs)
    data = None if calibration is None else Calibration(calibration, inputs, images=images)
    proofs = prove(model, graph, inputs, seed=seed)
    staying = dict.fromkeys(ignored(model, graph, ignore), "ignored")
    staying |= {name: f"not proved: {proof.reason}" for name, proof in proofs.items() if not proof.holds}
    free = [coupling for coupling in graph.couplings if coupling.name not in staying]
    measured = measured_rows(model, threshold)
    curves = _curves(model, graph, free, budget, choose, data, threshold, measured, seed, progress)
    options = {"round_to": round_to, "minimum": minimum}
    removed = _chosen(model, graph, curves, budget, widths == "uniform", inputs, options)
    ...
