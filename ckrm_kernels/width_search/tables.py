"""The tables of a search, as rich draws them on a terminal and into a text file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ckrm_kernels.comparison.tables import listed, mean_and_deviation, new_table
from ckrm_kernels.similarity import Similarity
from ckrm_kernels.width_search.search import Outcome, Round


def rounds_table(rounds: Sequence[Round], psi: Similarity) -> Any:
    """The widths of each round of the search, and how many are redundant at the psi."""
    table = new_table(f"Rounds of the search, redundant at {psi.in_words()}")
    for heading in ("round", "widths", "redundant", "validation accuracy"):
        table.add_column(heading, justify="left" if heading == "widths" else "right", overflow="fold")
    for place, each in enumerate(rounds):
        accuracy = mean_and_deviation(each.trained.validation_accuracy)
        table.add_row(str(place), listed(each.widths), f"{len(each.redundant)} of {len(each.observations)}", accuracy)
    return table


def changes_in_words(done: Round) -> list[str]:
    """The changes that the rule asked for after a round, each in words."""
    return [f"{change.name}: {change.before} -> {change.after}: {change.reason}" for change in done.changed]


def never_trained(outcome: Outcome) -> str:
    """What stands above the changes that the rule asked for after the last round."""
    return f"proposed, but not trained, since {outcome.reason}"
