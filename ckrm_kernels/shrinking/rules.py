"""Width rules: from what was measured at some widths to the widths to try next."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Observation:
    """What one round says of one width.

    width: its value; clean: whether every layer of this width was
    distinct: filters left when repeats are merged, mean of the seeds, the most of the layers of this width
    """

    width: int
    clean: bool
    distinct: float


@dataclass(frozen=True)
class Change:
    """A width before and after, and why."""

    name: str
    before: int
    after: int
    reason: str


class WidthRule(Protocol):
    """Chooses the widths of the next round."""

    def propose(self, rounds: Sequence[Mapping[str, Observation]]) -> list[Change]:
        """One change for every width, given the observations of all rounds; `after` is `before` where it stays."""


@dataclass(frozen=True)
class Bracket:
    """The largest width known to be clean and the smallest known to be redundant, None where none is."""

    clean: int | None = None
    redundant: int | None = None

    @classmethod
    def of(cls, seen: Sequence[Observation]) -> Bracket:
        """The bracket that the observations of one width give, the oldest first.

        One that contradicts a later one was made among other widths of the neighbouring layers, and is left out.
        """
        clean, redundant = None, None
        for each in reversed(seen):
            if each.clean and (redundant is None or each.width < redundant):
                clean = max(each.width, clean or 0)
            if not each.clean and (clean is None or each.width > clean):
                redundant = min(each.width, redundant or each.width)
        return cls(clean, redundant)


@dataclass(frozen=True)
class BracketRule:
    """Brackets every width on its own between the clean and the redundant.

    A redundant width first falls to its number of distinct filters. From then on it moves, up or down, to the
    geometric mean of its bracket, until the bracket is closed: then it is the largest width known to be clean.

    minimum: no width falls below it, >= 1
    closed: a bracket is closed when redundant / clean is at most this, or no width lies between; > 1
    """

    minimum: int = 4
    closed: float = 1.5

    def __post_init__(self) -> None:
        if not isinstance(self.minimum, int) or self.minimum < 1:
            raise ValueError(f"minimum must be a whole number >= 1, got {self.minimum!r}")
        if not 1 < self.closed < math.inf:
            raise ValueError(f"closed must be a finite number > 1, got {self.closed!r}")

    def propose(self, rounds: Sequence[Mapping[str, Observation]]) -> list[Change]:
        """One change for every width; see `WidthRule`."""
        if not rounds:
            raise ValueError("rounds must hold at least one round, got none")
        changes = []
        for name, seen in rounds[-1].items():
            after, reason = self._next(seen, Bracket.of([observations[name] for observations in rounds]))
            changes.append(Change(name, seen.width, after, reason))
        return changes

    def _next(self, seen: Observation, bracket: Bracket) -> tuple[int, str]:
        """The width after an observation, which the bracket includes, and the reason."""
        clean, redundant = bracket.clean, bracket.redundant
        if redundant is None:
            return seen.width, "clean, and no larger width is known to be redundant"
        if clean is None:
            return self._first_fall(seen)
        if redundant - clean <= 1 or redundant <= self.closed * clean:
            state = "clean" if seen.clean else "redundant"
            return clean, f"{state}; the bracket is closed: {clean} is clean, {redundant} redundant"
        middle = round(math.sqrt(clean * redundant))
        return middle, f"between {clean}, which is clean, and {redundant}, which is redundant"

    def _first_fall(self, seen: Observation) -> tuple[int, str]:
        """Where a redundant width goes while no clean one is known."""
        if seen.width <= self.minimum:
            return seen.width, f"redundant, but not above the minimum of {self.minimum}"
        distinct = math.ceil(seen.distinct)
        target = max(min(distinct, seen.width - 1), self.minimum)
        repeats = seen.width - seen.distinct
        reason = f"{repeats:.1f} of {seen.width} filters repeat another (mean of the seeds)"
        return target, reason + (f"; the minimum is {self.minimum}" if distinct < self.minimum else "")
