"""Checks of what a candidate computes against the float64 reference, before it is timed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ckrm_kernels import reference

PSI = (0.1, 1.0, 1.0, 1e-4)
THRESHOLD = 0.6
SAMPLE = 100  # pairs that are checked
CLOSE = {"atol": 2e-5, "rtol": 0.0}


def check_of(operation: str, *inputs: Tensor) -> Callable[[Any], None]:
    """A function that raises AssertionError unless a result of the operation on these inputs is right."""
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
    expected = reference.psi_of_pairs(weight.double(), pairs, *PSI)
    i, j = pairs.unbind(1)
    packed = i * (2 * filters - i - 1) // 2 + j - i - 1

    def check(omega: Tensor) -> None:
        torch.testing.assert_close((omega[packed] if omega.dim() == 1 else omega[i, j]).double(), expected, **CLOSE)

    return check


def _cross(a: Tensor, b: Tensor) -> Callable[[Any], None]:
    expected = reference.cross_psi(a[-2:].double(), b.double(), *PSI)
    return lambda psi: torch.testing.assert_close(psi[-2:].double(), expected, **CLOSE)


def _listed(weight: Tensor, pairs: Tensor) -> Callable[[Any], None]:
    expected = reference.psi_of_pairs(weight.double(), pairs[-SAMPLE:], *PSI)
    return lambda psi: torch.testing.assert_close(psi[-SAMPLE:].double(), expected, **CLOSE)


def _redundancy(weight: Tensor) -> Callable[[Any], None]:
    """Against the exact share, or for a very wide layer a sampled one, within five standard errors."""
    if weight.shape[0] <= 512:
        low, high, _ = reference.psi_counts(weight.double(), torch.tensor([THRESHOLD]), *PSI).tolist()
        expected, tolerance = high / (low + high), 1e-4
    else:
        psi = reference.psi_of_pairs(weight.double(), random_pairs(weight.shape[0], 2000), *PSI)
        expected, tolerance = (psi > THRESHOLD).double().mean().item(), 5 * 0.5 / 2000**0.5

    def check(share: Any) -> None:
        assert abs(float(share) - expected) <= tolerance, f"{float(share)} instead of {expected}"

    return check


def _gradient(weight: Tensor) -> Callable[[Any], None]:
    """Against the difference quotient of the sum of Omega along a random direction."""
    generator = torch.Generator().manual_seed(2)
    direction = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
    step = 1e-6 * weight.abs().mean().item()
    above, below = (reference.pairwise_psi(weight.double() + sign * step * direction, *PSI).sum() for sign in (1, -1))
    expected = (above - below) / (2 * step)

    def check(gradient: Tensor) -> None:
        slope = (gradient.double() * direction).sum()
        torch.testing.assert_close(slope, expected, rtol=2e-3, atol=1e-3 * gradient.double().norm().item())

    return check


CHECKS: dict[str, Callable[..., Callable[[Any], None]]] = {
    "pairwise": _pairwise,
    "cross": _cross,
    "listed": _listed,
    "redundancy": _redundancy,
    "gradient": _gradient,
}
