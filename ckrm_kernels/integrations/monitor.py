"""Watching the redundancy of a model while it trains: what a plain loop calls, and what the adapters share."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from ckrm_kernels.distributed import team, team_of
from ckrm_kernels.integrations.curves import add_histograms, pooled_redundancy, scalars
from ckrm_kernels.measurement import measure
from ckrm_kernels.report import RedundancyReport
from ckrm_kernels.report.words import verdict
from ckrm_kernels.sharded import is_sharded
from ckrm_kernels.shrinking.bench import random_state_kept
from ckrm_kernels.shrinking.budget import checked_budget
from ckrm_kernels.shrinking.graph import trace
from ckrm_kernels.shrinking.inputs import as_inputs
from ckrm_kernels.shrinking.plan import ShrinkPlan, check_options, plan_shrink
from ckrm_kernels.whole_numbers import whole_number

Write = Callable[[RedundancyReport, int], None]


class RedundancyMonitor:
    """Measures a model every so many steps of its training, writes that to a log, and can shrink the model at the end.

    Measuring changes nothing: the model trains to the same bits as without a monitor.

    model: in training, wrapped (DistributedDataParallel, torch.compile) or not
    every: measure on each so many calls of `step`
    log_to: a `torch.utils.tensorboard.SummaryWriter`, which gets lambda^t of each layer and of all together, and the
        distribution of Psi in each; or a function of the `RedundancyReport` and the step
    start: steps done before, of a training that goes on
    stop_below: `should_stop` is True from when lambda^t over the pairs of all measured layers is below this
    shrink: what `finish` gives to `plan_shrink` beside the model, by name: `example_inputs` and a budget, say
    options: of `measure`, such as threshold, details=False, which is quicker, or scale_free
    Measures once at once. Raises TypeError or ValueError for an option that is none, a model in which nothing can be
    measured and one that can't be shrunk: before any training.
    Of several processes, those of `group` or all of torch.distributed, the first one measures and writes, and has the
    report. Every one of them has to call `step` where there is a `stop_below`, which all of them follow, and where they
    measure together: with a `group`, or where weights are sharded.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        every: int = 1,
        log_to: Any = None,
        start: int = 0,
        stop_below: float | None = None,
        shrink: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        self._every, self._done = whole_number("every", every), whole_number("start", start, 0)
        self._write: Write = _writing_to(log_to)
        self._stop_below = _checked_share("stop_below", stop_below)
        self._model, self._options, self._shrink = model, options, _checked_mapping("shrink", shrink)
        group = options.get("group")
        self._team = team() if group is None else team_of(group)
        self._measured: int | None = None
        self.should_stop = False
        """Whether lambda^t has been below `stop_below`; the same in every process."""
        self.report: RedundancyReport | None = None
        """The latest; None in processes other than the first, and where the weights had NaN or Inf."""
        self.plan: ShrinkPlan | None = None
        """What `finish` planned, if asked to."""
        self.shrunk: nn.Module | None = None
        """The small model that the plan makes; the trained one stays as it is."""
        if self._shrink is not None:
            _check_shrinkable(_unwrapped(model), self._shrink)
        self.observe(self._done)

    def step(self) -> None:
        """Counts a step of the training, an optimizer's or an epoch, and measures if it is time."""
        self._done += 1
        if self._done % self._every == 0:
            self.observe(self._done)

    def observe(self, step: int) -> RedundancyReport | None:
        """Measures now and writes that at the given step; the report, where this process has one."""
        try:
            self._measure_and_write(step)
        except Exception as error:
            self._follow_first(False, f"{type(error).__name__}: {error}")
            raise
        self._follow_first(self.report is not None and pooled_redundancy(self.report) < (self._stop_below or 0))
        return self.report

    def finish(self, step: int | None = None) -> RedundancyReport | None:
        """Measures what the training ended with, and plans the shrinking that was asked for; the report.

        step: at which to write; by default that which `step` counted
        """
        self.observe(self._done if step is None else step)
        if self._shrink is not None and self._team.is_first:
            try:
                model = _unwrapped(self._model)
                self.plan = plan_shrink(model, **_on_device_of(model, self._shrink))
                self.shrunk = self.plan.apply()
            except Exception as error:  # which must not take the trained model along
                warnings.warn(f"the model was not shrunk: {str(error) or type(error).__name__}", stacklevel=2)
        return self.report

    def _measure_and_write(self, step: int) -> None:
        first = self._team.is_first
        if first or self._measure_together():
            report = self._report(step)
            self.report = report if first else None
        if self.report is not None and step != self._measured:
            self._write(self.report, step)
        self._measured = step

    def _follow_first(self, below: bool, failure: str = "") -> None:
        """Stops where the first process does, and fails where it fails, which no other would know of."""
        if self._stop_below is None:
            return
        below, failure = self._team.gathered((below, failure))[0]
        if failure and not self._team.is_first:
            raise RuntimeError(f"the first process could not measure: {failure}")
        self.should_stop |= below

    def _measure_together(self) -> bool:
        """Whether all processes have to measure: those that parameters are spread over, or that share the work."""
        return self._options.get("group") is not None or any(map(is_sharded, self._model.parameters()))

    def _report(self, step: int) -> RedundancyReport | None:
        is_start = self._measured is None
        try:
            report = measure(self._model, **self._options)
        except ValueError as error:  # weights with NaN or Inf, which end no training that would go on
            if is_start:
                raise
            warnings.warn(f"redundancy could not be measured at step {step}: {error}", stacklevel=3)
            return None
        if is_start and not report.measured:
            raise ValueError(f"model must have a layer that can be measured. {verdict(report)}")
        return report


class MonitorResults:
    """What the adapters of trainers show of their monitor."""

    _monitor: RedundancyMonitor | None = None

    @property
    def report(self) -> RedundancyReport | None:
        """The latest `RedundancyReport`, in the first process; None before the training."""
        return self._monitor.report if self._monitor is not None else None

    @property
    def plan(self) -> ShrinkPlan | None:
        """The `ShrinkPlan` of the trained model, where `shrink` asked for one; None before the end."""
        return self._monitor.plan if self._monitor is not None else None

    @property
    def shrunk(self) -> nn.Module | None:
        """The small model that the plan makes; the trained one stays as it is."""
        return self._monitor.shrunk if self._monitor is not None else None


def checked_interval(every_steps: int | None, every_epochs: int | None) -> tuple[int | None, int | None]:
    """Steps or epochs between two measurements: an epoch where neither is given; ValueError where both are."""
    if every_steps is not None and every_epochs is not None:
        raise ValueError("every_steps or every_epochs must be given, not both")
    if every_steps is not None:
        return whole_number("every_steps", every_steps), None
    return None, whole_number("every_epochs", 1 if every_epochs is None else every_epochs)


def _writing_to(log_to: Any) -> Write:
    """What writes a report at a step."""
    if log_to is None:
        return lambda report, step: None
    if hasattr(log_to, "add_scalar") and hasattr(log_to, "add_histogram_raw"):
        return partial(_to_summary, log_to)
    if callable(log_to):
        write: Write = log_to
        return write
    raise TypeError(
        f"log_to must be a SummaryWriter or a function of the report and the step, got {type(log_to).__name__}"
    )


def _to_summary(writer: Any, report: RedundancyReport, step: int) -> None:
    for name, value in scalars(report).items():
        writer.add_scalar(name, value, step)
    add_histograms(writer, report, step)


def _checked_share(name: str, share: Any) -> float | None:
    if share is None:
        return None
    if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share <= 1:
        raise ValueError(f"{name} must be a number above 0 and at most 1, got {share!r}")
    return float(share)


def _checked_mapping(name: str, given: Any) -> dict[str, Any] | None:
    if given is not None and not isinstance(given, Mapping):
        raise TypeError(f"{name} must hold arguments of plan_shrink by their names, got {type(given).__name__}")
    return None if given is None else dict(given)


def _check_shrinkable(model: nn.Module, arguments: Mapping[str, Any]) -> None:
    """Raises TypeError or ValueError for what `plan_shrink` would refuse at once: names, options, inputs, a model."""
    try:
        bound = inspect.signature(plan_shrink).bind(model, **arguments)
    except TypeError as error:
        raise TypeError(f"shrink must hold arguments of plan_shrink: {error}") from None
    bound.apply_defaults()
    given = bound.arguments
    budget = checked_budget(*(given[name] for name in ("parameters", "macs", "latency", "tolerance")))
    check_options(budget, *(given[name] for name in ("calibration", "choose", "widths", "round_to", "seed")))
    with random_state_kept(model):
        trace(model, _on_device_of(model, arguments)["example_inputs"])


def _unwrapped(model: nn.Module) -> nn.Module:
    """The model without what runs it on many devices or compiled."""
    parallel = nn.DataParallel, nn.parallel.DistributedDataParallel
    while isinstance(model, parallel) or hasattr(model, "_orig_mod"):
        model = model.module if isinstance(model, parallel) else model.get_submodule("_orig_mod")
    return model


def _on_device_of(model: nn.Module, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments with the example inputs on the model's device, where a trainer may have moved it."""
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    inputs = as_inputs("example_inputs", arguments["example_inputs"])
    return {**arguments, "example_inputs": inputs.map(lambda tensor: tensor.to(device))}
