"""The size of a network without some of its filters, exactly, without building it."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from ckrm_kernels.shrinking.couplings import Coupling, Graph
from ckrm_kernels.shrinking.moments import tensor_of


@dataclass(frozen=True)
class Size:
    """What a network holds and what a forward pass of one example takes.

    parameters: entries of its parameters, shared ones once
    multiply_adds: of its convolutions and linear layers
    """

    parameters: int
    multiply_adds: int

    def __sub__(self, other: Size) -> Size:
        return Size(self.parameters - other.parameters, self.multiply_adds - other.multiply_adds)


def size_of(model: nn.Module, graph: Graph, removed: Mapping[str, Collection[int]] | None = None) -> Size:
    """The size of the network without the filters `removed[name]` of each coupling."""
    counter = Counter(model, graph)
    for name, filters in (removed or {}).items():
        counter.remove(name, filters)
    return counter.size


class Counter:
    """The size of a network while filters leave.

    Every index of a tensor's dimension belongs to one filter of one coupling, so that what is left of it is counted.
    """

    def __init__(self, model: nn.Module, graph: Graph) -> None:
        self._counts = {coupling.name: _counts(coupling) for coupling in graph.couplings}
        self._positions: dict[str, int] = {}  # where a weight is applied, over all layers that share it
        for layer in graph.layers:
            self._positions[layer.weight] = self._positions.get(layer.weight, 0) + layer.positions
        parameters = dict(model.named_parameters())
        self._is_parameter = parameters.keys()
        self._shapes = {name: list(parameter.shape) for name, parameter in parameters.items()}
        for name in {*self._positions, *(tensor for counts in self._counts.values() for tensor, _ in counts)}:
            self._shapes.setdefault(name, list(tensor_of(model, name).shape))
        self.size = self._of(self._shapes)

    def removing(self, coupling: str, filters: Collection[int]) -> Size:
        """What is saved when these filters of the coupling leave, too."""
        after = self._shapes_without(coupling, filters)
        return self._of({name: self._shapes[name] for name in after}) - self._of(after)

    def remove(self, coupling: str, filters: Collection[int]) -> None:
        """Takes filters of the coupling out that have not left yet."""
        self.size -= self.removing(coupling, filters)
        self._shapes.update(self._shapes_without(coupling, filters))

    def _shapes_without(self, coupling: str, filters: Collection[int]) -> dict[str, list[int]]:
        shapes: dict[str, list[int]] = {}
        for (name, dim), counts in self._counts[coupling].items():
            shape = shapes.setdefault(name, list(self._shapes[name]))
            shape[dim] -= sum(counts[filter] for filter in filters)
        return shapes

    def _of(self, shapes: Mapping[str, Sequence[int]]) -> Size:
        entries = {name: math.prod(shape) for name, shape in shapes.items()}
        return Size(
            sum(count for name, count in entries.items() if name in self._is_parameter),
            sum(count * self._positions.get(name, 0) for name, count in entries.items()),
        )


def _counts(coupling: Coupling) -> dict[tuple[str, int], list[int]]:
    """For each dimension of each tensor how many of its indices leave with each filter."""
    positions: dict[tuple[str, int], Sequence[Collection[int]]] = {}
    for entry in coupling.entries:
        place = (entry.tensor, entry.dim)
        before = positions.get(place)  # there, where a tensor is used twice
        positions[place] = entry.positions if before is None else list(map(_either, before, entry.positions))
    return {place: list(map(len, found)) for place, found in positions.items()}


def _either(one: Collection[int], other: Collection[int]) -> set[int]:
    return {*one, *other}
