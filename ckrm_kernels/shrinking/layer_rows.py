"""A plan's rows: what becomes of each layer, and why."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from ckrm_kernels.report import LayerRedundancy
from ckrm_kernels.shrinking.choices import signed_psi
from ckrm_kernels.shrinking.couplings import Coupling, Graph, Layer
from ckrm_kernels.shrinking.elimination import Curve
from ckrm_kernels.shrinking.moments import tensor_of
from ckrm_kernels.shrinking.proof import Proof
from ckrm_kernels.shrinking.rows import ShrunkLayer


def layer_rows(
    model: nn.Module,
    graph: Graph,
    wanted: Mapping[str, tuple[int, ...]],
    removed: Mapping[str, tuple[int, ...]],
    curves: Mapping[str, Curve],
    proofs: Mapping[str, Proof],
    staying: Mapping[str, str],
    measured: Mapping[str, LayerRedundancy],
) -> tuple[ShrunkLayer, ...]:
    """A row for every layer of the graph.

    wanted, removed: the filters of each coupling that were to leave, and that leave
    curves, proofs: of couplings; staying: why a coupling keeps all its filters
    measured: of layers, by signed and scale-free Psi
    """
    psi = {c.name: _psi(model, graph, c, removed[c.name]) for c in graph.couplings if removed.get(c.name)}
    made = {
        (entry.tensor, entry.dim): coupling
        for coupling in reversed(graph.couplings)  # a layer of several has the first one's name
        for entry in coupling.entries
    }
    rows = []
    for layer in graph.layers:
        coupling = made.get((layer.weight, layer.output_dim))
        name = coupling.name if coupling else ""
        width = _width(model, layer)
        kept = _kept(graph, layer, width, removed)
        row = measured.get(layer.name)
        curve = curves.get(name)
        gone = len(removed.get(name, ()))
        rows.append(
            ShrunkLayer(
                name=layer.name,
                kind=_kind(model, layer),
                coupling=name,
                kept=kept,
                width=width,
                wanted=len(_kept(graph, layer, width, wanted)),
                reached=len(kept),
                why=_why(graph, layer, coupling, kept, width, proofs, staying, curves),
                redundancy=row.redundancy if row else None,
                chance=row.chance if row else None,
                psi=psi.get(name),
                deviation=proofs[name].deviation if name in proofs else None,
                error=(curve.error[gone - 1] if gone else 0.0) if curve else None,
            )
        )
    return tuple(rows)


def _width(model: nn.Module, layer: Layer) -> int:
    weight = tensor_of(model, layer.weight)
    return weight.shape[layer.output_dim] * (layer.groups if layer.kind == "transposed" else 1)


def _kept(graph: Graph, layer: Layer, width: int, removed: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    """The filters of a layer that stay, ascending."""
    gone = {
        index
        for coupling in graph.couplings
        for entry in coupling.entries
        if entry.tensor == layer.weight and entry.dim == layer.output_dim
        for index in entry.of(removed.get(coupling.name, ()))
    }
    return tuple(index for index in range(width) if index not in gone)


def _kind(model: nn.Module, layer: Layer) -> str:
    return type(model.get_submodule(layer.name)).__name__ if layer.is_module else f"functional {layer.kind}"


def _why(
    graph: Graph,
    layer: Layer,
    coupling: Coupling | None,
    kept: tuple[int, ...],
    width: int,
    proofs: Mapping[str, Proof],
    staying: Mapping[str, str],
    curves: Mapping[str, Curve],
) -> str:
    if coupling is None:
        return graph.fixed.get(layer.name, "its filters can't leave")
    if coupling.name in staying:
        return staying[coupling.name]
    if coupling.name not in curves:
        return "nothing that reads its filters could be observed"
    if len(kept) == width:
        return ""
    return proofs[coupling.name].reason if coupling.name in proofs else ""


def _psi(model: nn.Module, graph: Graph, coupling: Coupling, gone: tuple[int, ...]) -> float:
    """The mean over the filters that leave of their largest signed Psi to one that stays."""
    stays = torch.ones(coupling.width, dtype=torch.bool)
    stays[list(gone)] = False
    return float(signed_psi(model, graph, coupling)[~stays][:, stays].amax(1).mean())
