"""Several processes that work on one task: those that torchrun started, or those of a process group."""

from __future__ import annotations

import heapq
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, distributed

from ckrm_kernels.failures import Failures

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

T = TypeVar("T")
_PATIENCE = timedelta(days=7)  # with processes that still train
_failures: Failures | None = None


class PeerError(RuntimeError):
    """Another process of the team failed, or can't be reached; the message holds its own, or the backend's."""


@dataclass(frozen=True)
class Team:
    """So many processes that work together, of which this one has the given rank, from 0.

    group: of torch.distributed; None where they are all that have joined
    """

    rank: int = 0
    size: int = 1
    group: ProcessGroup | None = None

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes what is common, and speaks."""
        return self.rank == 0

    def wait(self) -> None:
        """Returns when every process has come here."""
        if self.size > 1:
            distributed.barrier(self.group)

    def sum(self, value: Tensor) -> Tensor:
        """The sum of the value over the processes, on its device."""
        if self.size == 1:
            return value
        total = value.to(self._device(value), copy=True)
        with _reaching_all():
            distributed.all_reduce(total, group=self.group)
        return total.to(value.device)

    def gathered(self, value: T) -> list[T]:
        """The value of each process, by rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        with _reaching_all():
            distributed.all_gather_object(values, value, self.group)
        return values

    def broadcast(self, tensors: Sequence[Tensor], rank: int) -> list[Tensor]:
        """The tensors of one process; those of the others give shapes, dtypes and devices."""
        if self.size == 1:
            return list(tensors)
        kinds: dict[tuple[torch.device, torch.dtype], list[int]] = {}
        for index, tensor in enumerate(tensors):
            kinds.setdefault((tensor.device, tensor.dtype), []).append(index)
        found: dict[int, Tensor] = {}
        for indices in kinds.values():
            some = [tensors[index] for index in indices]
            flat = torch.cat([tensor.flatten() for tensor in some]).to(self._device(some[0]))
            with _reaching_all():
                distributed.broadcast(flat, self.rank_of_all(rank), self.group)
            parts = flat.to(some[0].device).split([tensor.numel() for tensor in some])
            found.update((index, part.view(tensors[index].shape)) for index, part in zip(indices, parts, strict=True))
        return [found[index] for index in range(len(tensors))]

    def of_first(self, compute: Callable[[], T]) -> T:
        """What the function gives in the first process, the only one that calls it."""
        return self.gathered(compute() if self.is_first else None)[0]  # type: ignore[return-value]

    def shared(
        self,
        costs: Sequence[float],
        compute: Callable[[int], T],
        track: Callable[[Sequence[int]], Iterable[int]] = iter,
    ) -> list[T]:
        """What the function gives for each piece of work, computed by one of the processes and known to all.

        costs: of each piece, in any unit, the same on every process; track: wraps the iteration over this one's pieces
        """
        done = {}
        for piece in track(sorted(dealt_out(costs, self.size)[self.rank])):
            stop_if_one_failed()
            done[piece] = compute(piece)
        of_all = {piece: value for part in self.gathered(done) for piece, value in part.items()}
        return [of_all[piece] for piece in range(len(costs))]

    @contextmanager
    def together(self) -> Iterator[None]:
        """Where one process fails within, all do: it with its own error, the others with a `PeerError`.

        Within, `check` comes before everything that all of them take part in.
        """
        if self.size == 1:
            yield
            return
        try:
            yield
        except PeerError:
            raise
        except Exception as error:
            self.check(error)
            raise
        self.check()

    def check(self, error: Exception | None = None) -> None:
        """Raises `PeerError` where another process came here with an error, and this one without."""
        if self.size == 1 or not int(self.sum(torch.tensor(int(error is not None), device="cpu"))):
            return
        failures = self.gathered(f"{type(error).__name__}: {error}" if error else None)
        if error is None:
            rank = next(rank for rank, failure in enumerate(failures) if failure)
            raise PeerError(f"rank {self.rank_of_all(rank)} failed: {failures[rank]}")

    def check_agreement(self, facts_of_process: Callable[[], Sequence[str]]) -> None:
        """Raises ValueError on all processes, with the first difference, unless the facts are the same on each.

        facts_of_process: gives them, and is not called where there is one process
        """
        if self.size == 1:
            return
        facts = facts_of_process()
        self.check()
        digests = torch.zeros(self.size, 4, dtype=torch.int64, device="cpu")
        digests[self.rank] = torch.frombuffer(bytearray(sha256("\n".join(facts).encode()).digest()), dtype=torch.int64)
        digests = self.sum(digests)  # of zeros elsewhere, which takes less than to gather them as objects
        differing = (digests != digests[0]).any(1).nonzero().flatten().tolist()
        if not differing:
            return
        of_all, other = self.gathered(list(facts)), differing[0]
        pairs = zip_longest(of_all[0], of_all[other], fillvalue="nothing more")
        ours, theirs = next((ours, theirs) for ours, theirs in pairs if ours != theirs)
        raise ValueError(
            f"the processes must be given the same: rank {self.rank_of_all(0)} has {ours} "
            f"where rank {self.rank_of_all(other)} has {theirs}"
        )

    def _device(self, value: Tensor) -> torch.device | str:
        """Where the group's backend takes a tensor: on its own device if it can."""
        kinds = distributed.get_backend_config(self.group)
        return value.device if f"{value.device.type}:" in kinds else "cuda" if "cuda:" in kinds else "cpu"

    def rank_of_all(self, rank: int) -> int:
        """A rank of the group as that of all processes, by which torchrun and its logs know it."""
        return rank if self.group is None else distributed.get_global_rank(self.group, rank)


ALONE = Team()


def dealt_out(costs: Sequence[float], processes: int) -> list[list[int]]:
    """Which pieces of work each process takes: the most costly first, each by the one that has least to do."""
    loads = [(0.0, rank) for rank in range(processes)]
    taken: list[list[int]] = [[] for _ in loads]
    for piece in sorted(range(len(costs)), key=lambda piece: -costs[piece]):
        load, rank = loads[0]
        taken[rank].append(piece)
        heapq.heapreplace(loads, (load + costs[piece], rank))
    return taken


def team() -> Team:
    """All processes that have joined; this one alone where torchrun started none."""
    has_joined = distributed.is_available() and distributed.is_initialized()
    return Team(distributed.get_rank(), distributed.get_world_size()) if has_joined else ALONE


@contextmanager
def _reaching_all() -> Iterator[None]:
    """The backend's error, where a process does not answer, as a `PeerError`."""
    try:
        yield
    except RuntimeError as error:
        raise PeerError(f"a process of the group has ended or can't be reached: {error}") from error


def team_of(group: ProcessGroup | None) -> Team:
    """The processes of a group of torch.distributed; None: this one alone.

    Raises TypeError for what is no group, ValueError where this process is not in it, RuntimeError where
    torch.distributed has not been initialised, or the group is destroyed.
    """
    if group is None:
        return ALONE
    if not (distributed.is_available() and distributed.is_initialized()):
        raise RuntimeError("group: torch.distributed is not initialised; call init_process_group first")
    if group is distributed.GroupMember.NON_GROUP_MEMBER:
        raise ValueError("group: this process is not in it; call only where new_group gave a process group")
    if not isinstance(group, distributed.ProcessGroup):
        hint = ": pass its get_group()" if hasattr(group, "get_group") else ""
        raise TypeError(f"group must be a process group of torch.distributed, got {type(group).__name__}{hint}")
    try:
        rank = distributed.get_rank(group)
    except ValueError as error:
        raise RuntimeError("group: it was destroyed") from error
    if rank < 0:
        raise ValueError("group: this process is not in it; call only where new_group gave a process group")
    return Team(rank, distributed.get_world_size(group), group)


def stop_if_one_failed() -> None:
    """Raises `PeerError` where another process that torchrun started has failed."""
    if _failures is not None and (words := _failures.of_another()):
        raise PeerError(words)


@contextmanager
def joined(gpus: bool = True) -> Iterator[Team]:
    """Joins the processes that torchrun started, if it did, and leaves them at the end.

    gpus: whether each takes a GPU, where there are any
    Where one of them fails or is gone, the others raise a `PeerError` that names it, at the next thing that they do
    together; it raises its own error.
    """
    global _failures
    if "TORCHELASTIC_RUN_ID" not in os.environ or distributed.is_initialized():
        yield team()
        return
    backend = "gloo"
    if gpus and torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
        backend = "cpu:gloo,cuda:nccl"
    store, rank, size = next(distributed.rendezvous("env://"))
    distributed.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=_PATIENCE)
    _failures = Failures(store, rank, size)
    try:
        yield team()
        team().wait()  # so that none leaves while another still talks to it
    except BaseException as error:
        if words := _why(error, _failures):
            raise PeerError(words) from error
        raise
    finally:
        _failures.close()
        _failures = None
        distributed.destroy_process_group()


def _why(error: BaseException, failures: Failures) -> str | None:
    """The failure of another process that an error comes of; None for one of this process, which is reported."""
    if words := failures.of_another():
        return words
    if isinstance(error, KeyboardInterrupt):
        return None
    is_broken = isinstance(error, (distributed.DistError, PeerError)) or (
        type(error) is RuntimeError and "gloo" in str(error)
    )
    if is_broken and (words := failures.gone()):
        return words
    failures.report(error)
    return None
