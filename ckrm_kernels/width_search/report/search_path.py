"""The way that the search took: the widths of its rounds, and why they changed."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import TYPE_CHECKING

from markupsafe import Markup

from ckrm_kernels.presentation.markup import render
from ckrm_kernels.presentation.tables import csv_text
from ckrm_kernels.width_search.findings import Findings
from ckrm_kernels.width_search.report.widths_path import widths_path
from ckrm_kernels.width_search.rules import Change, Observation
from ckrm_kernels.width_search.search import Round

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_UNFOLDED = 24  # changes, beyond which each round is folded


def search_figures(findings: Findings) -> dict[str, Figure]:
    """The path of widths; none where there was one round."""
    rounds = findings.rounds
    return {"widths": widths_path(rounds, findings.outcome.chosen)} if len(rounds) > 1 else {}


def search_section(findings: Findings, drawings: Mapping[str, Markup]) -> Markup:
    """The path, and the changes in the rule's words. drawings: all figures of the page"""
    rounds, outcome = findings.rounds, findings.outcome
    if len(rounds) == 1:
        return render(__file__, drawing=None, caption=f"The search ended after its first round: {outcome.reason}.")
    caption = (
        f"The search ended after {len(rounds)} rounds: {outcome.reason}. The widths of round {outcome.chosen} were "
        f"chosen. Lines of equal widths run side by side; grey ones never changed. Redundant is meant at "
        f"{findings.psi.in_words()}."
    )
    changed = [[change for change in done.changes if change.after != change.before] for done in rounds]
    unfolded = sum(map(len, changed)) <= _UNFOLDED
    measured = list(zip(map(_in_words, rounds), changed, strict=True))
    return render(__file__, drawing=drawings["widths"], caption=caption, rounds=measured, unfolded=unfolded)


def widths_csv(findings: Findings) -> str:
    """A row for each width of each round."""
    rows = [
        [
            place,
            place == findings.outcome.chosen,
            findings.psi.in_words(),
            *_cells(done.observations[change.name], change),
        ]
        for place, done in enumerate(findings.rounds)
        for change in done.changes
    ]
    return csv_text(["round", "chosen", "psi", "name", "width", "within_target", "distinct", "after", "reason"], rows)


def _cells(seen: Observation, change: Change) -> tuple[object, ...]:
    return (change.name, change.before, seen.within_target, seen.distinct, change.after, change.reason)


def _in_words(done: Round) -> str:
    """What one round measured."""
    accuracy = statistics.fmean(done.trained.validation_accuracy)
    return f"{len(done.redundant)} of {len(done.widths)} widths redundant; validation accuracy {accuracy:.4f}."
