"""Graphs of layers that follow one another, put together by hand: independent of the tracer, and quick."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

from torch import nn
from torch.nn.modules.conv import _ConvTransposeNd

from ckrm_kernels.shrinking.couplings import Coupling, Entries, Graph, Layer

_OF_A_NORM = ("weight", "bias", "running_mean", "running_var")


def chain(
    model: nn.Module, *names: str, norms: Mapping[str, str] | None = None, calls: Mapping[str, int] | None = None
) -> Graph:
    """Each layer's filters are read by the next; norms: of a layer the batch norm behind it; calls: where not 1."""
    norms, calls = norms or {}, calls or {}
    layers = [layer_of(model, name, norms.get(name), calls.get(name, 1)) for name in names]
    couplings = [coupling_of(model, first, second) for first, second in pairwise(layers)]
    return Graph(tuple(layers), tuple(couplings), {names[-1]: "its filters reach the output"})


def layer_of(model: nn.Module, name: str, norm: str | None = None, calls: int = 1) -> Layer:
    module = model.get_submodule(name)
    transposed = isinstance(module, _ConvTransposeNd)
    kind = "linear" if isinstance(module, nn.Linear) else "transposed" if transposed else "conv"
    bias = None if module.bias is None else f"{name}.bias"
    return Layer(name, kind, f"{name}.weight", bias, getattr(module, "groups", 1), 1, True, norm, calls)


def coupling_of(model: nn.Module, first: Layer, second: Layer) -> Coupling:
    """The filters of one layer that another reads; grouped ones leave from every group alike."""
    made, read = model.get_parameter(first.weight), model.get_parameter(second.weight)
    outputs = made.shape[first.output_dim]
    width = outputs // first.groups
    spread = read.shape[second.input_dim] // width  # features of a filter that is flattened
    positions = tuple(tuple(range(r, outputs, width)) for r in range(width))
    entries = [Entries(first.weight, first.output_dim, positions, "produces")]
    if first.bias:
        entries.append(Entries(first.bias, 0, positions, "produces"))
    if first.norm:
        entries += [Entries(f"{first.norm}.{tensor}", 0, positions, "follows") for tensor in _OF_A_NORM]
    reads = tuple(tuple(range(r * spread, (r + 1) * spread)) for r in range(width))
    return Coupling(first.name, width, (*entries, Entries(second.weight, second.input_dim, reads, "consumes")))
