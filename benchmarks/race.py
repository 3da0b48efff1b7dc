"""Times candidates against each other in turns, A B C A B C, so that a noisy moment hits all of them alike."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

Call = Callable[[], Any]

SECONDS = 4.0  # of a race
FEWEST, MOST = 3, 25  # rounds
SHORTEST = 0.002  # seconds of a round: shorter calls are repeated
TOO_SLOW = 10.0  # seconds a call


@dataclass
class Entry:
    """One candidate: the fastest of its forms, and the seconds of one call in every round."""

    call: Call
    form: str
    trial: float
    seconds: list[float] = field(default_factory=list)

    @property
    def repeats(self) -> int:
        return max(1, math.ceil(SHORTEST / self.trial))


def enter(forms: dict[str, Call], check: Callable[[Any], None]) -> Entry:
    """Warms every form, leaves out those whose result is wrong, and takes the fastest.

    Raises NoEntry if none is right or the fastest would keep the others waiting.
    """
    trials, wrong = {}, []
    for form, call in forms.items():
        try:
            check(call())
        except AssertionError as error:
            wrong.append(f"{form}: {error}")
            continue
        # Not the first call, which may have compiled.
        trials[form] = min(_seconds(call), _seconds(call))
    if not trials:
        raise NoEntry("wrong results, " + "; ".join(wrong))
    form = min(trials, key=lambda name: trials[name])
    if trials[form] > TOO_SLOW:
        raise NoEntry(f"took {trials[form]:.0f} s a call")
    return Entry(forms[form], form, trials[form])


def run(entries: list[Entry]) -> None:
    """Fills the entries' seconds, in turns."""
    turn = sum(max(SHORTEST, entry.trial) for entry in entries)
    rounds = min(MOST, max(FEWEST, int(SECONDS / max(SHORTEST, turn))))
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            for entry in entries:
                time.sleep(0.01)  # until the threads of the one before have stopped spinning
                if entry.trial < 0.1:
                    entry.call()
                seconds = _seconds(lambda entry=entry: [entry.call() for _ in range(entry.repeats)])
                entry.seconds.append(seconds / entry.repeats)
    finally:
        gc.enable()


class NoEntry(Exception):
    """A candidate takes no part; the message says why."""


class Replay:
    """A clock for pytest-benchmark that shows times that were measured before, in turns with others."""

    def __init__(self) -> None:
        self._ticks: Iterator[float] = iter(())

    def load(self, seconds: list[float]) -> None:
        self._ticks = iter([tick for one in seconds for tick in (0.0, one)])

    def __call__(self) -> float:
        return next(self._ticks)


def _seconds(call: Call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
