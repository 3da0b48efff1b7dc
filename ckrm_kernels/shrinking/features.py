"""The filters of a coupling as vectors: two with the same vector give the same outputs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.rnn import pad_sequence

from ckrm_kernels.shrinking.couplings import Coupling, Entries, Graph, Layer
from ckrm_kernels.shrinking.moments import tensor_of, weight_matrix

_OF_A_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def features_of(model: nn.Module, graph: Graph, coupling: Coupling) -> Tensor:
    """(width, numbers) float64: of each filter what makes its outputs out of its layers' inputs, batch norms folded in.

    A batch norm that alone follows a layer is folded into the layer's weights; one that follows the sum or the
    concatenation of several, into those of each. What else acts on it (a depthwise layer, a scale) stands beside.
    """
    acting = {entry.tensor: entry for entry in coupling.entries if entry.role != "consumes"}
    producers = {layer.name for layer in graph.producers(coupling)}
    layers = [layer for layer in graph.layers if layer.weight in acting]
    norms = {layer.name: _norm_of(model, layer) for layer in layers}
    parts = {layer.name: _parts(model, layer, norms[layer.name], acting) for layer in layers}
    made = [part for name, part in parts.items() if name in producers]
    beside = [each for name, part in parts.items() if name not in producers for each in part]
    rest = _without(acting, layers, norms.values())
    folded: list[Tensor] = []
    for norm in [name.removesuffix(".running_mean") for name in rest if name.endswith(".running_mean")]:
        scale, shift = (_of_filters(each, rest[f"{norm}.running_mean"]) for each in _affine(model, norm))
        if scale.shape[1] == 1 and all(bias.shape[1] == 1 for _, bias in made):
            folded += [weights * scale for weights, _ in made]
            folded.append(torch.stack([bias for _, bias in made]).sum(0) * scale + shift)
        else:
            beside += [scale, shift]
        rest = _without(rest, (), [norm])
    beside += [_of_filters(_numbers(model, name), entry) for name, entry in rest.items()]
    return torch.cat([*(folded or [each for part in made for each in part]), *beside], 1)


def uses_of(model: nn.Module, coupling: Coupling) -> Tensor:
    """(consumers, width) float64: the squared norm of the weights with which each consumer reads each filter."""
    read = [_of_filters(_numbers(model, entry.tensor), entry) for entry in coupling.with_role("consumes")]
    return torch.stack([weights.square().sum(1) for weights in read])


def _without(acting: dict[str, Entries], layers: Iterable[Layer], norms: Iterable[str | None]) -> dict[str, Entries]:
    gone = {tensor for layer in layers for tensor in (layer.weight, layer.bias)}
    gone |= {f"{norm}.{tensor}" for norm in norms for tensor in _OF_A_NORM}
    return {name: entry for name, entry in acting.items() if name not in gone}


def _norm_of(model: nn.Module, layer: Layer) -> str | None:
    """The batch norm with statistics of its own that alone follows the layer, a scale for each of its outputs."""
    norm = model.get_submodule(layer.norm) if layer.norm else None
    return layer.norm if isinstance(norm, _BatchNorm) and norm.running_mean is not None else None


def _parts(model: nn.Module, layer: Layer, norm: str | None, acting: dict[str, Entries]) -> tuple[Tensor, Tensor]:
    """The weights (width, numbers) and the biases (width, outputs of a filter) of a layer, its norm folded in."""
    weights = weight_matrix(model, layer).flatten(0, 1).cpu().double()
    bias = _numbers(model, layer.bias) if layer.bias else weights.new_zeros(len(weights))
    if norm is not None:
        scale, shift = _affine(model, norm)
        weights, bias = weights * scale.unsqueeze(1), bias * scale + shift
    entry = acting[layer.weight]
    if layer.kind == "transposed":  # its weight counts the filters of one group
        step = len(weights) // layer.groups
        positions = tuple(tuple(k * step + p for k in range(layer.groups) for p in at) for at in entry.positions)
        entry = Entries(entry.tensor, 0, positions, entry.role)
    return _of_filters(weights, entry), _of_filters(bias, entry)


def _affine(model: nn.Module, norm: str) -> tuple[Tensor, Tensor]:
    """What a batch norm multiplies by and adds, in evaluation mode."""
    module: Any = model.get_submodule(norm)
    scale = (_numbers(model, f"{norm}.running_var") + module.eps).rsqrt()
    if module.weight is not None:
        scale = scale * _numbers(model, f"{norm}.weight")
    shift = -_numbers(model, f"{norm}.running_mean") * scale
    return scale, shift if module.bias is None else shift + _numbers(model, f"{norm}.bias")


def _numbers(model: nn.Module, name: str) -> Tensor:
    return tensor_of(model, name).cpu().double()


def _of_filters(tensor: Tensor, entry: Entries) -> Tensor:
    """(width, numbers): what a tensor has at the positions of each filter, in the entry's dimension."""
    by_position = tensor.movedim(entry.dim, 0).flatten(1) if tensor.ndim > 1 else tensor.unsqueeze(1)
    return pad_sequence([by_position[list(positions)].flatten() for positions in entry.positions], batch_first=True)
