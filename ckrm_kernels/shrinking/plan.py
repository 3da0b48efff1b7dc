"""Shrinking any trained model: `plan_shrink`, and the plan that makes the small model of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from typing import Any, Literal, get_args

import torch
from torch import nn

from ckrm_kernels.choices import Chooser
from ckrm_kernels.distribution import checked_threshold
from ckrm_kernels.measurement import measure
from ckrm_kernels.presentation.numbers import counted, roughly, size
from ckrm_kernels.report import LayerRedundancy
from ckrm_kernels.shrinking import merging
from ckrm_kernels.shrinking.batch_norm import reestimate
from ckrm_kernels.shrinking.bench import random_state_kept
from ckrm_kernels.shrinking.budget import Budget, checked_budget
from ckrm_kernels.shrinking.calibration import Calibration, check_runs
from ckrm_kernels.shrinking.carrying import carry_over, check_carried
from ckrm_kernels.shrinking.copying import copied
from ckrm_kernels.shrinking.counting import size_of
from ckrm_kernels.shrinking.couplings import Coupling, Graph
from ckrm_kernels.shrinking.curves import Choice, measured_curves, orders_of, up_to, weight_curves
from ckrm_kernels.shrinking.elimination import Curve
from ckrm_kernels.shrinking.finished_parts import FinishedParts
from ckrm_kernels.shrinking.fold import Refit, refit
from ckrm_kernels.shrinking.fold_cost import consumers, cost
from ckrm_kernels.shrinking.graph import trace
from ckrm_kernels.shrinking.inputs import Inputs, as_inputs
from ckrm_kernels.shrinking.layer_rows import layer_rows
from ckrm_kernels.shrinking.plan_views import PlanViews
from ckrm_kernels.shrinking.proof import Proof, prove, prove_removal
from ckrm_kernels.shrinking.redundant import repeats
from ckrm_kernels.shrinking.rows import ShrunkLayer, Totals
from ckrm_kernels.shrinking.surgery import parts_of, without
from ckrm_kernels.shrinking.totals import bytes_of_weights, latencies
from ckrm_kernels.shrinking.widths import Minimum, check_minimum, ignored
from ckrm_kernels.shrinking.within_budget import Removed, within_budget
from ckrm_kernels.version import __version__
from ckrm_kernels.whole_numbers import whole_number


@dataclass(frozen=True, eq=False, repr=False)
class ShrinkPlan(PlanViews):
    """Which filters leave a trained model, proved; `apply` makes the small model.

    model: the model as it was given, which no call changes
    graph: what tracing it found
    removed: for each coupling of the graph the filters that leave, ascending
    proof: for each coupling what its proof found
    deviation: of the whole small model, before its fold, from the model with the same filters silenced, in units of
        the output's scale; None where statistics change and nothing else could be compared
    before, after: what the model takes and what the small one does
    choose, budget: how filters were chosen, and what the small model may have, in words
    notes: what is to be known of how the plan was made
    created: when, in UTC, as ISO 8601; versions: of the packages that decide the numbers
    """

    model: nn.Module
    graph: Graph
    removed: Mapping[str, tuple[int, ...]]
    proof: Mapping[str, Proof]
    deviation: float | None
    before: Totals
    after: Totals
    choose: str
    budget: str
    notes: tuple[str, ...]
    created: str
    versions: Mapping[str, str]
    _rows: tuple[ShrunkLayer, ...]
    _calibration: Calibration | None
    _merges: bool
    _refits: dict[str, Refit] = field(default_factory=dict)
    _parts: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_parts", parts_of(self.model))

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
        keep: FinishedParts | None = None,
    ) -> nn.Module:
        """The small model: a copy of the model as it is now, without the filters that leave.

        fold: refit what reads removed filters to what it computed with them, front to back, from the plan's
            calibration; of a plan without any, merge filters instead. False leaves the weights that stay as they are
        optimizer: from now on trains the small model, its state shrunk too; scheduler: goes on with it
        ema: a model of averaged weights (`torch.optim.swa_utils.AveragedModel`), shrunk too
        progress: shows on standard error how far it is
        keep: where refitted layers are kept as they are finished, and found by an equal call; `ckrm shrink`'s
        Raises, before anything is done, ValueError where the model has other modules or tensors, or tensors of another
        shape, dtype or device, than when it was planned, and ValueError or TypeError for an optimizer, scheduler or ema
        that can't be carried over.
        """
        self._check_unchanged()
        check_carried(self.model, self.graph, self.removed, optimizer=optimizer, scheduler=scheduler, ema=ema)
        with torch.inference_mode(False), random_state_kept(self.model):  # so that the small one can be trained
            small, refits = self._small(fold, progress, keep)
            carry_over(self.model, small, self.graph, self.removed, optimizer=optimizer, scheduler=scheduler, ema=ema)
        self._refits.clear()
        self._refits.update(refits)
        return small

    def _check_unchanged(self) -> None:
        parts = parts_of(self.model)
        for name in (*self._parts, *parts):
            if (was := self._parts.get(name, "absent")) != (now := parts.get(name, "absent")):
                raise ValueError(
                    f"the plan's model must be as it was planned: {name} was {was}, and is now {now}; plan it again"
                )

    def _small(self, fold: bool, progress: bool, keep: FinishedParts | None) -> tuple[nn.Module, dict[str, Refit]]:
        if fold and self._merges:
            widths = {c.name: c.width - len(self.removed.get(c.name, ())) for c in self.graph.couplings}
            return merging.merge(self.model, self.graph, widths).small, {}
        small = without(self.model, self.graph, self.removed)
        if not fold or self._calibration is None:
            return small, {}
        original = copied(self.model)  # which its own forward pass may change
        refits = refit(small, original, self.graph, self.removed, self._calibration, progress=progress, keep=keep)
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
    minimum: Minimum = 1,
    ignore: Iterable[str | nn.Module] = (),
    images: int = 256,
    seed: int = 0,
    progress: bool = False,
    keep: FinishedParts | None = None,
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
    keep: where measured errors are kept as they are finished, and found by an equal call; `ckrm shrink`'s
    Raises TypeError or ValueError before anything is done: for arguments that no model can have, a model that can't be
    traced (data-dependent control flow, quantised, scripted, sharded, without a convolution), a budget out of reach,
    calibration that is empty, NaN or of another shape.
    Sources: OBC (Frantar and Alistarh 2022) and ZipLM (Kurtic et al. 2023) for the order; He et al. 2017 for the refit.
    """
    budget = checked_budget(parameters, macs, latency, tolerance)
    check_options(budget, calibration, choose, widths, round_to, seed)
    limit = checked_threshold(threshold, -1.0)
    inputs = as_inputs("example_inputs", example_inputs)
    if not inputs.batch:
        raise ValueError("example_inputs must be a batch of 2 or more, got an empty one")
    graph = trace(model, inputs)
    wishes = _Wishes(budget, choose, widths == "uniform", limit, round_to, minimum, seed, progress, keep)
    with random_state_kept(model):  # a loader and the model's forward pass may draw from it
        data = None if calibration is None else Calibration(calibration, inputs, images=images)
        return _planned(model, graph, inputs, data, ignore, wishes)


def _planned(
    model: nn.Module,
    graph: Graph,
    inputs: Inputs,
    data: Calibration | None,
    ignore: Iterable[str | nn.Module],
    wishes: _Wishes,
) -> ShrinkPlan:
    """The plan, of a model that could be traced and of options that were checked."""
    budget, choose, minimum = wishes.budget, wishes.choose, wishes.minimum
    if data is not None:
        check_runs(model, data)
    staying = dict.fromkeys(ignored(model, graph, ignore), "ignored")
    check_minimum(graph, minimum)
    proofs = prove(model, graph, inputs, seed=wishes.seed)
    staying |= {name: f"not proved: {proof.reason}" for name, proof in proofs.items() if not proof.holds}
    rows = measure(model, wishes.threshold, pointwise="vector", signed=True, scale_free=True).layers
    measured = {row.name: row for row in rows}
    if budget.kind in ("tolerance", "redundant"):  # the error that was asked for must be that of all that reads them
        staying = {name: f"{them} could not be observed" for name, them in _unobserved(graph).items()} | staying
    free = [coupling for coupling in graph.couplings if coupling.name not in staying]
    curves = _curves(model, graph, free, data, measured, wishes)
    wanted = within_budget(
        model, graph, curves, budget, inputs, uniform=wishes.uniform, round_to=wishes.round_to, minimum=minimum
    )
    merges = data is None and choose == "error"
    if merges:
        wanted = merging.merge(model, graph, _widths_left(graph, wanted)).removed
    removed, deviation, undone = _proved_together(model, graph, wanted, inputs)
    staying |= undone
    small = without(model, graph, removed)
    before, after = _totals(model, small, graph, removed, inputs)
    return ShrinkPlan(
        model=model,
        graph=graph,
        removed=removed,
        proof=proofs,
        deviation=deviation,
        before=before,
        after=after,
        choose=choose if isinstance(choose, str) else getattr(choose, "__name__", "a function"),
        budget=budget.in_words(),
        notes=_notes(model, small, graph, removed, data, merges, inputs),
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        versions={"ckrm_kernels": __version__, "torch": torch.__version__},
        _rows=layer_rows(model, graph, wanted, removed, curves, proofs, staying, measured),
        _calibration=data,
        _merges=merges,
    )


@dataclass(frozen=True)
class _Wishes:
    """The options of `plan_shrink` that say which filters leave."""

    budget: Budget
    choose: Choice
    uniform: bool
    threshold: float
    round_to: int
    minimum: Minimum
    seed: int
    progress: bool
    keep: FinishedParts | None


def check_options(budget: Budget, calibration: Any, choose: Any, widths: Any, round_to: Any, seed: Any) -> None:
    """Raises TypeError or ValueError for options of `plan_shrink` that no model can have."""
    if not callable(choose) and choose not in get_args(Chooser):
        raise ValueError(f"choose must be one of {', '.join(get_args(Chooser))}, or a function, got {choose!r}")
    if widths not in ("error", "uniform"):
        raise ValueError(f'widths must be "error" or "uniform", got {widths!r}')
    if calibration is None and budget.kind in ("redundant", "tolerance"):
        raise ValueError(
            "without calibration no error is known: give calibration, unlabelled inputs of which 128 are enough, or a "
            "budget: parameters, macs or latency"
        )
    whole_number("round_to", round_to)
    whole_number("seed", seed, 0)


def _curves(
    model: nn.Module,
    graph: Graph,
    free: Sequence[Coupling],
    data: Calibration | None,
    measured: Mapping[str, LayerRedundancy],
    wishes: _Wishes,
) -> dict[str, Curve]:
    """The order in which the filters of each coupling leave, and the error of each step."""
    if data is None:
        return weight_curves(model, graph, free, wishes.choose, wishes.seed)
    if wishes.budget.kind != "redundant":
        orders = orders_of(wishes.choose, model, graph, free, wishes.seed)
        return measured_curves(model, graph, orders, data, wishes.progress, wishes.keep)
    first = {coupling.name: repeats(model, graph, coupling, measured, wishes.threshold) for coupling in free}
    found = {
        name: [*leaving, *(f for f in range(graph.coupling(name).width) if f not in leaving)]
        for name, leaving in first.items()
        if leaving
    }
    curves = measured_curves(model, graph, found, data, wishes.progress, wishes.keep)
    return {name: up_to(curve, len(first[name])) for name, curve in curves.items()}


def _widths_left(graph: Graph, removed: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    return {name: graph.coupling(name).width - len(filters) for name, filters in removed.items()}


def _proved_together(
    model: nn.Module, graph: Graph, wanted: Removed, inputs: Inputs
) -> tuple[Removed, float | None, dict[str, str]]:
    """What of the wanted leaves, the deviation of the whole, and which couplings stay after all, and why.

    Each coupling is proved by itself before. Should they not hold together, they are added one by one.
    """
    whole = prove_removal(model, graph, wanted, inputs)
    if whole.holds:
        return wanted, whole.deviation, {}
    removed: Removed = {}
    undone = {}
    for name, filters in wanted.items():
        proof = prove_removal(model, graph, {**removed, name: filters}, inputs)
        if proof.holds:
            removed, whole = {**removed, name: filters}, proof
        else:
            undone[name] = f"not proved together with others: {proof.reason}"
    return removed, whole.deviation if removed else 0.0, undone


def _totals(
    model: nn.Module, small: nn.Module, graph: Graph, removed: Removed, inputs: Inputs
) -> tuple[Totals, Totals]:
    """Of the model and of the small one."""
    seconds = latencies({"model": model, "small": small}, inputs)
    sizes = size_of(model, graph), size_of(model, graph, removed)
    before, after = (
        Totals(size.parameters, size.multiply_adds, bytes_of_weights(each), seconds[name])
        for size, each, name in zip(sizes, (model, small), ("model", "small"), strict=True)
    )
    return before, after


def _unobserved(graph: Graph) -> dict[str, str]:
    """Of each coupling that modules and others read the others, which no hook sees and no fold refits, in words."""
    found = {}
    for coupling in graph.couplings:
        readers = graph.consumers(coupling)
        others = [layer.name for layer in readers if not layer.is_module]
        if 0 < len(others) < len(readers):
            found[coupling.name] = f"its reader {' and '.join(others)}"
    return found


def _notes(
    model: nn.Module,
    small: nn.Module,
    graph: Graph,
    removed: Removed,
    data: Calibration | None,
    merges: bool,
    inputs: Inputs,
) -> tuple[str, ...]:
    """What is to be known."""
    found = []
    if merges:
        found.append("without calibration, filters are merged by their weights alone, which keeps less accuracy")
    elif data is None:
        found.append("without calibration, nothing makes up for the filters that leave")
    else:
        takes = cost(model, small, graph, removed, inputs, data.images / inputs.batch, len(data))
        readers, place = len(consumers(graph, removed)), "the GPU" if inputs.device.type == "cuda" else "one core"
        found.append(
            f"calibrated on {data.images} inputs; the fold of {counted(readers, 'layer')} takes about "
            f"{roughly(max(takes.seconds, 1))} of {place} and {size(takes.memory)} besides the two networks"
        )
    found += [
        f"{name}: {them} could not be observed: its error is in no figure, and no fold makes up for it"
        for name, them in _unobserved(graph).items()
        if data is not None and name in removed
    ]
    if graph.unsupported:
        found.append(f"operations without a rule: {', '.join(graph.unsupported)}")
    return tuple(found)
