"""The redundancy of each layer, in the form of the paper's Table 3, and as numbers."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

from ckrm_kernels.shrinking.comparison import Candidate, spread
from ckrm_kernels.shrinking.figure import comparison_figure
from ckrm_kernels.shrinking.findings import Findings
from ckrm_kernels.shrinking.measured import MEASURES, SCALE_FREE, Level
from ckrm_kernels.shrinking.report.csv_files import csv_text, together
from ckrm_kernels.shrinking.report.formats import shape, times
from ckrm_kernels.shrinking.report.markup import Markup, element, section, table

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def redundancy_figures(findings: Findings) -> dict[str, Figure]:
    """The distributions of Omega of the standard and of the shrunk network, by their names."""
    return {
        f"omega-{each.name}": comparison_figure([each], findings.threshold, findings.target)
        for each in findings.candidates[:2]
    }


def redundancy_section(findings: Findings, drawings: Markup) -> Markup:
    """The distributions, and lambda at every eps folded away. drawings: the figures"""
    threshold, target = findings.threshold, findings.target
    over = ", mean ± deviation over the networks" if len(findings.candidates[0].scores) > 1 else ""
    said = (
        f"λ is the share of pairs with Ψ above {threshold:g}, at ε = 10⁻⁴{over}; it is red where the layer is not "
        f"clean: above {target:g} and more than three standard errors above the chance level of its scale-free λ "
        "(folded below). Chance is λ of the same slices with their positions shuffled: where it is as high as λ, small "
        "weights make the layer redundant, not a shape that its filters share."
    )
    numbers = [_numbers(each) for each in findings.candidates]
    folded = element("details", element("summary", "λ at every ε, and distinct filters"), *numbers)
    return section("Redundancy", element("figure", drawings, element("figcaption", said)), folded)


def layers_csv(findings: Findings) -> str:
    """A row for each measured layer of each candidate."""
    of_levels = [f"{name} {field}" for name in MEASURES for field in ("mean", "spread", "per_network", "chance")]
    head = ["network", "layer", "filters", "slices", "kernel", "pairs", "distinct", "allowed", "clean", *of_levels]
    rows = [
        [
            candidate.name,
            *(layer.name, layer.filters, layer.slices, "x".join(map(str, layer.kernel_size)), layer.pairs),
            *(together(layer.distinct), layer.allowed, layer.is_clean(findings.target)),
            *(cell for name in MEASURES for cell in _level_cells(layer.levels[name])),
        ]
        for candidate in findings.candidates
        for layer in candidate.layers
    ]
    return csv_text(head, rows)


def _level_cells(level: Level) -> list[object]:
    return [level.mean, spread(level.per_seed), together(level.per_seed), level.chance]


def _numbers(candidate: Candidate) -> Markup:
    head = ["layer", "shape", *(name.replace("eps", "ε") for name in MEASURES), "scale-free chance", "distinct"]
    rows = [
        [
            layer.name,
            times(shape(layer)),
            *(_mean_and_spread(layer.levels[name]) for name in MEASURES),
            f"{layer.levels[SCALE_FREE].chance:.3f}",
            f"{statistics.fmean(layer.distinct):.1f}",
        ]
        for layer in candidate.layers
    ]
    return table(f"λ of the {candidate.name} network", head, rows)


def _mean_and_spread(level: Level) -> str:
    return f"{level.mean:.3f}" + (f" ± {spread(level.per_seed):.3f}" if len(level.per_seed) > 1 else "")
