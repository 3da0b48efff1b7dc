"""The report's files: the page, its figures and its tables."""

from __future__ import annotations

from pathlib import Path

from ckrm_kernels.presentation.drawing import inline_svg, png_file, svg_file
from ckrm_kernels.storage.files import write_atomically
from ckrm_kernels.width_search.findings import Findings
from ckrm_kernels.width_search.report.page import page
from ckrm_kernels.width_search.report.quality import (
    METRICS,
    comparisons_csv,
    latency_csv,
    quality_csv,
    quality_figures,
)
from ckrm_kernels.width_search.report.redundancy import layers_csv, redundancy_figures
from ckrm_kernels.width_search.report.saliency import SALIENCY, saliency_figures
from ckrm_kernels.width_search.report.search_path import search_figures, widths_csv
from ckrm_kernels.width_search.report.structure import structure_csv


def write_report(findings: Findings, folder: Path) -> list[Path]:
    """Writes report.html, figures/*.png and *.svg, and tables/*.csv, each file whole or not at all, the page last.

    The same findings give the same bytes. Needs the extra `train`.
    out: the files
    """
    files: dict[str, bytes | str] = {}
    drawings = {}
    figures = {**quality_figures(findings), **redundancy_figures(findings), **search_figures(findings)}
    figures |= saliency_figures(findings)
    for name, figure in figures.items():
        files[f"figures/{name}.png"] = png_file(figure)
        files[f"figures/{name}.svg"] = svg_file(figure, name)
        drawings[name] = inline_svg(figure, name, _label(name, findings))
    files["tables/structure.csv"] = structure_csv(findings)
    files["tables/quality.csv"] = quality_csv(findings)
    files["tables/latency.csv"] = latency_csv(findings)
    files["tables/comparisons.csv"] = comparisons_csv(findings)
    files["tables/layers.csv"] = layers_csv(findings)
    files["tables/widths.csv"] = widths_csv(findings)
    files["report.html"] = page(findings, drawings)
    for name, content in files.items():
        write_atomically(Path(folder) / name, content)
    return [Path(folder) / name for name in files]


def _label(name: str, findings: Findings) -> str:
    """What a figure shows, for who cannot see it."""
    if name in METRICS:
        return f"Box plots of {METRICS[name]} of the networks {', '.join(each.name for each in findings.candidates)}"
    if name == "widths":
        return f"The widths of {len(findings.rounds)} rounds of the search, one line for each width"
    if name == SALIENCY and findings.saliency is not None:
        return f"Images, the gaze on them, and the saliency predicted by {', '.join(findings.saliency.predicted)}"
    of_network = f"in each layer of the {name.removeprefix('omega-')} network"
    return f"Distribution of Omega at {findings.similarity.in_words()} {of_network}"
