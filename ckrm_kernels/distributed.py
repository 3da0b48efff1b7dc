"""Several processes that work on one task, started by torchrun."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

T = TypeVar("T")
_PATIENCE = timedelta(days=7)  # with processes that still train


@dataclass(frozen=True)
class Team:
    """So many processes that work together, of which this one has the given rank, from 0."""

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes what is common, and speaks."""
        return self.rank == 0

    def wait(self) -> None:
        """Returns when every process has come here."""
        if self.size > 1:
            distributed.barrier()

    def sum(self, value: Tensor) -> Tensor:
        """The sum of the value over the processes."""
        if self.size > 1:
            value = value.clone()
            distributed.all_reduce(value)
        return value

    def of_first(self, compute: Callable[[], T]) -> T:
        """What the function gives in the first process, the only one that calls it."""
        if self.size == 1:
            return compute()
        result: list[Any] = [compute() if self.is_first else None]
        distributed.broadcast_object_list(result, device=torch.device("cpu"))
        value: T = result[0]
        return value


ALONE = Team()


def team() -> Team:
    """All processes that have joined; this one alone where torchrun started none."""
    return Team(distributed.get_rank(), distributed.get_world_size()) if distributed.is_initialized() else ALONE


@contextmanager
def joined() -> Iterator[Team]:
    """Joins the processes that torchrun started, if it did, and leaves them at the end."""
    if "TORCHELASTIC_RUN_ID" not in os.environ or distributed.is_initialized():
        yield team()
        return
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
        backend = "cpu:gloo,cuda:nccl"
    distributed.init_process_group(backend, timeout=_PATIENCE)
    try:
        yield team()
        team().wait()  # so that none leaves while another still talks to it
    finally:
        distributed.destroy_process_group()
