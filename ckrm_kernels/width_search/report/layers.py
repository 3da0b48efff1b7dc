"""Each measured layer looked at: its Psi matrix, and the pairs of filters that repeat each other the most."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup
from torch import Tensor

from ckrm_kernels.comparison.candidates import Candidate
from ckrm_kernels.comparison.measured_layers import MeasuredLayer
from ckrm_kernels.presentation.markup import render
from ckrm_kernels.presentation.numbers import times
from ckrm_kernels.presentation.pixels import bar, psi_stops, weight_stops
from ckrm_kernels.width_search.findings import Findings
from ckrm_kernels.width_search.report.psi_matrix import (
    Pair,
    clustered,
    largest_slices,
    matrix_png,
    most_redundant,
    pair_png,
)


def layers_section(findings: Findings) -> Markup:
    """A fold for each layer, the most redundant one of the standard network open, one open at a time."""
    standard = findings.standard.layers
    most = max(standard, key=lambda layer: layer.configured.mean) if standard else None
    layers = [
        {
            "name": layer.name,
            "unfolded": layer is most,
            "networks": [_layer_in_network(findings, each, each.layers[place]) for each in findings.before_and_after],
        }
        for place, layer in enumerate(standard)
    ]
    note = (
        "The networks of the first seed. The square shows Ψ of every filter with every other, at "
        f"{findings.similarity.in_words()}, the filters ordered so that similar ones are neighbours; a filter with "
        "itself is left clear. Below it are the pairs "
        "with the highest Ψ: one filter above the other, in the slices where both have the largest weights. A pair’s "
        "colours reach to its largest magnitude on both sides of zero, which is written with it; zero is clear."
    )
    if findings.similarity.depends_on_scale:
        note += " Where Ψ is high and scale-free Ψ is not, small weights make the pair redundant, not a common shape."
    return render(
        __file__,
        note=note,
        threshold=f"{findings.threshold:g}",
        psi_bar=bar(psi_stops(findings.threshold)),
        weight_bar=bar(weight_stops()),
        layers=layers,
    )


def _layer_in_network(findings: Findings, candidate: Candidate, layer: MeasuredLayer) -> dict[str, Any]:
    """What the template shows of the layer in one network."""
    weight = findings.weights[candidate.name][layer.name]
    mean = "mean " if len(candidate.scores) > 1 else ""
    _, psi = clustered(weight, findings.similarity)
    return {
        "network": candidate.name,
        "shape": times(layer.shape),
        "level": f"{mean}λ {layer.configured.mean:.3f}",
        "matrix": matrix_png(psi, findings.threshold),
        "matrix_in_words": (
            f"Psi of the {layer.filters} filters of {layer.name} in the {candidate.name} network, in clustered order"
        ),
        "counts": f"{layer.filters} filters, {layer.pairs:,} pairs",
        "pairs": [_pair(weight, pair) for pair in most_redundant(weight, findings.similarity)],
    }


def _pair(weight: Tensor, pair: Pair) -> dict[str, Any]:
    png, largest = pair_png(weight, pair)
    slices = ", ".join(map(str, largest_slices(weight, pair)))
    scale_free = "" if pair.scale_free is None else f", scale-free {pair.scale_free:.3f}"
    return {
        "png": png,
        "slices": slices,
        "in_words": f"filters {pair.first} and {pair.second} in slices {slices}",
        "lines": (f"{pair.first}, {pair.second}; weights ±{largest:.2g}", f"Ψ {pair.psi:.3f}{scale_free}"),
    }
