"""How far a search is, and how long the rest of it takes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from ckrm_kernels.presentation.numbers import counted
from ckrm_kernels.training.history import Epoch, Step
from ckrm_kernels.width_search.config import WidthSearchConfig

_MINUTE, _HOUR = 60, 3600
_MOST_MISSED = 0.5  # of an epoch, before the first thing that was seen of it


@dataclass(frozen=True)
class Forecast:
    """Networks still to train, and the seconds that takes: at least, and at most."""

    least_networks: int
    most_networks: int
    least_seconds: float
    most_seconds: float


def forecast(
    config: WidthSearchConfig, rounds: int, finished: int, seconds: float, side_by_side: int, standard: float
) -> Forecast:
    """What is left of a search in one of its rounds, if every network to come takes as long as one of this round.

    The least is left where this round ends the search, the most where it goes on to its limit; from the first round,
    where the standard network may have nothing to shrink, the least is that network alone.

    rounds: that are done; finished: networks of the current one that are
    seconds: that one network of the current round takes; standard: that one of the standard network takes
    side_by_side: networks trained at a time
    """
    more = config.final_seeds - config.seeds

    def waves(networks: int) -> int:
        return math.ceil(networks / side_by_side)

    current, rest = config.seeds - finished, max(config.most_rounds - rounds - 1, 0)
    compared = (more, config.final_seeds)  # the narrowed network, of whose runs some are there, and the uniform one
    least = 0 if rounds == 0 else 1
    most = 0 if rounds == 0 and rest == 0 else 1
    of_standard = waves(more) * standard

    def total(comparisons: int, further: int) -> tuple[int, float]:
        networks = current + further * config.seeds + more + comparisons * sum(compared)
        of_others = waves(current) + further * waves(config.seeds) + comparisons * sum(map(waves, compared))
        return networks, of_others * seconds + of_standard

    (least_networks, least_seconds), (most_networks, most_seconds) = total(least, 0), total(most, rest)
    return Forecast(least_networks, most_networks, least_seconds, most_seconds)


def in_words(of: Forecast, seconds: float, side_by_side: int) -> str:
    """The forecast, and what would shorten it. seconds: of one network"""
    low, high = span(of.least_seconds), span(of.most_seconds)
    time_left = low if low == high else f"{low} to {high}"
    networks = counted(of.most_networks, "network")
    if of.least_networks < of.most_networks:
        networks = f"{of.least_networks} to {networks}"
    return (
        f"The search needs about {time_left} more: {networks} of {span(seconds)} each or less, {side_by_side} at a "
        "time. Shorter: --set data.fraction=0.1, or fewer --epochs, --seeds, --final-seeds or most_rounds; it can be "
        "interrupted at any moment"
    )


def span(seconds: float) -> str:
    """A duration in the two largest units that say something: 40 s, 12 min, 3 h 20 min, 2 d 4 h."""
    if seconds < _MINUTE:
        return f"{max(round(seconds), 1)} s"
    minutes = round(seconds / _MINUTE)
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 24 * 60:
        return f"{minutes // 60} h" + (f" {minutes % 60} min" if minutes % 60 else "")
    hours = round(seconds / _HOUR)
    return f"{hours // 24} d" + (f" {hours % 24} h" if hours % 24 else "")


class EpochTimer:
    """Calls a function, once, with the seconds of an epoch, as soon as one is over. Takes the events of `Workers.run`.

    on_epoch: the function; clock: seconds
    """

    def __init__(self, on_epoch: Callable[[float], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._on_epoch, self._clock = on_epoch, clock
        self._seen: dict[tuple[int, int], tuple[float, float]] = {}  # by network and epoch: when, and its share done
        self._called = False

    def __call__(self, place: int, event: Epoch | Step) -> None:
        """Takes an event of the training at that place of the jobs."""
        if self._called:
            return
        now = self._clock()
        if isinstance(event, Step):
            self._seen.setdefault((place, event.epoch), (now, event.batch / event.batches))
            return
        since, share = self._seen.get((place, event.number), (now, 1.0))
        self._seen.setdefault((place, event.number + 1), (now, 0.0))
        if share <= _MOST_MISSED:
            self._called = True
            self._on_epoch((now - since) / (1 - share))
