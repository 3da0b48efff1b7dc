"""Several training runs side by side, one process each.

On a CPU each has a fixed number of threads, one by default, which makes its result independent of the number of cores
and of what runs beside it.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Event as Signal
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ckrm_kernels.data import Dataset
from ckrm_kernels.data.identity import differences
from ckrm_kernels.distributed import team
from ckrm_kernels.models import Network
from ckrm_kernels.storage.files import sha256_of
from ckrm_kernels.storage.run_folders import WEIGHTS
from ckrm_kernels.training.config import Runtime, TrainingConfig
from ckrm_kernels.training.history import Event
from ckrm_kernels.training.loop import train
from ckrm_kernels.training.run_files import Run, UnfinishedRun, check_replaceable, load_run, load_weights, save_run
from ckrm_kernels.training.trained import metadata_of
from ckrm_kernels.whole_numbers import whole_number

OnEvent = Callable[[int, Event], None]


@dataclass(frozen=True)
class Job:
    """One training run.

    network: what is trained, by its own loss
    load_data: gives the data set; has to be picklable, so that a worker can call it
    data: what identifies the data set, as JSON
    folder: where the run is written
    runtime: what it runs on
    start: the folder of the finished run whose weights it begins with; None begins with new ones
    """

    network: Network
    load_data: Callable[[], Dataset]
    data: dict[str, Any]
    config: TrainingConfig
    seed: int
    folder: Path
    runtime: Runtime = Runtime(device="cpu")  # noqa: RUF009
    start: Path | None = None

    def identity(self) -> dict[str, Any]:
        """Everything that decides the result, as JSON."""
        network: Any = self.network
        parts = {"network": asdict(network), "data": self.data, "training": asdict(self.config), "seed": self.seed}
        if self.start is not None:
            parts["start"] = sha256_of(self.start / WEIGHTS)[0]
        identity: dict[str, Any] = json.loads(json.dumps(parts))  # tuples as the lists that a file gives back
        return identity

    def finished(self) -> Run | None:
        """The finished run in the folder, or None if there is none; raises ValueError for that of another job."""
        run = load_run(self.folder, self.identity())
        if run is None:
            check_replaceable(self.folder, self.identity())
        return run

    def result(self) -> Run:
        """The finished run; raises FileNotFoundError where there is none."""
        run = self.finished()
        if run is None:
            raise FileNotFoundError(f"{self.folder} holds no finished run of this job")
        return run

    def trained(self) -> nn.Module:
        """The trained network of the finished run."""
        model = self.network.build()
        load_weights(self.folder, model)
        return model


def finished_places(jobs: Sequence[Job]) -> set[int]:
    """Where in the list the jobs stand that are finished."""
    return {place for place, job in enumerate(jobs) if job.finished() is not None}


def processes_for(jobs: int, processes: int | None, runtime: Runtime) -> int:
    """How many jobs run side by side: what was asked for, else as many as there are cores; one on a GPU.

    Raises ValueError for less than one.
    """
    if processes is not None:
        return whole_number("processes", processes)
    return min(cores(), jobs) if runtime.torch_device().type == "cpu" and team().size == 1 else 1


def threads_for(processes: int, runtime: Runtime) -> int:
    """CPU threads of each of so many networks that train side by side.

    Those asked for, else the cores that each has, but no more than the environment's OMP_NUM_THREADS.
    """
    if runtime.threads is not None:
        return runtime.threads
    most = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()  # the first of a list is the outermost level
    share = max(cores() // processes, 1)
    return min(share, int(most)) if most.isdecimal() and int(most) > 0 else share


class Workers:
    """Runs jobs, at most `count` side by side; use it in a `with` statement.

    With a count of 1, jobs run in this process, one after another, with the same result. Worker processes end when
    this one does, however it ends. The processes that torchrun started share the jobs among them.
    """

    def __init__(self, count: int) -> None:
        self._count = whole_number("count", count)
        self._context = multiprocessing.get_context("spawn")  # forking after torch has started threads may hang
        self._stop = self._context.Event()
        self._events: SimpleQueue[tuple[int, Event]] = self._context.SimpleQueue()
        self._executor: ProcessPoolExecutor | None = None

    def run(self, jobs: Sequence[Job], on_event: OnEvent) -> list[Run]:
        """The finished runs of the jobs; one found finished in its folder is not repeated.

        on_event: called in this process with the job's place in the list and each of its epochs, and of its steps some
        """
        sharing = team()
        pending = [
            (place, job)
            for place, job in enumerate(jobs)
            if (job.runtime.data_parallel or place % sharing.size == sharing.rank) and job.finished() is None
        ]
        if self._count == 1:
            for place, job in pending:
                run_job(job, partial(on_event, place))
        elif pending:
            self._run_side_by_side(pending, on_event)
        sharing.wait()
        return [job.result() for job in jobs]

    def _run_side_by_side(self, pending: Sequence[tuple[int, Job]], on_event: OnEvent) -> None:
        if self._executor is None:
            self._executor = ProcessPoolExecutor(self._count, self._context, _start_worker, (self._stop, self._events))
        with _without_interrupts():
            remaining = {self._executor.submit(_run_in_worker, place, job) for place, job in pending}
        while remaining:
            done, remaining = wait(remaining, timeout=0.1)
            while not self._events.empty():
                on_event(*self._events.get())
            for future in done:
                future.result()

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._executor is not None:
            self._stop.set()
            self._executor.shutdown(cancel_futures=True)
            self._executor = None


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Holds Ctrl-C and SIGTERM back, for good in the processes started meanwhile: this one decides for the group."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Stopped(Exception):
    """The parent process asked the run to end."""


_stop: Signal
_events: SimpleQueue[tuple[int, Event]]


def _start_worker(stop: Signal, events: SimpleQueue[tuple[int, Event]]) -> None:
    """Prepares a worker process."""
    global _stop, _events
    _stop, _events = stop, events
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):  # what this process starts, to load data, may be ended by it
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _run_in_worker(place: int, job: Job) -> None:
    def on_event(event: Event) -> None:
        if _stop.is_set():
            raise _Stopped
        _events.put((place, event))

    if not _stop.is_set():
        with suppress(_Stopped):
            run_job(job, on_event)


def run_job(job: Job, on_event: Callable[[Event], None]) -> None:
    """Trains the job's network from its seed, or goes on with it, and saves it.

    torch's threads and random state are restored.
    """
    with seeded(job.runtime, job.seed):
        started = time.perf_counter()
        model = job.network.build()
        if job.start is not None:
            load_weights(job.start, model)
        model = model.to(job.runtime.torch_device())
        unfinished, data = UnfinishedRun(job.folder, job.identity()), job.load_data()
        changed = data.identity and differences(data.identity, job.data)
        if changed:
            raise ValueError(f"the data of {job.folder} changed while networks were trained: {changed}")
        history = train(
            model,
            data,
            job.config,
            job.seed,
            on_event,
            on_event,
            loss=job.network.loss,
            runtime=job.runtime,
            unfinished=unfinished,
            on_resumed=on_event,
        )
        if not job.runtime.data_parallel or team().is_first:
            run = Run(job.identity(), history, time.perf_counter() - started)
            save_run(job.folder, model, run, metadata_of(run.identity["network"], data, job.seed))


@contextmanager
def seeded(runtime: Runtime, seed: int) -> Iterator[None]:
    """torch's random state as of the seed, and the threads of the runtime, on a CPU one by default; then restored."""
    threads, device = torch.get_num_threads(), runtime.torch_device()
    if device.type == "cpu":
        torch.set_num_threads(runtime.threads or 1)
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(threads)
