"""Width rules: from what was measured at some widths to the widths to try next."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from ckrm_kernels.whole_numbers import whole_number

_WORTH_A_ROUND = 1.1
"""A fall by a smaller ratio, or by one filter, is too small for the training that it costs."""
_NAMED = 3  # of those that share a width, in a reason


@dataclass(frozen=True)
class Observation:
    """What one round says of one width, or of one stage of widths.

    width: its value; within_target: whether every layer of this width was
    distinct: filters left when repeats are merged, in most of the networks; of the neediest layer of this width
    networks: how many were measured
    neediest, redundant: where several layers share the width, or widths the stage, the name of the one that `distinct`
        is of, and of those that are not within target
    """

    width: int
    within_target: bool
    distinct: int
    networks: int
    neediest: str = ""
    redundant: tuple[str, ...] = ()


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
    """The largest width known to be within target and the smallest known to be redundant, None where none is."""

    within: int | None = None
    redundant: int | None = None

    @classmethod
    def of(cls, seen: Sequence[Observation]) -> Bracket:
        """The bracket that the observations of one width give, the oldest first.

        One that contradicts a later one was made among other widths of the neighbouring layers, and is left out.
        """
        within, redundant = None, None
        for each in reversed(seen):
            if each.within_target and (redundant is None or each.width < redundant):
                within = max(each.width, within or 0)
            if not each.within_target and (within is None or each.width > within):
                redundant = min(each.width, redundant or each.width)
        return cls(within, redundant)


@dataclass(frozen=True)
class BracketRule:
    """Brackets every width on its own between the widths within target and the redundant ones.

    A redundant width first falls to its number of distinct filters, or, where that is next to no step, by the ratio
    `closed`. Once a width within target is known it moves, up or down, to the geometric mean of its bracket, until the
    bracket is closed: then it is the largest width known to be within target.

    minimum: no width falls below it, >= 1
    multiple: every width that the rule chooses is a multiple of it, >= 1
    closed: a bracket is closed when redundant / within target is at most this, or no width lies between; > 1
    Raises ValueError, naming it, for a setting that is not as above.
    """

    minimum: int = 4
    multiple: int = 1
    closed: float = 1.5

    def __post_init__(self) -> None:
        for name in ("minimum", "multiple"):
            object.__setattr__(self, name, whole_number(name, getattr(self, name)))
        if not 1 < self.closed < math.inf:
            raise ValueError(f"closed must be a finite number > 1, got {self.closed!r}")

    def propose(self, rounds: Sequence[Mapping[str, Observation]]) -> list[Change]:
        """One change for every width; see `WidthRule`. Raises ValueError where there is no round."""
        if not rounds:
            raise ValueError("rounds must hold at least one round, got none")
        changes = []
        for name, seen in rounds[-1].items():
            after, reason = self._next(seen, Bracket.of([observations[name] for observations in rounds]))
            changes.append(Change(name, seen.width, after, reason))
        return changes

    def _next(self, seen: Observation, bracket: Bracket) -> tuple[int, str]:
        """The width after an observation, which the bracket includes, and the reason."""
        within, redundant = bracket.within, bracket.redundant
        if redundant is None:
            return seen.width, "within target, and no larger width is known to be redundant"
        if within is None:
            return self._first_fall(seen)
        middle = math.sqrt(within * redundant)
        between = range(self._rounded_up(within + 1), redundant, self.multiple)
        if not between or redundant <= self.closed * within:
            return within, f"{within} is within target and {redundant} redundant: too near to try a width in between"
        chosen = min(between, key=lambda width: abs(width - middle))
        return chosen, f"between {within}, which is within target, and {redundant}, which is redundant"

    def _first_fall(self, seen: Observation) -> tuple[int, str]:
        """Where a redundant width goes while none within target is known."""
        lowest = self._rounded_up(self.minimum)
        if seen.width <= lowest:
            return seen.width, f"redundant, but at the minimum of {lowest} already"
        by_factor = math.ceil(seen.width / self.closed)
        next_to_none = seen.width - seen.distinct < 2 or seen.distinct * _WORTH_A_ROUND > seen.width
        small = next_to_none and seen.distinct > by_factor
        wanted = by_factor if small else seen.distinct
        most = (seen.width - 1) // self.multiple * self.multiple
        target = max(min(self._rounded_up(wanted), most), lowest)
        where, repeats = _redundant_in_words(seen), _repeats_in_words(seen)
        reason = f"redundant{where}; {repeats}" if where else repeats
        if small:
            reason = f"redundant{where}, though {repeats}: narrowed by a factor of {self.closed:g} instead"
        if target == lowest > wanted:
            reason += f"; the minimum is {lowest}"
        elif target > wanted:
            reason += f"; widths are multiples of {self.multiple}"
        return target, reason

    def _rounded_up(self, width: int) -> int:
        return -(-width // self.multiple) * self.multiple


def _repeats_in_words(seen: Observation) -> str:
    """How many filters repeat another, and of which they are where several share the width."""
    repeats = seen.width - seen.distinct
    of_which = f" of {seen.neediest}, which needs the most," if seen.neediest else ""
    networks = {1: "the network", 2: "both networks"}.get(seen.networks, f"most of the {seen.networks} networks")
    return f"{repeats or 'none'} of {seen.width} filters{of_which} repeat{'s' * (repeats == 1)} another in {networks}"


def _redundant_in_words(seen: Observation) -> str:
    """Which of several that share the width are redundant; nothing where the neediest alone is."""
    if seen.redundant in ((), (seen.neediest,)):
        return ""
    more = len(seen.redundant) - _NAMED
    return f" in {', '.join(seen.redundant[:_NAMED])}" + (f" and {more} more" if more > 0 else "")


@dataclass(frozen=True)
class StageRule:
    """Gives all widths of a stage the same value, as the paper's Table 2 does: that which `rule` gives the stage.

    A stage is within target when all its widths are; its distinct filters are those of its neediest width, which the
    reason of a change names.

    stage_of_width: for each width the name of its stage, see `models.WidthTies`
    """

    rule: WidthRule
    stage_of_width: Mapping[str, str]

    def propose(self, rounds: Sequence[Mapping[str, Observation]]) -> list[Change]:
        """One change for every width; see `WidthRule`. Raises ValueError where the widths of a stage differ."""
        stages = [_by_stage(each, self.stage_of_width) for each in rounds]
        of_stage = {change.name: change for change in self.rule.propose(stages)}
        return [replace(of_stage[self.stage_of_width[name]], name=name) for name in rounds[-1]]


def check_tied(widths: Mapping[str, int], stage_of_width: Mapping[str, str]) -> None:
    """Raises ValueError where the widths of a stage differ, or a width has no stage."""
    without = [name for name in widths if name not in stage_of_width]
    if without:
        raise ValueError(f"stage_of_width must name a stage for each width, it has none for {', '.join(without)}")
    first: dict[str, str] = {}
    for name, width in widths.items():
        other = first.setdefault(stage_of_width[name], name)
        if widths[other] != width:
            raise ValueError(
                f"widths tied by stage must be equal in each stage, got {other} = {widths[other]} and {name} = {width}"
            )


def _by_stage(observations: Mapping[str, Observation], stage_of_width: Mapping[str, str]) -> dict[str, Observation]:
    """The observations of each stage as those of one width."""
    check_tied({name: seen.width for name, seen in observations.items()}, stage_of_width)
    stages: dict[str, dict[str, Observation]] = {}
    for name, seen in observations.items():
        stages.setdefault(stage_of_width[name], {})[name] = seen
    return {stage: together(widths) for stage, widths in stages.items()}


def together(members: Mapping[str, Observation]) -> Observation:
    """The observations of layers or widths that change together, by their names, as one: that of the most needy."""
    redundant = tuple(name for name, seen in members.items() if not seen.within_target)
    neediest = max(members, key=lambda name: members[name].distinct)
    if len(members) == 1:
        return members[neediest]
    return replace(members[neediest], within_target=not redundant, neediest=neediest, redundant=redundant)
