"""How psi is computed for a weight's dtype and exponents: what is compiled, and the scalars that kernels take."""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ckrm_kernels.kernels import plan, tables, term

_SMALLEST_EPS = 2.0**-64  # below, float32 arithmetic would hold small weights only


class Arithmetic(NamedTuple):
    """How the exponents are compiled, and how a weight is scaled: psi(c x, c y; c^2 eps) = psi(x, y; eps).

    double: float64 arithmetic, for float64 weights and an eps that is 0 or nearly
    scale: c, a power of two that puts eps c^2 / 2 into [2^-40, 2^-38), so that the reciprocal that three denominators
        share neither overflows nor vanishes
    scalars: eps c^2 and the exponents
    """

    double: bool
    scale: float
    scalars: tuple[float, float, float, float]

    @classmethod
    def of(cls, dtype: torch.dtype, alpha: float, beta: float, gamma: float, eps: float) -> Arithmetic:
        """The arithmetic for a weight's dtype."""
        double = dtype == torch.float64 or eps < _SMALLEST_EPS
        if double:
            scale = 2.0**150 if 0 < eps < 2.0**-900 else 1.0
        else:
            scale = 2.0 ** math.ceil((-39 - math.log2(eps)) / 2)
        # Floats: kernels take them in a tuple, where Triton 3.4 compiles no constant, such as an integer that is 1.
        return cls(double, scale, (float(eps * scale * scale), float(alpha), float(beta), float(gamma)))

    @property
    def dtype(self) -> torch.dtype:
        """Of the arithmetic."""
        return torch.float64 if self.double else torch.float32

    @property
    def width(self) -> int:
        """Elements that a step of coordinates takes: in float32 each is split in two tf32 numbers."""
        return plan.COORDINATES_PER_STEP * (1 if self.double else 2)

    @property
    def kinds(self) -> tuple[int, int, int]:
        """How luminance, contrast and structure enter the product: see term.py."""
        _, alpha, beta, gamma = self.scalars
        luminance, contrast, structure = _kind(alpha), _kind(beta), _kind(gamma)
        if contrast == structure == term.POWER.value and beta == gamma:
            structure = int(term.SHARED.value)
        return luminance, contrast, structure

    def of_weight(self, device: torch.device) -> dict[str, Any]:
        """The arguments of kernels that read or write a weight: see `term.constants_of_psi`."""
        scalars = (*self.scalars, self.scale)
        return {"scalars": _on_device(scalars, device) if self.double else scalars, "DOUBLE": self.double}

    def of_psi(self, device: torch.device) -> dict[str, Any]:
        """The arguments of kernels that compute psi."""
        return {**self.of_weight(device), "KINDS": self.kinds}


def _kind(exponent: float) -> int:
    kinds = {0.0: term.ZERO, 1.0: term.ONE}
    return int(kinds.get(exponent, term.POWER).value)


def _on_device(scalars: tuple[float, ...], device: torch.device) -> Tensor:
    table = _table(scalars, device)
    tables.keep_if_captured(table)
    return table


@functools.lru_cache(maxsize=64)
def _table(scalars: tuple[float, ...], device: torch.device) -> Tensor:
    return tables.on_device(torch.tensor(scalars, dtype=torch.float64, device="cpu"), device)
