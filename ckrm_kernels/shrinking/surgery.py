"""A network without some of its filters (crude; replaced)."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping

import torch
from torch import nn

from ckrm_kernels.shrinking.couplings import Graph

Removed = Mapping[str, Collection[int]]


def without(model: nn.Module, graph: Graph, removed: Removed) -> nn.Module:
    """A copy of the model without the filters `removed[name]` of each coupling."""
    small = copy.deepcopy(model)
    gone: dict[tuple[str, int], set[int]] = {}
    for coupling in graph.couplings:
        for entry in coupling.entries:
            gone.setdefault((entry.tensor, entry.dim), set()).update(entry.of(removed.get(coupling.name, ())))
    with torch.no_grad():
        for (name, dim), indices in gone.items():
            path, _, attribute = name.rpartition(".")
            tensor = getattr(small.get_submodule(path), attribute)
            kept = torch.tensor([i for i in range(tensor.shape[dim]) if i not in indices])
            tensor.data = tensor.data.index_select(dim, kept)
    for module in small.modules():
        weight = getattr(module, "weight", None)
        if isinstance(module, nn.modules.conv._ConvNd):
            if module.groups > 1 and module.groups == module.in_channels and weight.shape[1] == 1:
                module.groups = module.in_channels = module.out_channels = weight.shape[0]
            elif isinstance(module, nn.modules.conv._ConvTransposeNd):
                module.in_channels, module.out_channels = weight.shape[0], weight.shape[1] * module.groups
            else:
                module.out_channels, module.in_channels = weight.shape[0], weight.shape[1] * module.groups
        elif isinstance(module, nn.Linear):
            module.out_features, module.in_features = weight.shape
        elif isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
            module.num_features = len(module.running_mean)
        elif isinstance(module, nn.GroupNorm) and weight is not None:
            module.num_channels = len(weight)
        elif isinstance(module, (nn.LayerNorm, nn.RMSNorm)) and weight is not None:
            module.normalized_shape = tuple(weight.shape)
    return small
