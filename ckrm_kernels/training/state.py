"""A training between two of its steps: everything that decides how it goes on."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ckrm_kernels.data import Batch, Dataset
from ckrm_kernels.distributed import ALONE, Team
from ckrm_kernels.models.network import cross_entropy
from ckrm_kernels.training.batches import shuffled
from ckrm_kernels.training.config import TrainingConfig
from ckrm_kernels.training.history import Epoch
from ckrm_kernels.training.objective import Loss, Objective, balanced_weights

_SMALLEST = 2  # images of a batch in each process: batch normalisation needs a variance


class TrainingState:
    """The network with its optimiser, schedule, loss scaler, random numbers, order of the data and history.

    team: the processes that share each batch
    objective: gives the loss; averages the gradients of the team, and is compiled where asked for
    batch: how many batches of the current epoch are done; total: sum of the losses of their images
    threads_before: torch's in the process that saved the state taken up; None of a training from its start
    """

    def __init__(
        self,
        model: nn.Module,
        data: Dataset,
        config: TrainingConfig,
        seed: int,
        team: Team = ALONE,
        loss: Loss = cross_entropy,
    ) -> None:
        self.model, self.config, self.device = model, config, next(model.parameters()).device
        self.team, self._size = team, len(data.train)
        least = _SMALLEST * team.size
        if team.size > 1 and min(config.batch_size, self._size) < least:
            raise ValueError(
                f"batch_size and the training images must be at least {least} for {team.size} processes that share "
                f"each batch, got {config.batch_size} and {self._size}"
            )
        if config.channels_last:
            self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.objective = self._objective(data, loss)
        self.optimizer = _optimizer(self.model, config)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=config.precision == "float16")
        self.history: list[Epoch] = []
        self.batch = 0
        self.total = torch.zeros((), device=self.device)
        self.best: dict[str, Tensor] = {}
        self.threads_before: int | None = None
        self._order = torch.Generator().manual_seed(seed)
        self._order_of_epoch = self._order.get_state()
        self.schedule = _schedule(self.optimizer, config, len(self.batches()))

    @property
    def over(self) -> bool:
        """Whether the last epoch is done."""
        if not self.history:
            return False
        if len(self.history) >= self.config.epochs:
            return True
        if self.config.schedule == "plateau" and self.learning_rate < self.config.lowest_rate:
            return True
        return self.config.early_stop is not None and self._epochs_since_best() >= self.config.early_stop

    @property
    def learning_rate(self) -> float:
        """Of the next batch."""
        return float(self.optimizer.param_groups[0]["lr"])

    def batches(self) -> tuple[Tensor, ...]:
        """The indices of the current epoch's images, batch by batch; the same each time that it is asked for."""
        self._order.set_state(self._order_of_epoch)
        return shuffled(self._size, self.config.batch_size, _SMALLEST * self.team.size, self._order)

    def step(self, loss: Tensor, images: int) -> None:
        """One step of the optimiser down the gradient of the loss of a batch of so many images."""
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.config.schedule != "plateau":
            self.schedule.step()
        self.total += loss.detach() * images
        self.batch += 1

    def finish_epoch(self, epoch: Epoch) -> None:
        """Takes up what the epoch gave and turns to the next."""
        lowest = min((past.validation_loss for past in self.history), default=math.inf)
        self.history.append(epoch)
        self.batch, self.total = 0, torch.zeros((), device=self.device)
        self._order_of_epoch = self._order.get_state()
        if self.config.keeps_best and (epoch.validation_loss < lowest or not self.best):
            self.best = {name: value.clone() for name, value in self.model.state_dict().items()}
        if self.config.schedule == "plateau":
            before = self.learning_rate
            self.schedule.step(epoch.validation_loss)
            if self.learning_rate < before:
                self.model.load_state_dict(self.best)

    def finish(self) -> None:
        """Leaves the model with the weights to keep, in evaluation mode."""
        if self.best:
            self.model.load_state_dict(self.best)
        self.model.eval()

    def state_dict(self) -> dict[str, Any]:
        """Everything, as nested dicts and lists of tensors and plain values."""
        random = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            random["cuda"] = torch.cuda.get_rng_state(self.device)
        return {
            "model": self.model.state_dict(),
            "best": self.best,
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "random": random,
            "order": self._order_of_epoch,
            "history": [vars(epoch) for epoch in self.history],
            "batch": self.batch,
            "total": self.total,
            "threads": torch.get_num_threads(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from what `state_dict` gave."""
        self.model.load_state_dict(state["model"])
        self.best = {name: value.to(self.device) for name, value in state["best"].items()}
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.scaler.load_state_dict(state["scaler"])
        self._order_of_epoch = state["order"]
        self.history = [Epoch(**epoch) for epoch in state["history"]]
        self.batch, self.total = state["batch"], state["total"].to(self.device)
        self.threads_before = state["threads"]
        torch.set_rng_state(state["random"]["cpu"])
        if self.device.type == "cuda" and "cuda" in state["random"]:
            torch.cuda.set_rng_state(state["random"]["cuda"], self.device)

    def _objective(self, data: Dataset, loss: Loss) -> Callable[[Batch], Tensor]:
        weights = balanced_weights(data.train.labels, data.classes) if self.config.balance_classes else None
        objective: Any = Objective(self.model, loss, weights, self.config.label_smoothing).to(self.device)
        if self.team.size > 1:
            objective = nn.parallel.DistributedDataParallel(objective)
        return torch.compile(objective) if self.config.compile else objective

    def _epochs_since_best(self) -> int:
        losses = [epoch.validation_loss for epoch in self.history]
        return len(losses) - 1 - losses.index(min(losses))


def _optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    groups, rate = _parameter_groups(model, config), config.learning_rate
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, rate)
    if config.optimizer == "rmsprop":
        return torch.optim.RMSprop(groups, rate, momentum=config.momentum)
    return torch.optim.SGD(groups, rate, config.momentum)


def _parameter_groups(model: nn.Module, config: TrainingConfig) -> list[dict[str, Any]]:
    """The trainable parameters, those that decay first and, where others do not, these."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if config.weight_decay_on == "all":
        return [{"params": parameters, "weight_decay": config.weight_decay}]
    weights = [parameter for parameter in parameters if parameter.dim() > 1]
    others = [parameter for parameter in parameters if parameter.dim() <= 1]
    return [{"params": weights, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]


def _schedule(optimizer: torch.optim.Optimizer, config: TrainingConfig, batches: int) -> Any:
    if config.schedule == "plateau":
        return torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimizer, factor=config.plateau_factor, patience=config.plateau_patience, threshold=0.0, eps=0.0
        )
    steps = config.epochs * batches
    if config.schedule == "cosine":
        return _cosine(optimizer, steps, config.warmup_epochs * batches)
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, config.learning_rate, total_steps=steps, cycle_momentum=False)


def _cosine(optimizer: torch.optim.Optimizer, steps: int, warmup: int) -> Any:
    """Down to 0 by half a cosine; before it, in so many of the steps, up in equal ones from the first of them."""
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps - warmup)
    if not warmup:
        return cosine
    linear = torch.optim.lr_scheduler.LinearLR(optimizer, 1 / warmup, total_iters=warmup - 1)
    return torch.optim.lr_scheduler.SequentialLR(optimizer, [linear, cosine], [warmup])
