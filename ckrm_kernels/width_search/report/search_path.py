"""The way that the search took: the widths of its rounds, and why they changed."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ckrm_kernels.presentation.csv_files import csv_text
from ckrm_kernels.presentation.markup import Markup, element, paragraph, section
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


def search_section(findings: Findings, drawings: Markup) -> Markup:
    """The path, and the changes in the rule's words. drawings: the figure, if any"""
    rounds, outcome = findings.rounds, findings.outcome
    if len(rounds) == 1:
        return section("Search", paragraph(f"The search ended after its first round: {outcome.reason}."))
    caption = (
        f"The search ended after {len(rounds)} rounds: {outcome.reason}. The widths of round {outcome.chosen} were "
        f"chosen. Lines of equal widths run side by side; grey ones never changed. Redundant is meant at "
        f"{findings.psi.in_words()}."
    )
    figure = element("figure", drawings, element("figcaption", caption))
    changed = [[change for change in done.changes if change.after != change.before] for done in rounds]
    unfolded = sum(map(len, changed)) <= _UNFOLDED
    rounds_in_words = [_round_in_words(place, done, changed[place], unfolded) for place, done in enumerate(rounds)]
    return section("Search", element("div", figure, element("div", *rounds_in_words), class_="columns"))


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


def _round_in_words(place: int, done: Round, changed: Sequence[Change], unfolded: bool) -> Markup:
    """What one round measured, and the changes that the rule asked for after it."""
    accuracy = statistics.fmean(done.trained.validation_accuracy)
    state = f"{len(done.redundant)} of {len(done.widths)} widths redundant; validation accuracy {accuracy:.4f}."
    changes = [element("ul", *map(_change, changed), class_="changes")] if changed else []
    body = (element("summary", f"Round {place}"), paragraph(state, class_="note"), *changes)
    return element("details", *body, class_="round", open="" if unfolded else None)


def _change(change: Change) -> Markup:
    name, numbers = element("b", change.name), f" {change.before} → {change.after}: {change.reason}"
    return element("li", name, numbers)
