"""Small networks with their graphs written by hand, so that what is computed of a graph is tested without a tracer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ckrm_kernels.shrinking.couplings import Coupling, Entries, Graph, Layer


def layer_of(model: nn.Module, name: str, positions: int, **more: Any) -> Layer:
    module = model.get_submodule(name)
    kind = "linear" if isinstance(module, nn.Linear) else "transposed" if module.transposed else "conv"
    bias = f"{name}.bias" if module.bias is not None else None
    return Layer(name, kind, f"{name}.weight", bias, getattr(module, "groups", 1), positions, True, None, **more)


def entry(tensor: str, dim: int, positions: int | list[tuple[int, ...]], role: str) -> Entries:
    """positions: of each filter, or how many filters have one each."""
    listed = [(index,) for index in range(positions)] if isinstance(positions, int) else positions
    return Entries(tensor, dim, tuple(listed), role)


def pair(first: nn.Module, second: nn.Module, *between: nn.Module, filters=None, reads=None, positions=1):
    """A network of two layers, named "first" and "second", the first's filters one coupling.

    filters, reads: of each filter its indices in the first's outputs and in the second's inputs, if not one each
    """
    model = nn.Sequential()
    model.add_module("first", first)
    for index, module in enumerate(between):
        model.add_module(f"between{index}", module)
    model.add_module("second", second)
    layers = (layer_of(model, "first", positions), layer_of(model, "second", positions))
    made = entry("first.weight", layers[0].output_dim, filters or first.weight.shape[layers[0].output_dim], "produces")
    width = len(made.positions)
    entries = [made]
    if first.bias is not None:
        entries.append(entry("first.bias", 0, list(made.positions), "produces"))
    for index, module in enumerate(between):
        if isinstance(module, nn.BatchNorm2d):
            for name in ("weight", "bias", "running_mean", "running_var"):
                entries.append(entry(f"between{index}.{name}", 0, list(made.positions), "follows"))
    entries.append(entry("second.weight", layers[1].input_dim, reads or width, "consumes"))
    coupling = Coupling("first", width, tuple(entries))
    return model, Graph(layers, (coupling,), {"second": "its filters reach the output"})


class Residual(nn.Module):
    """A stream of `width` filters that two layers produce and two consume, and a branch of `inner` filters."""

    def __init__(self, width: int = 4, inner: int = 3) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, width, 3, padding=1)
        self.narrow = nn.Conv2d(width, inner, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(inner)
        self.widen = nn.Conv2d(inner, width, 1)
        self.head = nn.Conv2d(width, 2, 3, stride=2)

    def forward(self, images: Tensor) -> Tensor:
        stream = torch.relu(self.stem(images))
        return self.head(stream + self.widen(torch.relu(self.norm(self.narrow(stream)))))

    def graph(self, side: int = 6) -> Graph:
        width, inner = len(self.stem.weight), len(self.narrow.weight)
        area, behind = side * side, ((side - 3) // 2 + 1) ** 2
        positions = {"stem": area, "narrow": area, "widen": area, "head": behind}
        layers = tuple(layer_of(self, name, count) for name, count in positions.items())
        stream = Coupling(
            "stem",
            width,
            (
                entry("stem.weight", 0, width, "produces"),
                entry("stem.bias", 0, width, "produces"),
                entry("narrow.weight", 1, width, "consumes"),
                entry("widen.weight", 0, width, "produces"),
                entry("widen.bias", 0, width, "produces"),
                entry("head.weight", 1, width, "consumes"),
            ),
        )
        branch = Coupling(
            "narrow",
            inner,
            (
                entry("narrow.weight", 0, inner, "produces"),
                *(entry(f"norm.{name}", 0, inner, "follows") for name in self.norm.state_dict() if "num" not in name),
                entry("widen.weight", 1, inner, "consumes"),
            ),
        )
        return Graph(layers, (stream, branch), {"head": "its filters reach the output"})


def residual(width: int = 4, inner: int = 3, seed: int = 0) -> tuple[Residual, Graph]:
    """The network in evaluation mode, in float64, with random weights and running statistics."""
    torch.manual_seed(seed)
    model = Residual(width, inner).double().eval()
    with torch.no_grad():
        for tensor in (model.norm.weight, model.norm.running_var):
            tensor.uniform_(0.5, 2)
    return model, model.graph()
