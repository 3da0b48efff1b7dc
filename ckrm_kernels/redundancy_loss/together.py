"""Pulling the filters that are most alike onto each other, with all that makes their outputs, so that they merge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ckrm_kernels.ops import result_dtype
from ckrm_kernels.redundancy_loss.live_layers import is_frozen
from ckrm_kernels.shrinking.choices import order, signed_psi
from ckrm_kernels.shrinking.couplings import Coupling, Entries
from ckrm_kernels.shrinking.graph import trace
from ckrm_kernels.shrinking.moments import tensor_of


class Together:
    """The mean over couplings of the mean over their pairs of the squared distance of what makes two filters' outputs.

    A coupling is a set of layers whose filters leave together (`ckrm_kernels.shrinking`). Of each module that makes
    or follows its filters, such as a convolution or a batch norm, |v_i - v_j|^2 over the mean of |v|^2 counts, v being
    the filter's entries of all its parameters; summed over the modules.
    names: the layers whose filters are pulled
    share: of a coupling's filters, that of those that are pulled onto one that stays, the most alike first
    """

    def __init__(self, model: nn.Module, example_inputs: Any, names: Sequence[str], share: float) -> None:
        self.model, self.share = model, share
        self.graph = trace(model, example_inputs)
        free = {
            coupling.name: coupling
            for coupling in self.graph.couplings
            if any(layer.name in names for layer in self.graph.producers(coupling)) and _is_even(coupling)
        }
        buffers = {name for name, _ in model.named_buffers(remove_duplicate=False)}
        self.parts = {name: _by_module(model, coupling, buffers) for name, coupling in free.items()}
        if not self.parts:
            fixed = "; ".join(f"{name}: {reason}" for name, reason in self.graph.fixed.items() if name in names)
            raise ValueError(f'toward="together" needs a layer whose filters can be merged, got none ({fixed})')
        self.pairs: dict[str, Tensor] = {}

    is_refreshed = True

    @property
    def is_ready(self) -> bool:
        """Whether pairs are chosen."""
        return bool(self.pairs)

    @torch.no_grad()
    def refresh(self) -> None:
        """Chooses the pairs anew, by the weights as they are: see `paired`."""
        for name in self.parts:
            coupling = self.graph.coupling(name)
            similarity = signed_psi(self.model, self.graph, coupling)
            leaving = order("psi", self.model, self.graph, coupling)[: self._most_pairs(name)]
            self.pairs[name] = paired(similarity, leaving)

    def state(self) -> Tensor:
        """What a training that goes on needs: bytes, always as many. Rows of -1 stand for pairs that there are not."""
        of_all = []
        for name in self.parts:
            rows = torch.full((self._most_pairs(name), 2), -1, device="cpu")
            if name in self.pairs:
                rows[: len(self.pairs[name])] = self.pairs[name].cpu()
            of_all.append(rows)
        return torch.cat(of_all).flatten().view(torch.uint8)

    def load(self, state: Tensor) -> None:
        """Goes on from a state."""
        rows = state.clone().view(torch.int64).view(-1, 2)
        of_all = rows.split([self._most_pairs(name) for name in self.parts])
        found = {name: pairs[pairs[:, 0] >= 0] for name, pairs in zip(self.parts, of_all, strict=True)}
        self.pairs = found if (rows >= 0).any() else {}

    def _most_pairs(self, name: str) -> int:
        return int(self.share * self.graph.coupling(name).width)

    def value(self) -> Tensor:
        """The penalty, of the weights as they are."""
        found = [
            torch.stack([self._distance(rows, self.pairs[name]) for rows in modules.values()]).sum()
            for name, modules in self.parts.items()
            if not self._is_frozen(name)
        ]
        if not found:
            rows = next(iter(next(iter(self.parts.values())).values()))
            return rows[0].read(self.model).new_zeros(())
        return torch.stack([each.to(found[0].device) for each in found]).mean()

    def _is_frozen(self, name: str) -> bool:
        """Whether a layer that makes a coupling's filters is frozen, so that they can't become equal."""
        makers = [layer.weight.rpartition(".")[0] for layer in self.graph.producers(self.graph.coupling(name))]
        return any(is_frozen(self.model.get_submodule(path)) for path in makers)

    def _distance(self, rows: Sequence[_Rows], pairs: Tensor) -> Tensor:
        """Of one module's parameters."""
        vectors = torch.cat([each.read(self.model) for each in rows], 1)
        if len(pairs) == 0:
            return vectors.sum() * 0
        scale = vectors.detach().square().sum(1).mean()
        apart = vectors[pairs[:, 0].to(vectors.device)] - vectors[pairs[:, 1].to(vectors.device)]
        return apart.square().sum(1).mean() / torch.where(scale > 0, scale, 1)


class _Rows(NamedTuple):
    """What a tensor holds of each filter; positions: of the filters along its dimension, None where all in order."""

    tensor: str
    dim: int
    positions: Tensor | None

    @classmethod
    def of(cls, model: nn.Module, entry: Entries) -> _Rows:
        size = tensor_of(model, entry.tensor).shape[entry.dim]
        in_order = entry.positions == tuple((index,) for index in range(size))
        return cls(entry.tensor, entry.dim, None if in_order else torch.tensor(entry.positions))

    def read(self, model: nn.Module) -> Tensor:
        """(filters, numbers), float32 or float64, as the next forward pass uses it."""
        path, _, attribute = self.tensor.rpartition(".")
        rows: Tensor = getattr(model.get_submodule(path), attribute).movedim(self.dim, 0)
        if self.positions is not None:
            rows = rows[self.positions.to(rows.device)]
        return rows.reshape(rows.shape[0], -1).to(result_dtype(rows.dtype))


def paired(similarity: Tensor, leaving: Sequence[int]) -> Tensor:
    """The pairs (leaves, stays): each filter that leaves with the one that stays and is most similar to it.

    similarity: (N, N) signed; one that is like no other, with at most 0, is not paired
    out: (P, 2) int64
    """
    leaves = torch.tensor(sorted(leaving), dtype=torch.int64, device=similarity.device)
    if len(leaves) == 0:
        return leaves.new_empty(0, 2)
    among = similarity.clone()
    among[:, leaves] = -torch.inf
    best, stays = among[leaves].max(1)
    return torch.stack((leaves, stays), 1)[best > 0]


def _is_even(coupling: Coupling) -> bool:
    """Whether every filter has as many entries as the others of each tensor that makes its output."""
    acting = [entry for entry in coupling.entries if entry.role != "consumes"]
    return coupling.width > 1 and all(len({*map(len, entry.positions)}) == 1 for entry in acting)


def _by_module(model: nn.Module, coupling: Coupling, buffers: set[str]) -> Mapping[str, Sequence[_Rows]]:
    """The parameters that make the filters' outputs, by their modules."""
    found: dict[str, list[_Rows]] = {}
    for entry in coupling.entries:
        if entry.role != "consumes" and entry.tensor not in buffers:
            found.setdefault(entry.tensor.rpartition(".")[0], []).append(_Rows.of(model, entry))
    return found
