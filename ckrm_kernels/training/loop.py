"""The training loop."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn

from ckrm_kernels.data import Batch, Dataset
from ckrm_kernels.distributed import ALONE, team
from ckrm_kernels.models.network import cross_entropy
from ckrm_kernels.training.batches import load
from ckrm_kernels.training.config import Runtime, TrainingConfig
from ckrm_kernels.training.curves import Curves
from ckrm_kernels.training.evaluation import loss_and_accuracy
from ckrm_kernels.training.history import Epoch, Resumed, Step
from ckrm_kernels.training.objective import Loss
from ckrm_kernels.training.run_files import UnfinishedRun
from ckrm_kernels.training.state import TrainingState

_SECONDS_BETWEEN_STEPS = 0.2  # that are reported


def train(
    model: nn.Module,
    data: Dataset,
    config: TrainingConfig,
    seed: int,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    on_step: Callable[[Step], None] = lambda step: None,
    *,
    loss: Loss = cross_entropy,
    runtime: Runtime = Runtime(),  # noqa: B008
    unfinished: UnfinishedRun | None = None,
    on_resumed: Callable[[Resumed], None] = lambda resumed: None,
) -> tuple[Epoch, ...]:
    """Trains the model in place, on its device, and leaves it in evaluation mode.

    seed: decides the order of the images; the model's initial weights are the caller's
    loss: what the training makes small: of a described network its `loss`, see `models.Network`
    on_epoch: called after each epoch, on_step: from time to time between; what they raise ends the training
    unfinished: where the state is kept from time to time; one that is there is taken up, and the training then ends
        as an unbroken one would: on a CPU, with the same number of threads, bit by bit; on_resumed is called then
    Raises RuntimeError when the loss of either part is no longer finite.
    """
    state = TrainingState(model, data, config, seed, team() if runtime.data_parallel else ALONE, loss)
    with _deterministic(config.deterministic and state.device.type == "cuda"):
        training = _Training(state, data, runtime, unfinished)
        training.take_up(on_resumed)
        return training.run(on_epoch, on_step)


class _Training:
    def __init__(self, state: TrainingState, data: Dataset, runtime: Runtime, unfinished: UnfinishedRun | None):
        self._state, self._data, self._runtime, self._unfinished = state, data, runtime, unfinished
        self._saved = self._told = time.monotonic()

    def take_up(self, on_resumed: Callable[[Resumed], None]) -> None:
        """Goes on from the state of an unfinished run, if there is one."""
        if self._unfinished:
            self._unfinished.take_up(self._state.load_state_dict)
        state, before = self._state, self._state.threads_before
        if before is not None and not state.over:
            place, threads = (len(state.history) + 1, state.batch, len(state.batches())), torch.get_num_threads()
            on_resumed(Resumed(*place, threads, before if state.device.type == "cpu" else threads))

    def run(self, on_epoch: Callable[[Epoch], None], on_step: Callable[[Step], None]) -> tuple[Epoch, ...]:
        state = self._state
        with self._curves() as curves:
            while not state.over:
                self._rest_of_epoch(on_step)
                epoch = self._evaluated()
                state.finish_epoch(epoch)
                if curves:
                    curves.add(epoch)
                on_epoch(epoch)
                self._save_if_due()
        state.finish()
        return tuple(state.history)

    def _rest_of_epoch(self, on_step: Callable[[Step], None]) -> None:
        """The batches of the current epoch that are not done yet."""
        state, team = self._state, self._state.team
        batches = state.batches()
        rest = batches[state.batch :]
        own = [batch[team.rank :: team.size] for batch in rest]
        loaded = load(self._data.train, own, self._runtime.data_workers, pinned=state.device.type == "cuda")
        state.model.train()
        for whole, part in zip(rest, loaded, strict=True):
            loss = self._loss(part)
            # the team averages its gradients: each process counts as much as it has images
            state.step(loss * (len(part.labels) * team.size / len(whole)), len(whole))
            self._tell(on_step, len(batches))
            self._save_if_due()

    def _loss(self, batch: Batch) -> Tensor:
        state, config = self._state, self._state.config
        batch = batch.to(state.device, non_blocking=True)
        if config.channels_last:
            batch = batch._replace(images=batch.images.contiguous(memory_format=torch.channels_last))
        with torch.autocast(state.device.type, getattr(torch, config.precision), config.precision != "float32"):
            return state.objective(batch)

    def _evaluated(self) -> Epoch:
        """The epoch that has just gone through all its batches."""
        state, number = self._state, len(self._state.history) + 1
        mean_loss = state.team.sum(state.total).item() / state.team.size / len(self._data.train)
        if not math.isfinite(mean_loss):
            raise RuntimeError(f"training diverged: the loss became {mean_loss} in epoch {number}; lower learning_rate")
        # of one process: the others' running statistics, and then their schedules, may differ in the team
        loss, accuracy = state.team.of_first(lambda: loss_and_accuracy(state.model, self._data.validation))
        if not math.isfinite(loss):
            raise RuntimeError(
                f"training diverged: the validation loss became {loss} in epoch {number}; lower learning_rate"
            )
        return Epoch(number, mean_loss, loss, accuracy, state.learning_rate)

    def _tell(self, on_step: Callable[[Step], None], batches: int) -> None:
        state, now = self._state, time.monotonic()
        if now - self._told >= _SECONDS_BETWEEN_STEPS:
            self._told = now
            done = min(state.batch * state.config.batch_size, len(self._data.train))
            on_step(Step(len(state.history) + 1, state.batch, batches, state.total.item() / done))

    def _save_if_due(self) -> None:
        if self._unfinished is None or time.monotonic() - self._saved < self._runtime.checkpoint_seconds:
            return
        if self._state.team.is_first:
            self._unfinished.save(self._state.state_dict())
        self._saved = time.monotonic()

    def _curves(self) -> Curves | nullcontext[None]:
        if self._unfinished is None or not self._runtime.tensorboard or not self._state.team.is_first:
            return nullcontext()
        return Curves(self._unfinished.folder / "tensorboard", len(self._state.history) + 1)


@contextmanager
def _deterministic(wanted: bool) -> Iterator[None]:
    """Only algorithms that repeat bit by bit, where wanted."""
    before = torch.are_deterministic_algorithms_enabled()
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
