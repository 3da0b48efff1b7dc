"""Each measured layer looked at: its Psi matrix, and the pairs of filters that repeat each other the most."""

from __future__ import annotations

from torch import Tensor

from ckrm_kernels.comparison.measured_layers import MeasuredLayer
from ckrm_kernels.presentation.markup import Markup, element, image, paragraph, section, swatch
from ckrm_kernels.presentation.pixels import WEIGHT_STOPS, bar, psi_stops
from ckrm_kernels.width_search.findings import Findings
from ckrm_kernels.width_search.report.formats import shape, times
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
    standard = findings.candidates[0].layers
    most = max(standard, key=lambda layer: layer.configured.mean) if standard else None
    folds = [_fold(findings, place, layer is most) for place, layer in enumerate(standard)]
    note = (
        "The networks of the first seed. The square shows Ψ of every filter with every other, at "
        f"{findings.psi.in_words()}, the filters ordered so that similar ones are neighbours. Below it are the pairs "
        "with the highest Ψ: one filter above the other, in the slices where both have the largest weights. A pair’s "
        "colours reach to its largest magnitude on both sides of zero, which is written with it; zero is clear."
    )
    if findings.psi.depends_on_scale:
        note += " Where Ψ is high and scale-free Ψ is not, small weights make the pair redundant, not a common shape."
    return section("Layers looked at", paragraph(note, class_="note"), _legends(findings.threshold), *folds)


def _legends(threshold: float) -> Markup:
    psi = element(
        "span",
        "Ψ 0",
        image(bar(psi_stops(threshold)), f"colours of Psi from 0 to 1: blue up to {threshold:g}, red above", "legend"),
        f"1 (red above {threshold:g})",
    )
    weight = element(
        "span",
        "weight −",
        image(bar(WEIGHT_STOPS), "colours of weights: violet below zero, orange above", "legend"),
        "+",
    )
    return element("div", psi, weight, class_="legends")


def _fold(findings: Findings, place: int, unfolded: bool) -> Markup:
    candidates = findings.candidates[:2]
    layers = [each.layers[place] for each in candidates]
    mean = "mean " if len(candidates[0].scores) > 1 else ""
    words = [
        element(
            "span",
            swatch(each.name),
            f" {times(shape(layer))}, {mean}λ {layer.configured.mean:.3f}",
            class_="network",
        )
        for each, layer in zip(candidates, layers, strict=True)
    ]
    summary = element("summary", element("b", layers[0].name), *words)
    looks = [
        _layer_in_network(each.name, layer, findings.weights[each.name][layer.name], findings)
        for each, layer in zip(candidates, layers, strict=True)
    ]
    return element(
        "details", summary, element("div", *looks), name="layer", class_="layer", open="" if unfolded else None
    )


def _layer_in_network(network: str, layer: MeasuredLayer, weight: Tensor, findings: Findings) -> Markup:
    """The layer in one network."""
    _, psi = clustered(weight, findings.psi)
    matrix = image(
        matrix_png(psi, findings.threshold),
        f"Psi of the {layer.filters} filters of {layer.name} in the {network} network, in clustered order",
        "matrix",
    )
    caption = element("figcaption", f"{layer.filters} filters, {layer.pairs:,} pairs")
    pairs = [_pair(weight, pair) for pair in most_redundant(weight, findings.psi)]
    body = element("div", element("figure", matrix, caption), element("div", *pairs, class_="pairs"), class_="look")
    return element("div", element("h3", swatch(network), " network"), body)


def _pair(weight: Tensor, pair: Pair) -> Markup:
    drawn, largest = pair_png(weight, pair)
    slices = ", ".join(map(str, largest_slices(weight, pair)))
    picture = image(drawn, f"filters {pair.first} and {pair.second} in slices {slices}", "kernels")
    scale_free = "" if pair.scale_free is None else f", scale-free {pair.scale_free:.3f}"
    lines = (f"{pair.first}, {pair.second}; weights ±{largest:.2g}", f"Ψ {pair.psi:.3f}{scale_free}")
    caption = element("figcaption", *(element("span", line) for line in lines))
    return element("figure", picture, caption, title=f"slices {slices}")
