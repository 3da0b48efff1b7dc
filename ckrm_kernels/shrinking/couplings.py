"""What is known of a traced network: its layers, and which entries of which tensors leave together with a filter."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

Role = Literal["produces", "follows", "consumes"]


@dataclass(frozen=True)
class Entries:
    """Where a coupling's filters lie along one dimension of one tensor.

    tensor: the qualified name of a parameter or buffer of the model; of a shared one, the first; in a coupling's
        `norms` that of a module's attribute
    dim: the dimension, from 0
    positions: for each filter of the coupling its indices in that dimension, ascending; several where one filter's
        output is flattened, or filters leave in blocks
    role: "produces" where the tensor makes the filter's output (a layer's weight and bias), "consumes" where it reads
        it (the inputs of a later layer's weight), "follows" where it acts on it element by element (a norm, a
        depthwise weight, a scale)
    """

    tensor: str
    dim: int
    positions: tuple[tuple[int, ...], ...]
    role: Role

    def of(self, filters: Iterable[int]) -> list[int]:
        """The indices in the dimension that leave with these filters, ascending."""
        return sorted({index for filter in filters for index in self.positions[filter]})


@dataclass(frozen=True)
class Coupling:
    """Filters, of one layer or of several, that leave together: filter r of it is `positions[r]` of every entry.

    name: of the first layer that produces it
    width: how many filters it has that may leave; a layer may have further ones, which may not
    entries: in the order in which the network runs
    statistics_change: a LayerNorm, GroupNorm, InstanceNorm or the like reduces over its filters, so that a network
        without some of them is another function than one whose consumers ignore them
    norms: where they lie in the widths that norms without tensors of their own hold, such as "norm.num_features"
    """

    name: str
    width: int
    entries: tuple[Entries, ...]
    statistics_change: bool = False
    norms: tuple[Entries, ...] = ()

    def with_role(self, role: Role) -> tuple[Entries, ...]:
        """Its entries that have the role."""
        return tuple(entry for entry in self.entries if entry.role == role)


@dataclass(frozen=True)
class Layer:
    """A convolution or linear map of the traced network.

    name: of its module; of one without a module of its own (a functional call), of its weight
    kind: "conv", "transposed" (convolution) or "linear"
    weight, bias: names of tensors; bias is None where there is none
    groups: of a grouped convolution, else 1
    positions: of one example, where the weight is applied: output positions (of a transposed convolution its input's),
        summed over calls; its multiply-adds are the entries of its weight times these
    is_module: whether a module of torch computes it, so that hooks see its input and output
    norm: name of the batch norm module that alone takes its output, if any
    calls: how often it runs in one forward
    """

    name: str
    kind: Literal["conv", "transposed", "linear"]
    weight: str
    bias: str | None
    groups: int
    positions: int
    is_module: bool
    norm: str | None
    calls: int = 1

    @property
    def output_dim(self) -> int:
        """The dimension of the weight that counts its filters."""
        return 1 if self.kind == "transposed" else 0

    @property
    def input_dim(self) -> int:
        """The dimension of the weight that counts the channels that it reads, of one group."""
        return 1 - self.output_dim


@dataclass(frozen=True)
class Graph:
    """A traced network.

    layers: in the order in which they first run
    couplings: in the order in which they are first produced
    fixed: for each layer with filters that can't leave why: the operation and the line of the model's source where
        it is known
    unsupported: the operations without a rule, by name, each with the line where it is known
    """

    layers: tuple[Layer, ...]
    couplings: tuple[Coupling, ...]
    fixed: Mapping[str, str]
    unsupported: tuple[str, ...] = ()

    def layer(self, name: str) -> Layer:
        """The layer of the name."""
        return next(layer for layer in self.layers if layer.name == name)

    def coupling(self, name: str) -> Coupling:
        """The coupling of the name."""
        return next(coupling for coupling in self.couplings if coupling.name == name)

    def producers(self, coupling: Coupling) -> tuple[Layer, ...]:
        """The layers whose filters the coupling's are."""
        made = {entry.tensor for entry in coupling.with_role("produces")}
        return tuple(layer for layer in self.layers if layer.weight in made)

    def consumers(self, coupling: Coupling) -> tuple[Layer, ...]:
        """The layers that read the coupling's filters."""
        read = {entry.tensor for entry in coupling.with_role("consumes")}
        return tuple(layer for layer in self.layers if layer.weight in read)
