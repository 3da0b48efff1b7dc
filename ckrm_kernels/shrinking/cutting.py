"""Which indices of which tensors stay, and a model cut to them, without tracing it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from torch import nn

from ckrm_kernels.shrinking.couplings import Coupling, Entries, Graph
from ckrm_kernels.shrinking.surgery import without

Kept = Mapping[str, Mapping[int, Sequence[int]]]
"""For each tensor that loses anything, by its name, and each dimension that does, the ascending indices that stay."""


def kept_indices(graph: Graph, removed: Mapping[str, Collection[int]], model: nn.Module) -> Kept:
    """What is left of the model's tensors without these filters of the couplings."""
    gone: dict[str, dict[int, set[int]]] = {}
    for coupling in graph.couplings:
        for entry in coupling.entries:
            if leaving := entry.of(removed.get(coupling.name, ())):
                gone.setdefault(entry.tensor, {}).setdefault(entry.dim, set()).update(leaving)
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {
        name: {
            dim: [index for index in range(tensors[name].shape[dim]) if index not in indices]
            for dim, indices in dims.items()
        }
        for name, dims in gone.items()
    }


def cut(model: nn.Module, kept: Kept) -> nn.Module:
    """A copy of the model with these indices of its tensors alone."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    couplings, removed = [], {}
    for tensor, dims in kept.items():
        for dim, indices in dims.items():
            width, name = tensors[tensor].shape[dim], f"{tensor}, dimension {dim}"
            entries = Entries(tensor, dim, tuple((index,) for index in range(width)), "follows")
            couplings.append(Coupling(name, width, (entries,)))
            removed[name] = tuple(sorted(set(range(width)) - set(indices)))
    return without(model, Graph((), tuple(couplings), {}), removed)
