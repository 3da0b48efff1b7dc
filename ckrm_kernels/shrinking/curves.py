"""What it costs to take filters away, coupling by coupling, and in which order they leave."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ckrm_kernels.choices import Chooser
from ckrm_kernels.shrinking import merging
from ckrm_kernels.shrinking.calibration import Calibration
from ckrm_kernels.shrinking.choices import order
from ckrm_kernels.shrinking.couplings import Coupling, Graph
from ckrm_kernels.shrinking.elimination import Curve, eliminate
from ckrm_kernels.shrinking.moments import Moments, input_moments

Choice = Chooser | Callable[[Tensor], Tensor]


def measured_curves(
    model: nn.Module,
    graph: Graph,
    couplings: Sequence[Coupling],
    choose: Choice,
    calibration: Calibration,
    seed: int,
    progress: bool,
) -> dict[str, Curve]:
    """The added relative error of the consumers along the order in which filters leave, from the inputs they see.

    Couplings none of whose consumers can be refitted have none.
    """
    readers = {layer.name for coupling in couplings for layer in graph.consumers(coupling)}
    seen = input_moments(model, graph, calibration, sorted(readers), progress=progress)
    curves = {}
    for coupling in couplings:
        leaving = None if choose == "error" else _order(choose, model, graph, coupling, seed)
        curve = eliminate(model, graph, coupling, seen, leaving)
        if curve is not None:
            curves[coupling.name] = curve
    return curves


def weight_curves(
    model: nn.Module, graph: Graph, couplings: Sequence[Coupling], choose: Choice, seed: int
) -> dict[str, Curve]:
    """The same from the weights alone: what merging filters loses of them, or the share of those that leave."""
    if choose == "error":
        return {coupling.name: merging.costs(model, graph, coupling) for coupling in couplings}
    return {coupling.name: _share_of_weights(model, graph, coupling, choose, seed) for coupling in couplings}


def _share_of_weights(model: nn.Module, graph: Graph, coupling: Coupling, choose: Choice, seed: int) -> Curve:
    leaving = _order(choose, model, graph, coupling, seed)
    energy = squared_norms(model, coupling)
    lost = energy[leaving].cumsum(0) / energy.sum().clamp_min(torch.finfo(energy.dtype).tiny)
    return Curve(tuple(leaving), tuple(lost.tolist()))


def squared_norms(model: nn.Module, coupling: Coupling) -> Tensor:
    """Of each filter of the coupling over all tensors that produce it: (width,), float64."""
    state = dict(model.named_parameters(remove_duplicate=False))
    total = torch.zeros(coupling.width, dtype=torch.float64)
    for entry in coupling.with_role("produces"):
        weight = state[entry.tensor].detach().double().movedim(entry.dim, 0).flatten(1).pow(2).sum(1).cpu()
        total += torch.stack([weight[list(positions)].sum() for positions in entry.positions])
    return total


def _order(choose: Choice, model: nn.Module, graph: Graph, coupling: Coupling, seed: int) -> list[int]:
    return order(choose, model, graph, coupling, generator=torch.Generator().manual_seed(seed))
