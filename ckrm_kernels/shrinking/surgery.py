"""A network without some of its filters, and the whole one that does not see them."""

from __future__ import annotations

import operator
from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor, nn

from ckrm_kernels.shrinking.copying import copied, is_plain, like, tensors_of
from ckrm_kernels.shrinking.couplings import Coupling, Graph
from ckrm_kernels.shrinking.torch_modules import (
    check_parametrised,
    norm_sizes,
    own_tensors,
    refresh_computed,
    set_norm_size,
    set_widths,
)

Removed = Mapping[str, Collection[int]]
"""For each coupling, by its name, the filters that leave."""

Kept = Mapping[str, Mapping[int, Sequence[int]]]
"""For each tensor that loses anything, by its name, and each dimension that does, the ascending indices that stay.

Likewise for each width that a norm without tensors of its own holds, by module and attribute.
"""


def without(model: nn.Module, graph: Graph, removed: Removed, *, share: bool = False) -> nn.Module:
    """A copy of the model without these filters; the model stays as it is.

    removed: of each coupling the filters that leave; at least one of each coupling, and of each tensor, stays
    share: the copy holds the model's own tensors where nothing leaves, for a use that changes none of them
    Class and code are the model's; parameters and buffers are cut, and so are the widths that torch's own modules and
    their subclasses hold (in_channels, num_features, ...). Each tensor keeps type, dtype, device, memory format,
    requires_grad, hooks and Python attributes; tied and shared ones stay one; modules keep mode and hooks, as
    `copy.deepcopy` copies them. Gradients are dropped: they are those of another function.
    Raises ValueError before anything is done: for filters or couplings that the graph does not have, nothing left of
    a coupling or tensor, a graph of another model, a weight whose parametrisation mixes its filters (spectral norm),
    a model that can't be copied.
    """
    kept = kept_indices(graph, removed, model)
    tensors = tensors_of(model)
    cut = {id(tensors[name]): cut_to(tensors[name], dims) for name, dims in kept.items() if name in tensors}
    small = copied(model, cut, share=share)
    _settle(small, {id(tensor) for tensor in cut.values()})
    _narrow_norms(small, kept)
    return small


def silenced(model: nn.Module, graph: Graph, removed: Removed, *, share: bool = False) -> nn.Module:
    """A copy of the model, of its full size, in which nothing reads these filters: the weights that would are zero.

    Where no statistics are taken over the filters it computes what `without` does, which is what a proof compares.
    Arguments and errors are those of `without`.
    """
    kept_indices(graph, removed, model)
    tensors = tensors_of(model)
    changed: dict[int, Tensor] = {}
    for name, filters in removed.items():
        for entry in graph.coupling(name).with_role("consumes"):
            tensor = tensors[entry.tensor]
            unread = changed.setdefault(id(tensor), like(tensor, tensor.detach().clone()))
            with torch.no_grad():
                unread.index_fill_(entry.dim, _index(entry.of(filters), tensor), 0)
    whole = copied(model, changed, share=share)
    _settle(whole, {id(tensor) for tensor in changed.values()})
    return whole


def permuted(model: nn.Module, coupling: Coupling, sources: Sequence[int], *, share: bool = False) -> nn.Module:
    """A copy of the model, of its full size, whose filter r is the model's filter `sources[r]`.

    Filters that change places must have as many positions as each other in each entry. Where filters are
    interchangeable it computes what the model does.
    """
    tensors = tensors_of(model)
    places: dict[str, dict[int, list[int]]] = {}
    for entry in coupling.entries:
        size = tensors[entry.tensor].shape[entry.dim]
        indices = places.setdefault(entry.tensor, {}).setdefault(entry.dim, list(range(size)))
        for filter, source in enumerate(sources):
            for to, come in zip(entry.positions[filter], entry.positions[source], strict=True):
                indices[to] = come
    changed = {id(tensors[name]): cut_to(tensors[name], dims) for name, dims in places.items()}
    other = copied(model, changed, share=share)
    _settle(other, {id(tensor) for tensor in changed.values()})
    return other


def cut_in_place(model: nn.Module, kept: Kept) -> None:
    """Cuts a model's own tensors, which stay the same objects; their gradients are dropped."""
    tensors = tensors_of(model)
    cut = {name: cut_to(tensors[name], dims) for name, dims in kept.items() if name in tensors}
    for name, tensor in cut.items():
        tensors[name].grad = None
        tensors[name].data = tensor.data
    _settle(model, {id(tensors[name]) for name in cut})
    _narrow_norms(model, kept)


def kept_indices(graph: Graph, removed: Removed, model: nn.Module) -> Kept:
    """What stays of the model's tensors without these filters; checked, with the errors of `without`."""
    shapes = shapes_of(model)
    gone: dict[str, dict[int, set[int]]] = {}
    for name, filters in _checked(graph, removed).items():
        for entry in (*graph.coupling(name).entries, *graph.coupling(name).norms):
            if entry.dim >= len(shapes.get(entry.tensor, ())):
                raise ValueError(f"graph must be the model's, which has no dimension {entry.dim} of {entry.tensor!r}")
            leaving = entry.of(filters)
            size = shapes[entry.tensor][entry.dim]
            if leaving and not 0 <= leaving[0] <= leaving[-1] < size:
                raise ValueError(f"graph must be the model's, whose {entry.tensor!r} has {size} in {entry.dim}")
            if leaving:
                gone.setdefault(entry.tensor, {}).setdefault(entry.dim, set()).update(leaving)
    kept = {
        name: {dim: [i for i in range(shapes[name][dim]) if i not in leaving] for dim, leaving in dims.items()}
        for name, dims in gone.items()
    }
    for name, dims in kept.items():
        for dim, indices in dims.items():
            if not indices:
                raise ValueError(f"removed must leave something of {name!r}, got all of its dimension {dim}")
    check_parametrised(model, kept)
    return kept


def shapes_of(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Of its parameters and buffers, shared ones under their first name, and of its norms without tensors."""
    return {**{name: tuple(tensor.shape) for name, tensor in tensors_of(model).items()}, **norm_sizes(model)}


def parts_of(model: nn.Module) -> dict[str, str]:
    """In words the type of each module, and of each tensor the shape, dtype and device, by name."""
    tensors = tensors_of(model)
    kinds = {name: f", {tensor.dtype}, on {tensor.device}" for name, tensor in tensors.items()}
    return {
        **{f"module {name or 'itself'}": f"a {type(module).__name__}" for name, module in model.named_modules()},
        **{name: f"of shape {shape}{kinds.get(name, '')}" for name, shape in shapes_of(model).items()},
    }


def cut_to(tensor: Tensor, kept: Mapping[int, Sequence[int]]) -> Tensor:
    """A tensor like this one with the indices that stay of each dimension, its memory in the same order."""
    if not is_plain(tensor):
        raise ValueError(f"tensors to be cut must hold their own values, got {type(tensor).__name__}")
    strides = tensor.stride()
    order = sorted(range(tensor.dim()), key=lambda dim: (-strides[dim], dim))
    data = tensor.detach().as_subclass(Tensor).permute(order)
    for dim, indices in kept.items():
        data = data.index_select(order.index(dim), _index(indices, tensor))
    inverse = sorted(range(tensor.dim()), key=order.__getitem__)
    return like(tensor, data.contiguous().permute(inverse))


def _checked(graph: Graph, removed: Removed) -> dict[str, set[int]]:
    """Those couplings that lose anything."""
    couplings = {coupling.name: coupling for coupling in graph.couplings}
    checked = {}
    for name, filters in removed.items():
        if name not in couplings:
            raise ValueError(f"removed must name couplings of the graph, got {name!r}; it has {', '.join(couplings)}")
        width = couplings[name].width
        leaving = {operator.index(filter) for filter in filters}
        if not all(0 <= each < width for each in leaving):
            raise ValueError(f"removed[{name!r}] must hold filters from 0 to {width - 1}, got {sorted(leaving)}")
        if len(leaving) == width:
            raise ValueError(f"removed[{name!r}] must leave one filter at least, got all {width}")
        if leaving:
            checked[name] = leaving
    return checked


def _index(indices: Sequence[int], tensor: Tensor) -> Tensor:
    return torch.tensor(indices, dtype=torch.int64, device=tensor.device)


def _narrow_norms(model: nn.Module, kept: Kept) -> None:
    """Make the widths that norms without tensors hold those that stay."""
    for name in kept.keys() & norm_sizes(model).keys():
        set_norm_size(model, name, {dim: len(indices) for dim, indices in kept[name].items()})


def _settle(copied: nn.Module, changed: Collection[int]) -> None:
    """Make what modules hold besides their tensors agree with those that changed."""
    for module in copied.modules():
        if any(id(tensor) in changed for tensor in own_tensors(module)):
            refresh_computed(module)
            set_widths(module)
