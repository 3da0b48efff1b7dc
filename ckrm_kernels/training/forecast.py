"""How long trainings will still take."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from heapq import heapreplace

from ckrm_kernels.training.history import Epoch, Event, Resumed


def remaining_seconds(seconds_per_epoch: float, epochs: Iterable[float], side_by_side: int) -> float:
    """Until all networks are trained, each begun, in their order, as soon as another is done.

    seconds_per_epoch: of one network while so many train side by side
    epochs: still to go, of each network, those that train already first
    """
    busy = [0.0] * side_by_side  # epochs until each process is free
    for each in epochs:
        heapreplace(busy, busy[0] + each)
    return seconds_per_epoch * max(busy)


class Pace:
    """Measures how long an epoch of one network takes, from when each network is seen how far."""

    def __init__(self) -> None:
        self._first: dict[int, tuple[float, float]] = {}
        self._last: dict[int, tuple[float, float]] = {}

    def see(self, network: int, epochs: float, now: float) -> None:
        """Takes down how many epochs the network has done. now: in seconds of any clock that only goes forward"""
        self._first.setdefault(network, (epochs, now))
        self._last[network] = epochs, now

    def epochs(self, network: int) -> float:
        """How many the network has done when it was last seen; 0 before."""
        return self._last.get(network, (0.0, 0.0))[0]

    @property
    def seconds_per_epoch(self) -> float | None:
        """The mean over what was seen; None before any network was seen to go on."""
        spans = [
            (last[0] - first[0], last[1] - first[1])
            for first, last in zip(self._first.values(), self._last.values(), strict=True)
        ]
        epochs = sum(span[0] for span in spans)
        return sum(span[1] for span in spans) / epochs if epochs > 0 else None


class FirstEpoch:
    """Calls a function, once, with the seconds of an epoch, as soon as one is over. Takes the events of `Workers.run`.

    on_epoch: the function; clock: seconds
    pace: how far each network was seen
    """

    def __init__(self, on_epoch: Callable[[float], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._on_epoch, self._clock = on_epoch, clock
        self.pace, self._called = Pace(), False

    def __call__(self, place: int, event: Event) -> None:
        """Takes an event of the training at that place of the jobs."""
        if self._called or isinstance(event, Resumed):
            return
        done = event.number if isinstance(event, Epoch) else event.epoch - 1 + event.batch / event.batches
        self.pace.see(place, done, self._clock())
        if isinstance(event, Epoch) and self.pace.seconds_per_epoch is not None:
            self._called = True
            self._on_epoch(self.pace.seconds_per_epoch)
