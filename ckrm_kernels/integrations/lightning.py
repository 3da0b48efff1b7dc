"""The monitor as a callback of Lightning's trainer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ckrm_kernels.extras import require
from ckrm_kernels.integrations.curves import add_histograms, scalars
from ckrm_kernels.integrations.monitor import MonitorResults, RedundancyMonitor, checked_interval
from ckrm_kernels.report import RedundancyReport

with require("Lightning's callback", "lightning"):
    from lightning.pytorch import Callback, LightningModule, Trainer


class RedundancyCallback(MonitorResults, Callback):
    """Measures the module while `Trainer.fit` trains it: `Trainer(callbacks=[RedundancyCallback(every_steps=100)])`.

    The trainer's loggers get lambda^t of each layer and of all together at the start, after every so many steps and at
    the end; a `TensorBoardLogger` gets the distribution of Psi in each layer, too. Measuring changes nothing: the
    module trains to the same bits as without.

    every_steps, every_epochs: of the optimizer, or epochs, between two measurements; an epoch where neither is given
    print_report: prints the table at the end
    stop_below, shrink, options: see `RedundancyMonitor`; the trainer stops where `stop_below` is reached, and the plan
        and the small model are then the callback's `plan` and `shrunk`
    Raises TypeError or ValueError for options that are none, at once or as `fit` begins.
    """

    def __init__(
        self,
        *,
        every_steps: int | None = None,
        every_epochs: int | None = None,
        stop_below: float | None = None,
        shrink: Mapping[str, Any] | None = None,
        print_report: bool = True,
        **options: Any,
    ) -> None:
        self._steps, self._epochs = checked_interval(every_steps, every_epochs)
        self._options = {"stop_below": stop_below, "shrink": shrink, **options}
        self._prints = print_report

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measures what the training starts from."""

        def write(report: RedundancyReport, step: int) -> None:
            _write(trainer, report, step)

        self._at = trainer.global_step
        self._monitor = RedundancyMonitor(pl_module, start=self._at, log_to=write, **self._options)

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Measures, if so many steps were done."""
        if self._steps is not None and trainer.global_step // self._steps > self._at // self._steps:
            self._observe(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measures, if so many epochs were done."""
        if self._epochs is not None and (trainer.current_epoch + 1) % self._epochs == 0:
            self._observe(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measures what the training ended with, and plans the shrinking that was asked for."""
        assert self._monitor is not None
        report = self._monitor.finish(trainer.global_step)
        if report is not None and self._prints:
            print(report)

    def _observe(self, trainer: Trainer) -> None:
        assert self._monitor is not None
        self._at = trainer.global_step
        self._monitor.observe(self._at)
        trainer.should_stop = trainer.should_stop or self._monitor.should_stop


def _write(trainer: Trainer, report: RedundancyReport, step: int) -> None:
    for logger in trainer.loggers:
        logger.log_metrics(scalars(report), step=step)
        writer = getattr(logger, "experiment", None)
        if hasattr(writer, "add_histogram_raw"):
            add_histograms(writer, report, step)
