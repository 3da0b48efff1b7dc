"""The training loop."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from ckrm_kernels.data import Dataset
from ckrm_kernels.training.evaluation import accuracy


@dataclass(frozen=True)
class TrainingConfig:
    """SGD with momentum under the one-cycle schedule.

    epochs, batch_size: whole numbers >= 1
    learning_rate: the peak of the cycle, > 0
    momentum: in [0, 1), constant; weight_decay: >= 0, on every parameter
    """

    epochs: int = 20
    batch_size: int = 64
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-2

    def __post_init__(self) -> None:
        for name, count in (("epochs", self.epochs), ("batch_size", self.batch_size)):
            if not isinstance(count, int) or count < 1:
                raise ValueError(f"{name} must be a whole number >= 1, got {count!r}")
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate must be a finite number > 0, got {self.learning_rate!r}")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must lie in [0, 1), got {self.momentum!r}")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight_decay must be a finite number >= 0, got {self.weight_decay!r}")


@dataclass(frozen=True)
class Epoch:
    """What one epoch gave: its number from 1, the mean training loss and the accuracy on the validation part."""

    number: int
    loss: float
    validation_accuracy: float


def train(
    model: nn.Module,
    data: Dataset,
    config: TrainingConfig,
    seed: int,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
) -> tuple[Epoch, ...]:
    """Trains the model in place and leaves it in evaluation mode.

    seed: decides the order of the images; the model's initial weights are the caller's
    on_epoch: called after each epoch; what it raises ends the training
    Raises RuntimeError when the loss is no longer finite.
    """
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(
        model.parameters(), config.learning_rate, config.momentum, weight_decay=config.weight_decay
    )
    steps = config.epochs * math.ceil(len(data.train) / config.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config.learning_rate, total_steps=steps, cycle_momentum=False
    )
    history = []
    for number in range(1, config.epochs + 1):
        model.train()
        total = torch.zeros(())
        for batch in torch.randperm(len(data.train), generator=generator).split(config.batch_size):
            loss = functional.cross_entropy(model(data.train.images[batch]), data.train.labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.detach() * batch.numel()
        mean_loss = total.item() / len(data.train)
        if not math.isfinite(mean_loss):
            raise RuntimeError(f"training diverged: the loss became {mean_loss} in epoch {number}; lower learning_rate")
        history.append(Epoch(number, mean_loss, accuracy(model, data.validation)))
        on_epoch(history[-1])
    model.eval()
    return tuple(history)
