"""What the fold of a network takes: memory and time, known before it starts."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn

from ckrm_kernels.comparison.latency import one_thread, seconds_of
from ckrm_kernels.shrinking import forward_passes
from ckrm_kernels.shrinking.copying import copied
from ckrm_kernels.shrinking.couplings import Graph, Layer
from ckrm_kernels.shrinking.forward_passes import ForwardPass
from ckrm_kernels.shrinking.inputs import Inputs
from ckrm_kernels.shrinking.least_squares import Sums
from ckrm_kernels.shrinking.moments import tensor_of

Removed = Mapping[str, Collection[int]]

WIDEST = 4608
"""The most columns whose products are summed: 512 channels under a 3x3 kernel. Of more, as many rows are kept as take
twice the memory of these sums."""

AT_ONCE = 2**30
"""Bytes of the original's outputs that are held at once; where its layers give more, it is run several times."""

SOLVED = 5
"""How often a layer's regression is solved: for each ridge that is tried, and with the best of them on all rows."""

_ROWS_PER_COLUMN = 8
_LEAST_ROWS = 8192
_COPIES = 6  # of the sums: to fit, to check, each as a regression, the penalised one and its factor
_TRIANGLE = 5 / 8  # of a symmetric product that is computed, see `products`
_TRIED = 1024, 512, 128  # rows, columns and targets of the sums that are timed


class Cost(NamedTuple):
    """What the fold takes.

    seconds: of one core, or on the network's GPU
    memory: bytes at most, beside the two networks and one batch in them
    """

    seconds: float
    memory: int


def cost(
    original: nn.Module,
    small: nn.Module,
    graph: Graph,
    removed: Removed,
    inputs: Inputs,
    times: float,
    batches: int,
) -> Cost:
    """What `fold.refit` takes with so many times the inputs, in batches; by passes of copies of both networks on them.

    small: `surgery.without(original, graph, removed)`
    """
    layers = [layer for layer in consumers(graph, removed) if layer.is_module]
    if not layers:
        return Cost(0.0, 0)
    sizes = [regression_size(original, graph, removed, layer) for layer in layers]
    first, again = copied(original).eval(), copied(small).eval()
    with one_thread(), torch.no_grad():
        whole = _seconds(lambda: first(*inputs.args, **inputs.kwargs), inputs.device)
        held, through = 0, 0.0
        for _ in range(2):  # the first is to warm up
            held, through = _passed(again, layers, inputs)
        products = _seconds_of_a_product(inputs.device)
    may_wait = min(forward_passes.MOST_WAITING / batches, 1)
    activations = min(round(held * times * may_wait), forward_passes.AT_ONCE)
    anew = sum(1 if layer.calls > 1 else 1 - activations / max(held * times, 1) for layer in layers)
    images = round(times * inputs.batch)
    work = sum(size.multiply_adds(layer.positions * images) for size, layer in zip(sizes, layers, strict=True))
    parts = in_parts([size.outputs for size in sizes])
    forwards = whole * len(parts) + through * (1 + anew / 2)  # on average to the middle
    held_at_once = max(size.sums for size in sizes) + max(map(sum, parts)) + activations
    return Cost(forwards * times + products * work, held_at_once)


@dataclass(frozen=True)
class RegressionSize:
    """Of a layer's regression: its groups, and of each the columns and the targets; bytes of a target."""

    groups: int
    columns: int
    targets: int
    itemsize: int

    @property
    def sums(self) -> int:
        """Bytes of sums of products."""
        held = self.groups * self.columns**2 if self.columns <= WIDEST else 2 * WIDEST**2
        return 8 * _COPIES * held

    @property
    def outputs(self) -> int:
        """Bytes of what the original gives."""
        return rows_of(self.columns) * (self.groups * self.targets * self.itemsize + 8)

    def multiply_adds(self, positions: int) -> float:
        """Of sums and solutions, where the layer has so many positions in all."""
        rows, columns, targets = min(rows_of(self.columns), positions), self.columns, self.targets
        if columns > WIDEST:  # products of rows, anew for each solution
            return self.groups * SOLVED * rows * (rows * (columns + rows / 6 + targets) + 3 * columns * targets)
        solved = columns**2 * (columns / 6 + 3 * targets)
        return self.groups * (_summed(rows, columns, targets) + SOLVED * solved)


def regression_size(original: nn.Module, graph: Graph, removed: Removed, layer: Layer) -> RegressionSize:
    """The size of the regression of a layer that reads removed filters."""
    weight = tensor_of(original, layer.weight)
    inputs = len(indices_left(original, graph, removed, layer.weight, layer.input_dim))
    outputs = len(indices_left(original, graph, removed, layer.weight, layer.output_dim))
    if layer.kind == "transposed":
        inputs //= layer.groups
    else:
        outputs //= layer.groups
    return RegressionSize(layer.groups, inputs * weight.shape[2:].numel(), outputs, weight.element_size())


def rows_of(columns: int) -> int:
    """How many rows suffice."""
    return max(_LEAST_ROWS, _ROWS_PER_COLUMN * columns) if columns <= WIDEST else 2 * WIDEST**2 // columns


def in_parts(sizes: Sequence[int]) -> list[list[int]]:
    """The sizes, in parts of at most `AT_ONCE` bytes, or of one size."""
    parts: list[list[int]] = []
    for size in sizes:
        if parts and sum(parts[-1]) + size <= AT_ONCE:
            parts[-1].append(size)
        else:
            parts.append([size])
    return parts


def consumers(graph: Graph, removed: Removed) -> list[Layer]:
    """What reads a filter that leaves, in the order in which it runs."""
    shrunk = [coupling for coupling in graph.couplings if removed.get(coupling.name)]
    names = {layer.name for coupling in shrunk for layer in graph.consumers(coupling)}
    return [layer for layer in graph.layers if layer.name in names]


def indices_left(original: nn.Module, graph: Graph, removed: Removed, tensor: str, dim: int) -> list[int]:
    """The indices that stay in a dimension of a tensor."""
    gone = {
        index
        for coupling in graph.couplings
        for entry in coupling.entries
        if (entry.tensor, entry.dim) == (tensor, dim)
        for index in entry.of(removed.get(coupling.name, ()))
    }
    return [index for index in range(tensor_of(original, tensor).shape[dim]) if index not in gone]


def _passed(network: nn.Module, layers: Sequence[Layer], inputs: Inputs) -> tuple[int, float]:
    """The most bytes of activations of a pass that waits at one of the layers, and the seconds of the whole."""
    held = 0

    def through() -> None:
        nonlocal held
        passing = ForwardPass(network, [layer.name for layer in layers], inputs.args, inputs.kwargs)
        try:
            for layer in layers:
                for _ in range(layer.calls):
                    passing.next_call(layer.name)
                held = max(held, passing.held)
        finally:
            passing.end()

    seconds = _timed(through, inputs.device)
    return held, seconds


def _seconds_of_a_product(device: torch.device) -> float:
    """Of one multiply-add of the sums of products."""
    rows, columns, targets = _TRIED
    x, t = (torch.ones(rows, 1, each, device=device) for each in (columns, targets))
    sums = Sums()
    return _seconds(lambda: sums.add(x, t), device) / _summed(rows, columns, targets)


def _summed(rows: int, columns: int, targets: int) -> float:
    """Multiply-adds of the sums of so many rows."""
    return rows * columns * (_TRIANGLE * columns + targets)


def _seconds(call: Callable[[], object], device: torch.device) -> float:
    """The least of three, after one to warm up."""
    call()
    return min(_timed(call, device) for _ in range(3))


def _timed(call: Callable[[], object], device: torch.device) -> float:
    """Seconds of this process's core, however busy the machine is; on a GPU those that pass."""
    if device.type != "cuda":
        start = time.process_time()
        call()
        return time.process_time() - start
    return seconds_of(call, device)
