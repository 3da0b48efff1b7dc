"""The monitor as a callback of Hugging Face's trainer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ckrm_kernels.extras import require
from ckrm_kernels.integrations.curves import add_histograms, scalars
from ckrm_kernels.integrations.monitor import MonitorResults, RedundancyMonitor, checked_interval
from ckrm_kernels.report import RedundancyReport

with require("Hugging Face's callback", "transformers"):
    from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class RedundancyCallback(MonitorResults, TrainerCallback):
    """Measures the model while `trainer.train` trains it: `trainer.add_callback(RedundancyCallback(trainer))`.

    What `report_to` names gets lambda^t of each layer and of all together at the start, after every so many steps and
    at the end, as does `trainer.state.log_history`; TensorBoard gets the distribution of Psi in each layer, too.
    Measuring changes nothing: the model trains to the same bits as without.

    trainer: which is asked to log
    every_steps, every_epochs: of the optimizer, or epochs, between two measurements; an epoch where neither is given
    print_report: prints the table at the end
    stop_below, shrink, options: see `RedundancyMonitor`; the training stops where `stop_below` is reached, and the plan
        and the small model are then the callback's `plan` and `shrunk`
    Raises TypeError or ValueError for options that are none, at once or as `train` begins.
    """

    def __init__(
        self,
        trainer: Trainer,
        *,
        every_steps: int | None = None,
        every_epochs: int | None = None,
        stop_below: float | None = None,
        shrink: Mapping[str, Any] | None = None,
        print_report: bool = True,
        **options: Any,
    ) -> None:
        if not isinstance(trainer, Trainer):
            raise TypeError(f"trainer must be a transformers.Trainer, got {type(trainer).__name__}")
        self._trainer = trainer
        self._steps, self._epochs = checked_interval(every_steps, every_epochs)
        self._options = {"stop_below": stop_below, "shrink": shrink, **options}
        self._prints = print_report

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        """Measures what the training starts from."""
        self._logs = True
        self._monitor = RedundancyMonitor(
            self._trainer.model, start=state.global_step, log_to=self._write, **self._options
        )
        return control

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        """Measures, if so many steps were done, or if this was the last one."""
        is_due = self._steps is not None and state.global_step % self._steps == 0
        return self._observe(state, control) if is_due or control.should_training_stop else control

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        """Measures, if so many epochs were done."""
        is_due = self._epochs is not None and round(state.epoch or 0) % self._epochs == 0
        return self._observe(state, control) if is_due else control

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        """Measures what the training ended with, the best model where that was loaded, and plans the shrinking."""
        assert self._monitor is not None
        self._logs = False  # what the trainer logs to is closed by now
        report = self._monitor.finish(state.global_step)
        if report is not None and self._prints:
            print(report)
        return control

    def _observe(self, state: TrainerState, control: TrainerControl) -> TrainerControl:
        assert self._monitor is not None
        self._monitor.observe(state.global_step)
        control.should_training_stop = control.should_training_stop or self._monitor.should_stop
        return control

    def _write(self, report: RedundancyReport, step: int) -> None:
        if not self._logs:
            return
        control = self._trainer.control
        wanted = control.should_log
        self._trainer.log(scalars(report))
        control.should_log = wanted  # which logging takes for done
        for callback in self._trainer.callback_handler.callbacks:
            writer = getattr(callback, "tb_writer", None)
            if hasattr(writer, "add_histogram_raw"):
                add_histograms(writer, report, step)
