"""The way that the search took: the widths of its rounds, and why they changed."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from markupsafe import Markup

from ckrm_kernels.presentation.markup import render
from ckrm_kernels.presentation.tables import csv_text
from ckrm_kernels.width_search.findings import Findings
from ckrm_kernels.width_search.report.widths_path import widths_path
from ckrm_kernels.width_search.rules import Change, Observation
from ckrm_kernels.width_search.search import Round
from ckrm_kernels.width_search.tables import never_trained

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_UNFOLDED = 24  # changes, beyond which each round is folded


def search_figures(findings: Findings) -> dict[str, Figure]:
    """The path of widths; none where there was one round."""
    rounds = findings.rounds
    return {"widths": widths_path(rounds, findings.outcome)} if len(rounds) > 1 else {}


def search_section(findings: Findings, drawings: Mapping[str, Markup]) -> Markup:
    """The path, and the changes in the rule's words. drawings: all figures of the page"""
    rounds, outcome = findings.rounds, findings.outcome
    if len(rounds) == 1:
        caption = f"The search ended after its first round: {outcome.reason}."
        return render(__file__, drawing=None, caption=caption, rounds=_rounds(findings), unfolded=True)
    chosen = (
        f"The widths of round {outcome.chosen} were chosen."
        if outcome.chosen
        else f"No narrower round was chosen, because {outcome.obstacle}."
    )
    caption = (
        f"The search ended after {len(rounds)} rounds: {outcome.reason}. {chosen} Lines of equal widths run side by "
        f"side; grey ones never changed. Redundant is meant at {findings.similarity.in_words()}."
    )
    unfolded = sum(len(done.changed) for done in rounds) <= _UNFOLDED
    return render(__file__, drawing=drawings["widths"], caption=caption, rounds=_rounds(findings), unfolded=unfolded)


def _rounds(findings: Findings) -> list[tuple[str, str, Sequence[Change]]]:
    """What each round measured, what is to be said of its changes, and these."""
    last = findings.rounds[-1]
    return [
        (_in_words(done), never_trained(findings.outcome) if done is last and done.changed else "", done.changed)
        for done in findings.rounds
    ]


def widths_csv(findings: Findings) -> str:
    """A row for each width of each round."""
    rows = [
        [
            place,
            place == findings.outcome.chosen,
            findings.similarity.in_words(),
            *_cells(done.observations.get(change.name), change),
            done is not findings.rounds[-1],
        ]
        for place, done in enumerate(findings.rounds)
        for change in done.changes
    ]
    head = ["round", "chosen", "psi", "name", "width", "within_target", "distinct", "after", "reason", "trained_next"]
    return csv_text(head, rows)


def _cells(seen: Observation | None, change: Change) -> tuple[object, ...]:
    measured = (seen.within_target, seen.distinct) if seen else ("", "")
    return (change.name, change.before, *measured, change.after, change.reason)


def _in_words(done: Round) -> str:
    """What one round measured."""
    accuracy = statistics.fmean(done.trained.validation_accuracy)
    return f"{len(done.redundant)} of {len(done.observations)} widths redundant; validation accuracy {accuracy:.4f}."
