"""Several processes that work on one task, started by torchrun."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
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

    def portion(self, costs: Sequence[float]) -> list[int]:
        """Which pieces of work this process does: the costliest first, each goes to who has least to do by then."""
        loads, mine = [0.0] * self.size, []
        for piece in sorted(range(len(costs)), key=lambda piece: (-costs[piece], piece)):
            least = loads.index(min(loads))
            loads[least] += costs[piece]
            if least == self.rank:
                mine.append(piece)
        return sorted(mine)

    def shared(
        self,
        costs: Sequence[float],
        compute: Callable[[int], T],
        track: Callable[[Sequence[int]], Iterable[int]] = iter,
    ) -> list[T]:
        """What the function gives for each piece of work, computed in one of the processes and known to all.

        costs: of each piece, in any unit, the same in every process; track: wraps the iteration over this one's pieces
        """
        done = {}
        for piece in track(self.portion(costs)):
            done[piece] = compute(piece)
        if self.size > 1:
            of_all: list[Any] = [None] * self.size
            distributed.all_gather_object(of_all, done)
            done = {piece: value for each in of_all for piece, value in each.items()}
        return [done[piece] for piece in range(len(costs))]


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
