"""Where the networks that predict saliency look, beside where people looked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from markupsafe import Markup

from ckrm_kernels.comparison.saliency_figure import saliency_figure
from ckrm_kernels.presentation.markup import render
from ckrm_kernels.presentation.numbers import counted
from ckrm_kernels.width_search.findings import Findings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SALIENCY = "saliency"


def saliency_figures(findings: Findings) -> dict[str, Figure]:
    """The pictures by their name; none where the networks predict no saliency."""
    examples = findings.saliency
    return {} if examples is None else {SALIENCY: saliency_figure(examples, findings.classes)}


def saliency_section(findings: Findings, drawings: Mapping[str, Markup]) -> Markup:
    """The pictures under a heading. drawings: all figures of the page"""
    assert findings.saliency is not None
    caption = (
        f"{counted(len(findings.saliency.labels), 'held-out image')}, each of another class, where people looked, and "
        "where the first network of each kind expects them to look. Each map is drawn over its own largest value. CC "
        "is its correlation with the gaze over all pixels."
    )
    return render(__file__, drawing=drawings[SALIENCY], caption=caption)
