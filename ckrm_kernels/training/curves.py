"""The course of a training for TensorBoard."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

from ckrm_kernels.extras import require
from ckrm_kernels.training.history import Epoch


class Curves:
    """Writes an epoch's numbers as TensorBoard reads them; use it in a `with` statement.

    folder: of the event files
    first: number of the first epoch to come; what an earlier, killed start wrote from there on is left out
    """

    def __init__(self, folder: Path, first: int) -> None:
        with require("writing curves", "tensorboard"):
            from torch.utils.tensorboard import SummaryWriter
        self._writer: Any = SummaryWriter(str(folder), purge_step=first)

    def add(self, epoch: Epoch) -> None:
        """Writes the epoch."""
        for name, value in (
            ("loss/training", epoch.loss),
            ("loss/validation", epoch.validation_loss),
            ("accuracy/validation", epoch.validation_accuracy),
            ("learning rate", epoch.learning_rate),
        ):
            self._writer.add_scalar(name, value, epoch.number)
        self._writer.flush()

    def __enter__(self) -> Curves:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()
