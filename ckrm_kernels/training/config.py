"""How a network is trained, and on what."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from ckrm_kernels.training.history import Epoch
from ckrm_kernels.whole_numbers import whole_number

OPTIMIZERS = ("sgd", "adamw", "rmsprop")
SCHEDULES = ("one-cycle", "cosine", "plateau")
PRECISIONS = ("float32", "bfloat16", "float16")
DECAYING = ("all", "weights")


@dataclass(frozen=True)
class TrainingConfig:
    """Everything about the training that decides its result, beside the network, the data and the seed.

    epochs, batch_size: whole numbers >= 1; epochs is the most where `early_stop` or the plateau may end it before
    optimizer: "sgd", "adamw" or "rmsprop"
    learning_rate: > 0; the peak of the one-cycle schedule, the start of the others
    momentum: in [0, 1), constant; of sgd and rmsprop
    weight_decay: >= 0
    weight_decay_on: "all" parameters; or "weights" of convolutions and linear layers alone, those of two or more
        dimensions, and so neither biases nor norms
    schedule: "one-cycle" and "cosine" move with every batch; "plateau" multiplies the rate by `plateau_factor` after
        `plateau_patience` epochs without a lower validation loss, goes back to the best weights, and ends the
        training when the rate falls below `lowest_rate`
    warmup_epochs: of "cosine", in which the rate first rises in equal steps, one a batch; fewer than `epochs`
    label_smoothing: in [0, 1), the share of each label that all classes have alike in the loss that is trained; the
        validation loss is without
    early_stop: epochs without a lower validation loss after which the training ends; None never ends it so
    balance_classes: weighs each class by the inverse of its frequency
    precision: of the convolutions; "float16" scales the loss
    channels_last: the memory format; compile: the network goes through torch.compile
    deterministic: only algorithms that repeat bit by bit, on a GPU too

    With "plateau" or `early_stop` the weights of the lowest validation loss are kept, else the last ones.
    Raises ValueError, naming it, for a setting that is not as above.
    """

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    epochs: int = 20
    batch_size: int = 64
    optimizer: Literal["sgd", "adamw", "rmsprop"] = "sgd"
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-2
    weight_decay_on: Literal["all", "weights"] = "all"
    schedule: Literal["one-cycle", "cosine", "plateau"] = "one-cycle"
    warmup_epochs: int = 0
    plateau_patience: int = 40
    plateau_factor: float = 0.1
    lowest_rate: float = 1e-8
    early_stop: int | None = None
    label_smoothing: float = 0.0
    balance_classes: bool = False
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    channels_last: bool = False
    compile: bool = False
    deterministic: bool = True

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "plateau_patience", "early_stop"):
            count = getattr(self, name)
            if count is None and name == "early_stop":
                continue
            count = whole_number(name, count)
            if count >= 2**63:
                raise ValueError(f"{name} must be below 2^63, got {count!r}")
            object.__setattr__(self, name, count)
        named = {
            "optimizer": OPTIMIZERS,
            "schedule": SCHEDULES,
            "precision": PRECISIONS,
            "weight_decay_on": DECAYING,
        }
        for name, accepted in named.items():
            if getattr(self, name) not in accepted:
                raise ValueError(f"{name} must be one of {', '.join(accepted)}, got {getattr(self, name)!r}")
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate must be a finite number > 0, got {self.learning_rate!r}")
        if not 0 < self.lowest_rate < math.inf:
            raise ValueError(f"lowest_rate must be a finite number > 0, got {self.lowest_rate!r}")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must lie in [0, 1), got {self.momentum!r}")
        if not 0 < self.plateau_factor < 1:
            raise ValueError(f"plateau_factor must lie between 0 and 1, got {self.plateau_factor!r}")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight_decay must be a finite number >= 0, got {self.weight_decay!r}")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing must lie in [0, 1), got {self.label_smoothing!r}")
        self._check_warmup()

    def _check_warmup(self) -> None:
        object.__setattr__(self, "warmup_epochs", whole_number("warmup_epochs", self.warmup_epochs, 0))
        if self.warmup_epochs and self.schedule != "cosine":
            raise ValueError(f"warmup_epochs must be 0 for the schedule {self.schedule}, got {self.warmup_epochs!r}")
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs must be fewer than epochs, {self.epochs}, got {self.warmup_epochs!r}")

    @property
    def keeps_best(self) -> bool:
        """Whether the weights of the lowest validation loss are the result."""
        return self.schedule == "plateau" or self.early_stop is not None

    def kept(self, history: Sequence[Epoch]) -> Epoch:
        """The epoch of a finished training whose weights are the result."""
        return min(history, key=lambda epoch: epoch.validation_loss) if self.keeps_best else history[-1]


@dataclass(frozen=True)
class Runtime:
    """What a training runs on; nothing here decides the result, but for its last bits.

    device: "auto" takes a GPU where there is one; else as torch.device names it
    threads: of a run on a CPU; the last bits of the result depend on it. None takes 1; where `train_runs` trains fewer
        networks side by side than there are cores, as many as each has, but no more than OMP_NUM_THREADS
    data_workers: processes that load the data ahead, 0 for none
    checkpoint_seconds: time between two checkpoints of an unfinished run
    tensorboard: writes curves for TensorBoard beside the run
    data_parallel: the processes that torchrun started share each batch, else they share the runs
    Raises ValueError, naming it, for a setting that is not as above, or a device that there is not.
    """

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    device: str = "auto"
    threads: int | None = None
    data_workers: int = 0
    checkpoint_seconds: float = 30.0
    tensorboard: bool = False
    data_parallel: bool = False

    def __post_init__(self) -> None:
        if self.threads is not None:
            object.__setattr__(self, "threads", whole_number("threads", self.threads))
        object.__setattr__(self, "data_workers", whole_number("data_workers", self.data_workers, 0))
        if not self.checkpoint_seconds >= 0:
            raise ValueError(f"checkpoint_seconds must be >= 0, got {self.checkpoint_seconds!r}")
        self.torch_device()

    def torch_device(self) -> torch.device:
        """The device; raises ValueError where it can't be used here."""
        if self.device == "auto":
            return (
                torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
            )
        try:
            device = torch.device(self.device)
        except RuntimeError as error:
            raise ValueError(f"device must be auto, cpu, cuda or cuda:N, got {self.device!r}") from error
        if device.type not in ("cpu", "cuda"):
            raise ValueError(f"device must be auto, cpu, cuda or cuda:N, got {self.device!r}")
        if device.type == "cuda" and not torch.cuda.is_available():
            raise ValueError(f"device is {self.device!r}, but torch finds no GPU here; accepted are auto and cpu")
        return device
