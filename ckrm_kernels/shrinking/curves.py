"""What it costs to take filters away, coupling by coupling, and in which order they leave."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from ckrm_kernels.choices import Chooser
from ckrm_kernels.presentation.progress import tracked
from ckrm_kernels.shrinking import merging
from ckrm_kernels.shrinking.calibration import Calibration
from ckrm_kernels.shrinking.choices import order
from ckrm_kernels.shrinking.couplings import Coupling, Graph
from ckrm_kernels.shrinking.elimination import Curve, eliminate
from ckrm_kernels.shrinking.finished_parts import FinishedParts
from ckrm_kernels.shrinking.moments import input_moments, passes, tensor_of

Choice = Chooser | Callable[[Tensor], Tensor]

_KIND = "curve"


def measured_curves(
    model: nn.Module,
    graph: Graph,
    orders: Mapping[str, Sequence[int] | None],
    calibration: Calibration,
    progress: bool,
    keep: FinishedParts | None = None,
) -> dict[str, Curve]:
    """The relative error that a coupling's consumers can't make up for, filter by filter, from the inputs they see.

    orders: by coupling, in which its filters leave; None for that of the least error
    keep: where curves are kept as they are finished, and found by an equal call
    Couplings none of whose consumers can be observed have none.
    """
    kept = {} if keep is None else {name: _kept(keep, name) for name in orders}
    found = {name: curve for name, curve in kept.items() if curve is not None}
    for part in passes(graph, model, [graph.coupling(name) for name in orders if name not in found]):
        readers = {layer.name for coupling in part for layer in graph.consumers(coupling)}
        seen = input_moments(model, graph, calibration, sorted(readers), progress=progress)
        for coupling in tracked(part, "choosing filters", "couplings") if progress else part:
            curve = eliminate(model, graph, coupling, seen, orders[coupling.name])
            if curve is None:
                continue
            found[coupling.name] = curve
            if keep is not None:
                error = torch.tensor(curve.error, dtype=torch.float64)
                keep.keep(_KIND, coupling.name, None, {"order": torch.tensor(curve.order), "error": error})
    return {name: found[name] for name in orders if name in found}


def _kept(keep: FinishedParts, name: str) -> Curve | None:
    part = keep.find(_KIND, name)
    return part and Curve(tuple(part.tensors["order"].tolist()), tuple(part.tensors["error"].tolist()))


def orders_of(
    choose: Choice, model: nn.Module, graph: Graph, couplings: Sequence[Coupling], seed: int
) -> dict[str, Sequence[int] | None]:
    """In which order filters leave, by coupling; None where the error decides."""
    if choose == "error":
        return {coupling.name: None for coupling in couplings}
    generator = torch.Generator().manual_seed(seed)
    return {coupling.name: order(choose, model, graph, coupling, generator=generator) for coupling in couplings}


def up_to(curve: Curve, count: int) -> Curve:
    """The curve, of which only the first so many filters may leave."""
    return Curve(curve.order, (*curve.error[:count], *[math.inf] * (len(curve.error) - count)))


def weight_curves(
    model: nn.Module, graph: Graph, couplings: Sequence[Coupling], choose: Choice, seed: int
) -> dict[str, Curve]:
    """The same from the weights alone: what merging filters loses of them, or the share of those that leave."""
    if choose == "error":
        return {coupling.name: merging.costs(model, graph, coupling) for coupling in couplings}
    orders = orders_of(choose, model, graph, couplings, seed)
    return {coupling.name: _share_of_weights(model, coupling, orders[coupling.name] or ()) for coupling in couplings}


def _share_of_weights(model: nn.Module, coupling: Coupling, leaving: Sequence[int]) -> Curve:
    """The squared norm of the filters that have left, over all tensors that produce them, as a share of all."""
    energy = torch.zeros(coupling.width, dtype=torch.float64)
    for entry in coupling.with_role("produces"):
        values = tensor_of(model, entry.tensor).double().movedim(entry.dim, 0)
        norms = values.reshape(len(values), -1).square().sum(1).cpu()  # a bias has one dimension
        energy += torch.stack([norms[list(positions)].sum() for positions in entry.positions])
    lost = energy[list(leaving)].cumsum(0) / energy.sum().clamp_min(torch.finfo(energy.dtype).tiny)
    return Curve(tuple(leaving), tuple(lost.tolist()))
