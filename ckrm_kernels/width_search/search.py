"""The search for widths: train from several seeds, measure, let the rule choose new widths, and again."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ckrm_kernels.comparison.measured_layers import MeasuredLayer, majority
from ckrm_kernels.comparison.tables import listed
from ckrm_kernels.models import WidthTies
from ckrm_kernels.presentation.numbers import counted
from ckrm_kernels.whole_numbers import whole_number
from ckrm_kernels.width_search.rules import Change, Observation, WidthRule, together


@dataclass(frozen=True)
class Trained:
    """What training one network from every seed and measuring the results gave.

    validation_accuracy: of each network; layers: the measured ones
    kept: by width, how many filters shrinking the networks keeps, of the standard network of an `ErrorSearch`
    """

    validation_accuracy: tuple[float, ...]
    layers: tuple[MeasuredLayer, ...]
    kept: dict[str, int] = field(default_factory=dict)

    @property
    def mean_accuracy(self) -> float:
        """Of the networks, on the validation part."""
        return statistics.fmean(self.validation_accuracy)


@dataclass(frozen=True)
class Round:
    """One round of the search: its widths, what was measured at them, and what the rule made of it.

    observations: by width; an `ErrorSearch` has none of widths whose layers are not measured
    """

    widths: dict[str, int]
    trained: Trained
    observations: dict[str, Observation]
    changes: tuple[Change, ...]

    @property
    def redundant(self) -> list[str]:
        """The names of the widths that are not within target."""
        return [name for name, observation in self.observations.items() if not observation.within_target]

    @property
    def within_target(self) -> bool:
        """Whether every measured width is."""
        return not self.redundant

    @property
    def changed(self) -> list[Change]:
        """The changes that change a width."""
        return [change for change in self.changes if change.after != change.before]

    @property
    def proposed(self) -> dict[str, int]:
        """The widths that the rule asks for next."""
        return {change.name: change.after for change in self.changes}


@dataclass(frozen=True)
class Outcome:
    """How a search ended.

    chosen: the place of the round whose widths were chosen, 0 where nothing was shrunk
    reason: why it stopped
    obstacle: why nothing was shrunk; empty where something was, or had not to be
    narrower: where nothing was shrunk, the place of the best of the narrower rounds, which is compared all the same;
        None where there is none
    by_error: whether the chosen widths are those of an `ErrorSearch`
    """

    chosen: int
    reason: str
    obstacle: str = ""
    narrower: int | None = None
    by_error: bool = False

    @property
    def compared(self) -> int:
        """The place of the round whose network is compared with the standard one, 0 where none is."""
        return self.chosen or self.narrower or 0


@dataclass(frozen=True)
class Search:
    """The search, from a network's own widths.

    ties: those widths, and the layers that share one
    rule: chooses the widths; target: see `WidthSearchConfig`
    most_rounds: how often it trains at most, >= 1
    margin: a round whose mean validation accuracy is below the best round's by more is chosen only if within target
    Raises ValueError, naming it, for a setting that is not as above.
    """

    ties: WidthTies
    rule: WidthRule
    target: float = 0.01
    most_rounds: int = 6
    margin: float = 0.01

    def __post_init__(self) -> None:
        if not 0 <= self.target <= 1:
            raise ValueError(f"target must lie in [0, 1], got {self.target!r}")
        object.__setattr__(self, "most_rounds", whole_number("most_rounds", self.most_rounds))

    def next_widths(self, rounds: Sequence[Round]) -> dict[str, int] | None:
        """The widths to try after these rounds, or None when the search is over."""
        if not rounds:
            return self.ties.widths()
        tried = [each.widths for each in rounds]
        over = rounds[-1].within_target or rounds[-1].proposed in tried or len(rounds) >= self.most_rounds
        return None if over else rounds[-1].proposed

    def observe(self, rounds: Sequence[Round], widths: dict[str, int], trained: Trained) -> Round:
        """The next round, from what was measured at its widths."""
        observations = observe_widths(widths, self.ties.width_of_layer(), trained.layers, self.target)
        if all(each.within_target for each in observations.values()):
            changes = [Change(name, width, width, "every layer is within target") for name, width in widths.items()]
        else:
            changes = self.rule.propose([*(each.observations for each in rounds), observations])
        return Round(widths, trained, observations, tuple(changes))

    def replayed(self, rounds: Sequence[Round]) -> list[Round]:
        """The rounds of a search that had other settings, as this one sees what was trained.

        Raises ValueError where this one would have trained other widths.
        """
        again: list[Round] = []
        for place, done in enumerate(rounds):
            if place >= self.most_rounds:
                raise ValueError(f"most_rounds must be at least {len(rounds)}, for so many are done, got {place}")
            widths = self.next_widths(again)
            if widths != done.widths:
                asked = "no further round" if widths is None else f"the widths {listed(widths)}"
                raise ValueError(f"after {counted(place, 'round')} they ask for {asked}, not for {listed(done.widths)}")
            again.append(self.observe(again, done.widths, done.trained))
        return again

    def outcome(self, rounds: Sequence[Round]) -> Outcome:
        """What the finished search found: the round, within target or accurate, of the fewest redundant widths.

        Of several, that of the fewest filters.
        """
        eligible = [place for place, each in enumerate(rounds) if each.within_target or self._is_accurate(each, rounds)]
        chosen = min(
            eligible, key=lambda place: (len(rounds[place].redundant), sum(rounds[place].widths.values()), -place)
        )
        if chosen > 0 or rounds[0].within_target:
            return Outcome(chosen, self._ended(rounds))
        return Outcome(0, self._ended(rounds), self._obstacle(rounds), _best_narrower(rounds))

    def _is_accurate(self, done: Round, rounds: Sequence[Round]) -> bool:
        return loss_of_accuracy(done, rounds) <= self.margin

    def _ended(self, rounds: Sequence[Round]) -> str:
        """Why the search stopped."""
        if rounds[-1].within_target:
            return "every layer is within target"
        same = [place for place, each in enumerate(rounds) if each.widths == rounds[-1].proposed]
        if same:
            return f"nothing is left to try, the rule asks for the widths of round {same[-1]} again"
        return f"the limit of {counted(self.most_rounds, 'round')} is reached"

    def _obstacle(self, rounds: Sequence[Round]) -> str:
        """Why no round was chosen but the first, which is redundant."""
        if len(rounds) == 1 and rounds[0].proposed == rounds[0].widths:
            return "the rule narrows none of the redundant widths, " + ", ".join(
                f"{change.name}: {change.reason}" for change in rounds[0].changes if change.name in rounds[0].redundant
            )
        if len(rounds) == 1:
            return "only the standard network was trained: `most_rounds` is 1"
        narrower = rounds[1:]
        inaccurate = [each for each in narrower if not self._is_accurate(each, rounds)]
        lost = f"lost more than the margin of {self.margin:g} in validation accuracy"
        more = "more redundant widths than the standard network"
        if not inaccurate:
            return f"every narrower round has {more}"
        if len(inaccurate) < len(narrower):
            return f"of the {len(narrower)} narrower rounds {len(inaccurate)} {lost}, and the others have {more}"
        least = min(loss_of_accuracy(each, rounds) for each in narrower)
        if len(narrower) == 1:
            return f"the one narrower round {lost}, {least:.4f}, and is not within target"
        return f"every narrower round {lost}, the best of them {least:.4f}, and none is within target"


def loss_of_accuracy(done: Round, rounds: Sequence[Round]) -> float:
    """By how much the mean validation accuracy of one of the rounds is below that of the best."""
    return max(each.trained.mean_accuracy for each in rounds) - done.trained.mean_accuracy


def _best_narrower(rounds: Sequence[Round]) -> int | None:
    """The place of the round after the first of the best accuracy; of several, of the fewest redundant widths."""

    def merit(place: int) -> tuple[float, int, int]:
        done = rounds[place]
        return done.trained.mean_accuracy, -len(done.redundant), -sum(done.widths.values())

    return max(range(1, len(rounds)), key=merit, default=None)


def observe_widths(
    widths: Mapping[str, int],
    width_of_layer: Mapping[str, str],
    layers: Sequence[MeasuredLayer],
    target: float,
) -> dict[str, Observation]:
    """What the measured layers say of each width: tied layers speak with one voice, that of the most needy.

    A width is within target if all its layers are. Raises ValueError where no measured layer has a width.
    """
    observations = {}
    for name, width in widths.items():
        own = {
            layer.name: Observation(width, layer.is_within(target), majority(layer.distinct), len(layer.distinct))
            for layer in layers
            if width_of_layer.get(layer.name) == name
        }
        if not own:
            raise ValueError(f"width {name!r} belongs to no measured layer; measured were {[x.name for x in layers]}")
        observations[name] = together(own)
    return observations
