"""The search for widths: train from several seeds, measure, let the rule choose new widths, and again."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ckrm_kernels.comparison.measured_layers import MeasuredLayer, majority
from ckrm_kernels.models import WidthTies
from ckrm_kernels.storage.settings import whole_number
from ckrm_kernels.width_search.rules import Change, Observation, WidthRule, together


@dataclass(frozen=True)
class Trained:
    """What training one network from every seed and measuring the results gave.

    validation_accuracy: of each network; layers: the measured ones
    """

    validation_accuracy: tuple[float, ...]
    layers: tuple[MeasuredLayer, ...]

    @property
    def mean_accuracy(self) -> float:
        """Of the networks, on the validation part."""
        return statistics.fmean(self.validation_accuracy)


@dataclass(frozen=True)
class Round:
    """One round of the search: its widths, what was measured at them, and what the rule made of it."""

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
        """Whether every width is."""
        return not self.redundant

    @property
    def proposed(self) -> dict[str, int]:
        """The widths that the rule asks for next."""
        return {change.name: change.after for change in self.changes}


@dataclass(frozen=True)
class Outcome:
    """How a search ended: the place of the round whose widths were chosen, and why it stopped."""

    chosen: int
    reason: str


@dataclass(frozen=True)
class Search:
    """The search, from a network's own widths.

    ties: those widths, and the layers that share one
    rule: chooses the widths; target: see `WidthSearchConfig`
    most_rounds: how often it trains at most, >= 1
    margin: a round whose mean validation accuracy is below the best round's by more is chosen only if within target
    """

    ties: WidthTies
    rule: WidthRule
    target: float = 0.01
    most_rounds: int = 6
    margin: float = 0.01

    def __post_init__(self) -> None:
        if not 0 <= self.target <= 1:
            raise ValueError(f"target must lie in [0, 1], got {self.target!r}")
        object.__setattr__(self, "most_rounds", whole_number("most_rounds", self.most_rounds, 1))

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

    def outcome(self, rounds: Sequence[Round]) -> Outcome:
        """What the finished search found: the round, within target or accurate, of the fewest redundant widths.

        Of several, that of the fewest filters.
        """
        accurate = max(each.trained.mean_accuracy for each in rounds) - self.margin
        eligible = [
            place for place, each in enumerate(rounds) if each.within_target or each.trained.mean_accuracy >= accurate
        ]
        chosen = min(
            eligible, key=lambda place: (len(rounds[place].redundant), sum(rounds[place].widths.values()), -place)
        )
        same = [place for place, each in enumerate(rounds) if each.widths == rounds[-1].proposed]
        if rounds[-1].within_target:
            return Outcome(chosen, "every layer is within target")
        if same:
            return Outcome(chosen, f"nothing is left to try, the rule asks for the widths of round {same[-1]} again")
        return Outcome(chosen, f"the limit of {self.most_rounds} rounds is reached")


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
