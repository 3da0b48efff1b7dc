"""The search of two rounds: the standard network, and the widths at which shrinking it loses least."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ckrm_kernels.width_search.rules import Change
from ckrm_kernels.width_search.search import Outcome, Round, Search, Trained, observe_widths


@dataclass(frozen=True)
class ErrorSearch(Search):
    """Takes the widths that shrinking the standard networks to a budget keeps, whatever their redundancy.

    parameters: the share of the standard network's that is kept, in (0, 1)
    """

    parameters: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.parameters < 1:
            raise ValueError(f"parameters must lie between 0 and 1, got {self.parameters!r}")
        object.__setattr__(self, "most_rounds", min(self.most_rounds, 2))

    def next_widths(self, rounds: Sequence[Round]) -> dict[str, int] | None:
        """The widths to try after these rounds, or None when the search is over."""
        if not rounds:
            return self.ties.widths()
        over = rounds[-1].proposed in [each.widths for each in rounds] or len(rounds) >= self.most_rounds
        return None if over else rounds[-1].proposed

    def observe(self, rounds: Sequence[Round], widths: dict[str, int], trained: Trained) -> Round:
        """The next round, from what was measured at its widths and, of the standard network, what shrinking keeps.

        Widths of 1x1 convolutions or linear layers alone have no observation.
        """
        ties = self.ties.width_of_layer()
        measured = {ties[layer.name] for layer in trained.layers if layer.name in ties}
        seen = {name: width for name, width in widths.items() if name in measured}
        observations = observe_widths(seen, ties, trained.layers, self.target)
        kept = {**widths, **trained.kept}
        changes = [Change(name, width, kept[name], self._reason(width, kept[name])) for name, width in widths.items()]
        return Round(widths, trained, observations, tuple(changes))

    def outcome(self, rounds: Sequence[Round]) -> Outcome:
        """What the finished search found: the second round."""
        if len(rounds) > 1:
            share = f"{self.parameters:.0%} of the parameters"
            reason = f"round 1 has the widths that the standard networks keep, shrunk to {share} at the least error"
            return Outcome(1, reason, by_error=True)
        if rounds[0].changed:
            return Outcome(0, "`most_rounds` is 1", "only the standard network was trained: `most_rounds` is 1")
        return Outcome(0, "no width changes", f"shrinking to {self.parameters:.0%} of the parameters changes no width")

    def _reason(self, width: int, kept: int) -> str:
        share = f"{self.parameters:.0%} of the parameters"
        return f"shrunk to {share}, the standard networks keep {kept} of {width} filters at the least added error"
