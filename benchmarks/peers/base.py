"""What a peer is."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from race import NoEntry
from torch import Tensor

ALPHA, EPS, THRESHOLD = 0.1, 1e-4, 0.6
Call = Callable[[], Any]


def weights_of_pairs(filters: int) -> Tensor:
    """What the gradient is taken of: Omega times these, summed; random, since most of a plain sum's gradient cancels.

    out: (filters (filters - 1) / 2,)
    """
    generator = torch.Generator().manual_seed(3)
    return torch.randn(filters * (filters - 1) // 2, generator=generator)


def weights_of_square(filters: int) -> Tensor:
    """The same as an upper triangle (filters, filters)."""
    i, j = torch.triu_indices(filters, filters, 1)
    return torch.zeros(filters, filters).index_put((i, j), weights_of_pairs(filters))


class Peer:
    """One system. Its methods are the operations it offers, with Psi's default exponents and eps:

    pairwise(weight)      Omega, or the square of Psi
    gradient(weight)      the gradient of a weighted sum of Omega, with `weights_of_pairs`
    redundancy(weight)    lambda^0.6
    cross(a, b)           (Na, Nb)
    listed(weight, pairs) Psi of the listed pairs, (P,)

    Each takes torch tensors and returns its forms by name: calls without arguments on inputs already converted. The
    fastest form of a peer counts.
    """

    name: str
    package: str

    def forms(self, operation: str, *inputs: Tensor) -> dict[str, Call]:
        """The calls that compute the operation on these inputs; raises NoEntry."""
        if importlib.util.find_spec(self.package) is None:
            raise NoEntry(f"{self.package} is not installed")
        if not hasattr(self, operation):
            raise NoEntry(f"{self.name} has no form of {operation}")
        forms = getattr(self, operation)(*inputs)
        if not forms:
            raise NoEntry(f"{self.name} would not fit into memory")
        return forms
