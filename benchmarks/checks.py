"""Checks of what a candidate computes, before it is timed: against the reference in float64 on a sample, or against
the kernels in float64, which themselves are checked against the reference on a small layer."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from layers import Layer
from peers.base import weights_of_pairs
from torch import Tensor

import ckrm_kernels
from ckrm_kernels import reference
from ckrm_kernels.similarity import Similarity

PSI = Similarity()
THRESHOLD = 0.6
SAMPLE = 100  # pairs that are checked
CLOSE = {"atol": 1e-4, "rtol": 0.0}  # fast logarithms of other systems included


def check_of(operation: str, *inputs: Tensor) -> Callable[[Any], None]:
    """A function that raises AssertionError unless a result of the operation on these inputs is right."""
    trust_kernels()
    check: Callable[[Any], None] = CHECKS[operation](*inputs)
    return check


def random_pairs(filters: int, number: int) -> Tensor:
    """Pairs (number, 2) of different filters, the smaller index first."""
    generator = torch.Generator().manual_seed(1)
    i = torch.randint(filters, (number,), generator=generator)
    j = (i + torch.randint(1, filters, (number,), generator=generator)) % filters
    return torch.stack([i, j], 1).sort(1).values


def _pairwise(weight: Tensor) -> Callable[[Any], None]:
    filters, pairs = weight.shape[0], random_pairs(weight.shape[0], SAMPLE)
    expected = reference.psi_of_pairs(weight.double(), pairs, PSI)
    i, j = pairs.unbind(1)
    packed = i * (2 * filters - i - 1) // 2 + j - i - 1

    def check(omega: Tensor) -> None:
        torch.testing.assert_close((omega[packed] if omega.dim() == 1 else omega[i, j]).double(), expected, **CLOSE)

    return check


def _cross(a: Tensor, b: Tensor) -> Callable[[Any], None]:
    expected = reference.cross_psi(a[-2:].double(), b.double(), PSI)
    return lambda psi: torch.testing.assert_close(psi[-2:].double(), expected, **CLOSE)


def _listed(weight: Tensor, pairs: Tensor) -> Callable[[Any], None]:
    expected = reference.psi_of_pairs(weight.double(), pairs[-SAMPLE:], PSI)
    return lambda psi: torch.testing.assert_close(psi[-SAMPLE:].double(), expected, **CLOSE)


def _redundancy(weight: Tensor) -> Callable[[Any], None]:
    expected = float(ckrm_kernels.redundancy(weight.double(), THRESHOLD, backend="cpu"))

    def check(share: Any) -> None:
        assert abs(float(share) - expected) <= 1e-4, f"{float(share)} instead of {expected}"

    return check


def _gradient(weight: Tensor) -> Callable[[Any], None]:
    """Within 1 %: |S| has a corner at 0, and of millions of slice pairs a few fall to its other side in float32."""
    expected = _gradient_of(ckrm_kernels.pairwise_psi, weight.double())

    def check(gradient: Tensor) -> None:
        error = (gradient.double() - expected).norm() / expected.norm()
        assert error <= 0.01, f"the gradient is off by {error:.1e} of its norm"

    return check


def _gradient_of(pairwise_psi: Callable[..., Tensor], weight: Tensor) -> Tensor:
    weight = weight.clone().requires_grad_()
    return torch.autograd.grad(pairwise_psi(weight), weight, weights_of_pairs(weight.shape[0]).double())[0]


@functools.cache
def trust_kernels() -> None:
    """Checks the float64 kernels on a small layer, since the reference would take minutes on the large ones."""
    weight = Layer(24, 6, 3).weight().double()
    omega = reference.pairwise_psi(weight, PSI)
    share = (omega > THRESHOLD).double().mean()
    torch.testing.assert_close(ckrm_kernels.redundancy(weight, THRESHOLD, backend="cpu"), share)
    gradient = _gradient_of(lambda w: reference.pairwise_psi(w, PSI), weight)
    torch.testing.assert_close(_gradient_of(ckrm_kernels.pairwise_psi, weight), gradient)


CHECKS: dict[str, Callable[..., Callable[[Any], None]]] = {
    "pairwise": _pairwise,
    "cross": _cross,
    "listed": _listed,
    "redundancy": _redundancy,
    "gradient": _gradient,
}
