"""The graph of a model: which filters leave together, and which can't leave."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import nn

from ckrm_kernels.shrinking.copying import tensors_of
from ckrm_kernels.shrinking.couplings import Coupling, Entries, Graph
from ckrm_kernels.shrinking.exporting import exported
from ckrm_kernels.shrinking.inputs import as_inputs
from ckrm_kernels.shrinking.traceable import check_traceable
from ckrm_kernels.shrinking.traced_layers import is_layer
from ckrm_kernels.shrinking.tracing import Traced, Tracing

_Place = tuple[str, int]
_Filter = dict[_Place, list[int]]


def trace(model: nn.Module, example_inputs: Any) -> Graph:
    """The graph of a model, by one run of its exported program on labels; the model stays as it was.

    model: any module with a convolution or linear map, traced in evaluation mode, and in training mode too where
        some of its parameters are used or layers read in training alone, if that can be traced
    example_inputs: a tensor, a tuple of positional arguments, a dict of keyword arguments, or a pair (tuple, dict);
        a batch of two or more
    Raises TypeError for inputs of another type; ValueError for a model that can't be traced, in the exporter's words.
    """
    inputs = as_inputs("example_inputs", example_inputs)
    check_traceable(model)
    tracing = Tracing(model, inputs.batch)
    found = tracing.run(exported(model, inputs))
    if not found.layers.by_weight:
        raise ValueError("model must run a convolution or linear layer, got none")
    not_run = _not_run(model, found)
    if not_run or _unused(model, found) or _unread(found):
        with suppress(ValueError):
            tracing.run(exported(model, inputs, training=True), training=True)
    filters = _filters(found)
    _fix_whole_layers(found, filters)
    return Graph(
        layers=tuple(found.layers.by_weight.values()),
        couplings=_couplings(found, filters),
        fixed={**_fixed(found), **not_run},
        unsupported=tuple(dict.fromkeys(found.unsupported)),
    )


def _filters(found: Traced) -> dict[int, _Filter]:
    """For each class that can leave and that a layer produces, where its indices lie."""
    classes = found.classes
    filters: dict[int, _Filter] = {}
    for tensor, dim, labels in classes.owned():
        for index, label in enumerate(labels):
            if classes.reason(label) is None:
                filters.setdefault(classes.find(label), {}).setdefault((tensor, dim), []).append(index)
    made = {
        (layer.weight, layer.output_dim) for layer in found.layers.by_weight.values() if found.layers.produces(layer)
    }
    return {root: filter for root, filter in filters.items() if not made.isdisjoint(filter)}


def _fix_whole_layers(found: Traced, filters: dict[int, _Filter]) -> None:
    """What is all of a tensor along a dimension can't leave."""
    sizes = {(tensor, dim): len(labels) for tensor, dim, labels in found.classes.owned()}
    for root, filter in list(filters.items()):
        if any(len(indices) == sizes[place] for place, indices in filter.items()):
            found.classes.fix(torch.tensor([root]), "all its filters leave together")
            del filters[root]


def _couplings(found: Traced, filters: Mapping[int, _Filter]) -> tuple[Coupling, ...]:
    """Of filters with the same tensors and dimensions, in the order in which they are first produced."""
    order = {(tensor, dim): place for place, (tensor, dim, _) in enumerate(found.classes.owned())}
    statistics = found.classes.with_statistics()
    alike: dict[frozenset[_Place], list[int]] = {}
    for root, filter in filters.items():
        alike.setdefault(frozenset(filter), []).append(root)
    couplings = []
    for layer in found.layers.by_weight.values():
        made = (layer.weight, layer.output_dim)
        for places in [places for places in alike if made in places and found.layers.produces(layer)]:
            roots = sorted(alike.pop(places), key=lambda root: filters[root][made])
            entries = [
                Entries(
                    *place,
                    tuple(tuple(filters[root][place]) for root in roots),
                    found.layers.roles.get(place, "follows"),
                )
                for place in sorted(places, key=order.__getitem__)
            ]
            norms = tuple(entry for entry in entries if entry.tensor in found.norms)
            tensors = tuple(entry for entry in entries if entry.tensor not in found.norms)
            couplings.append(Coupling(layer.name, len(roots), tensors, not statistics.isdisjoint(roots), norms))
    return tuple(couplings)


def _fixed(found: Traced) -> dict[str, str]:
    """For each layer with filters that can't leave why: of the first of them."""
    labels = {(tensor, dim): range_ for tensor, dim, range_ in found.classes.owned()}
    fixed = {}
    for layer in found.layers.by_weight.values():
        filters = labels.get((layer.weight, layer.output_dim if found.layers.produces(layer) else 0))
        reasons = [found.classes.reason(label) for label in filters] if filters else ["it has a single filter"]
        reason = next((reason for reason in reasons if reason is not None), None)
        if reason is not None:
            fixed[layer.name] = reason
    return fixed


def _unused(model: nn.Module, found: Traced) -> bool:
    """Whether the traced program does not use some parameter."""
    used = {tensor for tensor, _, _ in found.classes.owned()}
    return any(name not in used for name, parameter in model.named_parameters() if parameter.numel() > 1)


def _unread(found: Traced) -> bool:
    """Whether filters that can leave are read by no layer."""
    classes, roles = found.classes, found.layers.roles
    by_role: dict[str, set[int]] = {"produces": set(), "consumes": set()}
    for tensor, dim, labels in classes.owned():
        by_role.get(roles.get((tensor, dim), ""), set()).update(map(classes.find, labels))
    return any(classes.reason(root) is None for root in by_role["produces"] - by_role["consumes"])


def _not_run(model: nn.Module, found: Traced) -> dict[str, str]:
    """Convolutions and linear maps that the traced program doesn't run, such as an auxiliary head for training."""
    names = {id(tensor): name for name, tensor in tensors_of(model).items()}
    used = {tensor for tensor, _, _ in found.classes.owned()}
    return {
        name: "it does not run in evaluation mode"
        for name, module in model.named_modules()
        if is_layer(module) and (weight := names.get(id(module.weight))) is not None and weight not in used
    }
