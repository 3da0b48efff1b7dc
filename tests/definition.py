"""Psi and the cosine by their definitions, in 40 decimal digits: loops over pairs, slices and positions.

Independent of the package.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from mpmath import mp, mpf
from torch import Tensor

DIGITS = 40


class Psi(NamedTuple):
    """The exponents and eps of psi, in the order in which operators take them; the defaults are the package's.

    signed: keeps the sign of S
    """

    alpha: float = 0.1
    beta: float = 1.0
    gamma: float = 1.0
    eps: float = 1e-4
    signed: bool = False

    @property
    def options(self) -> dict[str, Any]:
        """The keyword arguments of the functions on weights."""
        return self._asdict()

    @property
    def arguments(self) -> tuple[str, bool, list[float]]:
        """What operators take after their tensors."""
        return "psi", self.signed, list(self[:4])


class Cosine(NamedTuple):
    """The cosine of slices, its absolute value unless signed."""

    signed: bool = False

    @property
    def options(self) -> dict[str, Any]:
        """The keyword arguments of the functions on weights."""
        return {"similarity": "cosine", "signed": self.signed}

    @property
    def arguments(self) -> tuple[str, bool, list[float]]:
        """What operators take after their tensors."""
        return "cosine", self.signed, []


def cosine_of_slices(x: Sequence[float], y: Sequence[float], cosine: Cosine) -> float:
    """<x, y> / (|x| |y|) of two slices of numbers as they are, or its absolute value; 0 where one is all zeros."""
    with mp.workdps(DIGITS):
        x, y = [mpf(v) for v in x], [mpf(v) for v in y]
        norms = mp.sqrt(sum(v * v for v in x)) * mp.sqrt(sum(v * v for v in y))
        value = sum(v * w for v, w in zip(x, y, strict=True)) / norms if norms else mpf(0)
        return float(value if cosine.signed else abs(value))


def psi_of_slices(x: Sequence[float], y: Sequence[float], psi: Psi) -> float:
    """|L|^alpha C^beta |S|^gamma of two slices of numbers, or sign(S) times it; 0/0 counts as 1 and 0^0 as 1."""
    with mp.workdps(DIGITS):
        n, eps = len(x), mpf(psi.eps)
        x, y = [mpf(v) for v in x], [mpf(v) for v in y]
        mx, my = sum(x) / n, sum(y) / n
        vx, vy = sum((v - mx) ** 2 for v in x) / n, sum((v - my) ** 2 for v in y) / n
        sx, sy = mp.sqrt(vx), mp.sqrt(vy)
        cov = sum((v - mx) * (w - my) for v, w in zip(x, y, strict=True)) / n
        luminance = _quotient(2 * mx * my + eps, mx**2 + my**2 + eps)
        contrast = _quotient(2 * sx * sy + eps, vx + vy + eps)
        structure = _quotient(cov + eps, sx * sy + eps)
        sign = -1 if psi.signed and structure < 0 else 1
        return float(sign * abs(luminance) ** psi.alpha * contrast**psi.beta * abs(structure) ** psi.gamma)


def psi_of_filters(a: Tensor, b: Tensor, psi: Psi | Cosine) -> float:
    """The mean of psi, or of the cosine, over the slices of two filters (F1, *K); NaN if a number is not finite."""
    a, b = _lists(a), _lists(b)
    if not all(math.isfinite(v) for v in itertools.chain(*a, *b)):
        return math.nan
    of_slices = cosine_of_slices if isinstance(psi, Cosine) else psi_of_slices
    return math.fsum(of_slices(x, y, psi) for x, y in zip(a, b, strict=True)) / len(a)


def omega(weight: Tensor, psi: Psi | Cosine) -> Tensor:
    """Psi of all pairs i < j of filters (F2, F1, *K), i varying slowest, as float64."""
    pairs = itertools.combinations(range(weight.shape[0]), 2)
    return torch.tensor([psi_of_filters(weight[i], weight[j], psi) for i, j in pairs], dtype=torch.float64)


def cross(a: Tensor, b: Tensor, psi: Psi | Cosine) -> Tensor:
    """Psi of every filter of a with every filter of b, as float64."""
    return torch.tensor([[psi_of_filters(x, y, psi) for y in b] for x in a], dtype=torch.float64)


def _quotient(numerator: mpf, denominator: mpf) -> mpf:
    return numerator / denominator if denominator else mpf(1)


def _lists(filter_: Tensor) -> list[list[float]]:
    return filter_.detach().double().reshape(filter_.shape[0], -1).tolist()
