"""What is reported of a training while it runs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Epoch:
    """What one epoch gave: its number from 1, and means over the training and the validation part.

    learning_rate: at its end
    """

    number: int
    loss: float
    validation_loss: float
    validation_accuracy: float
    learning_rate: float


@dataclass(frozen=True)
class Resumed:
    """Where an unfinished training is taken up: in which epoch from 1, after how many of its batches.

    threads: torch's in this process now; threads_before: on a CPU, when the state was saved
    """

    epoch: int
    batch: int
    batches: int
    threads: int
    threads_before: int


@dataclass(frozen=True)
class Step:
    """Where a training is: in which epoch from 1, after how many of its batches, and the mean loss so far in it."""

    epoch: int
    batch: int
    batches: int
    loss: float


Event = Epoch | Step | Resumed
