"""The redundancy of each layer, in the form of the paper's Table 3, and as numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from markupsafe import Markup

from ckrm_kernels.comparison.candidates import Candidate
from ckrm_kernels.comparison.measured_layers import (
    CONFIGURED,
    SCALE_FREE,
    SMALLER_EPS,
    Level,
    names_of_settings,
)
from ckrm_kernels.comparison.statistics import deviation
from ckrm_kernels.comparison.tables import distinct
from ckrm_kernels.presentation.markup import Table, render
from ckrm_kernels.presentation.numbers import times
from ckrm_kernels.presentation.tables import csv_text, together
from ckrm_kernels.width_search.findings import Findings
from ckrm_kernels.width_search.report.omega_figure import comparison_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


_LEVELS = {CONFIGURED: "", SMALLER_EPS: "smaller_eps_", SCALE_FREE: "scale_free_"}
"""What the columns of layers.csv begin with, by the settings of psi, whatever psi is."""


def redundancy_figures(findings: Findings) -> dict[str, Figure]:
    """The distributions of Omega of the standard and of the searched network, by their names."""
    return {
        f"omega-{each.name}": comparison_figure([each], findings.threshold, findings.similarity, findings.target)
        for each in findings.before_and_after
    }


def redundancy_section(findings: Findings, drawings: Mapping[str, Markup]) -> Markup:
    """The distributions, and lambda at the neighbouring psi too, folded away. drawings: all figures of the page"""
    threshold, target, psi = findings.threshold, findings.target, findings.similarity
    over = ", mean ± deviation over the networks" if len(findings.standard.scores) > 1 else ""
    limit = f"above {target:g} and more than three standard errors above the chance level of its scale-free λ"
    coloured = (
        f"A layer is not within target where λ is {limit}: amber where only its small weights make it so, red where "
        "its scale-free λ is so too (both folded below)."
        if psi.depends_on_scale
        else f"It is red where the layer is not within target: {limit} (folded below)."
    )
    note = (
        f"λ is the share of pairs with Ψ above {threshold:g}, at {psi.in_words()}{over}. {coloured} Chance is λ of the "
        "same slices with their positions shuffled."
    )
    names = names_of_settings(psi)
    beside = {SMALLER_EPS: "λ at a smaller ε", SCALE_FREE: "scale-free λ"}
    summary = ", ".join(["λ", *(text for name, text in beside.items() if name in names), "distinct filters"])
    shown = [drawings[f"omega-{each.name}"] for each in findings.before_and_after]
    tables = [_numbers(each, names) for each in findings.candidates if each.layers]
    return render(__file__, drawings=shown, note=note, summary=summary, tables=tables)


def layers_csv(findings: Findings) -> str:
    """A row for each measured layer of each candidate."""
    psis = names_of_settings(findings.similarity)
    fields = ("mean", "deviation", "per_model", "chance")
    of_layer = ("layer", "filters", "slices", "kernel", "pairs", "distinct", "allowed", "within_target")
    of_levels = [
        f"{before}{field}" for before in _LEVELS.values() for field in ("psi", *(f"lambda_{f}" for f in fields))
    ]
    rows = [
        [
            candidate.name,
            *(layer.name, layer.filters, layer.slices, "x".join(map(str, layer.kernel_size)), layer.pairs),
            *(together(layer.distinct), layer.allowed, layer.is_within(findings.target)),
            *(cell for name in _LEVELS for cell in _level_cells(psis.get(name), layer.levels.get(name))),
        ]
        for candidate in findings.candidates
        for layer in candidate.layers
    ]
    return csv_text(["network", *of_layer, *of_levels], rows)


def _level_cells(psi: str | None, level: Level | None) -> list[object]:
    """None where there is no such setting of psi beside the one that is searched at."""
    if psi is None or level is None:
        return [None] * 5
    return [psi, level.mean, deviation(level.per_model), together(level.per_model), level.chance]


def _numbers(candidate: Candidate, names: Mapping[str, str]) -> Table:
    """names: of the settings of psi, as `names_of_settings` gives them"""
    head = ["layer", "shape", *names.values(), "scale-free chance", "distinct"]
    rows = [
        [
            layer.name,
            times(layer.shape),
            *(_mean_and_deviation(layer.levels[name]) for name in names),
            f"{layer.scale_free.chance:.3f}",
            distinct(layer),
        ]
        for layer in candidate.layers
    ]
    return Table(f"λ of the {candidate.name} network", head, rows)


def _mean_and_deviation(level: Level) -> str:
    return f"{level.mean:.3f}" + (f" ± {deviation(level.per_model):.3f}" if len(level.per_model) > 1 else "")
