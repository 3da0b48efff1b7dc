"""Which filters are redundant beyond doubt: what may leave where no budget is given."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from ckrm_kernels.report import LayerRedundancy
from ckrm_kernels.shrinking.choices import order, signed_psi
from ckrm_kernels.shrinking.couplings import Coupling, Graph


def repeats(
    model: nn.Module, graph: Graph, coupling: Coupling, measured: Mapping[str, LayerRedundancy], threshold: float
) -> list[int]:
    """The filters of a coupling that repeat one that stays, in the order in which they leave.

    measured: layers by signed, scale-free Psi, by name
    None unless each layer that produces them has more redundancy than chance allows (`LayerRedundancy.finding`).
    """
    rows = [measured.get(layer.name) for layer in graph.producers(coupling)]
    if not all(row is not None and row.finding == "repeats" for row in rows):
        return []
    similar = signed_psi(model, graph, coupling)
    stays = torch.ones(coupling.width, dtype=torch.bool)
    leaving = []
    for filter in order("psi", model, graph, coupling):
        stays[filter] = False
        if bool((similar[filter, stays] > threshold).any()):
            leaving.append(filter)
        else:
            stays[filter] = True
    return leaving
