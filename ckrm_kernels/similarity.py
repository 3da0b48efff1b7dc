"""How two filters are compared: a value that functions, operators, kernels, configurations and reports hand on whole.

A similarity is the mean over the slices of two filters of a similarity of slices, whose definition in plain PyTorch
stands here. `reference.py` takes it over all pairs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from decimal import Decimal
from numbers import Real
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

Name = Literal["psi", "cosine"]
ALPHA, BETA, GAMMA, EPS = 0.1, 1.0, 1.0, 1e-4
_LARGEST = sys.float_info.max
_NUMBERS = (float, Real, torch.SymFloat, torch.SymInt)  # float first: isinstance asks in this order


@dataclass(frozen=True)
class Similarity:
    """A similarity of filters; see `options.SimilarityOptions` for the fields, `name` being the option "similarity".

    Raises TypeError or ValueError for a name that there is not, exponents and eps that are not finite numbers >= 0,
    those of psi with another similarity, and what is neither True nor False.
    """

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    name: Name = "psi"
    alpha: float = ALPHA
    beta: float = BETA
    gamma: float = GAMMA
    eps: float = EPS
    signed: bool = False
    scale_free: bool = False

    def __post_init__(self) -> None:
        if self.name not in tuple(_DEFINITIONS):  # what can't be hashed is no name either
            raise ValueError(f"similarity must be {_or(map(repr, _DEFINITIONS))}, got {self.name!r}")
        for name in _OF_PSI:
            number = _checked_number(name, getattr(self, name))
            if name not in _DEFINITIONS[self.name].parameters and number != _USUAL[name]:
                raise ValueError(f'{name} is a parameter of psi: similarity="{self.name}" takes none, got {number!r}')
            object.__setattr__(self, name, number)  # a plain float, whatever number it was
        for name in ("signed", "scale_free"):
            if not isinstance(getattr(self, name), (bool, np.bool_)):
                raise TypeError(f"{name} must be True or False, got {getattr(self, name)!r}")
            object.__setattr__(self, name, bool(getattr(self, name)))

    @property
    def parameters(self) -> list[float]:
        """Its numbers, in the order in which kernels take them."""
        return [getattr(self, name) for name in _DEFINITIONS[self.name].parameters]

    @property
    def arguments(self) -> tuple[str, bool, list[float]]:
        """What operators take after their tensors: the name, whether it is signed, and the parameters."""
        return self.name, self.signed, self.parameters

    @property
    def lowest(self) -> float:
        """The least that two filters can have, up to rounding; the most is 1."""
        return -1.0 if self.signed else 0.0

    @property
    def has_eps(self) -> bool:
        """Whether it has an eps, and one above 0."""
        return "eps" in _DEFINITIONS[self.name].parameters and self.eps > 0

    @property
    def depends_on_scale(self) -> bool:
        """Whether it changes with how large a layer's weights are."""
        return self.has_eps and not self.scale_free

    def of_slices(self, x: Tensor, y: Tensor) -> Tensor:
        """The definition, of slices (..., K) that broadcast against each other: (...)."""
        return _DEFINITIONS[self.name].of_slices(x, y, self)

    def options(self) -> dict[str, Any]:
        """The keyword arguments of the functions on weights."""
        values = asdict(self)
        return {"similarity": values.pop("name"), **values}

    def in_words(self) -> str:
        """Such as "eps 1e-4 absolute" or "signed, alpha 1, eps 1e-3 relative to each layer's scale" or "cosine"."""
        signed = ["signed"] if self.signed else []
        if self.name != "psi":
            return " ".join([*signed, self.name])
        exponents = [f"{n} {written(getattr(self, n))}" for n in _OF_PSI[:3] if getattr(self, n) != _USUAL[n]]
        scale = " relative to each layer's scale" if self.scale_free else " absolute"
        return ", ".join([*signed, *exponents, f"eps {written(self.eps)}{scale if self.eps else ''}"])


_OF_PSI = ("alpha", "beta", "gamma", "eps")
_USUAL: dict[str, Any] = {field.name: field.default for field in fields(Similarity)}


def written(number: float) -> str:
    """A number with all its digits, a small or a large one by its power of ten: 0.25, 1e-4."""
    exact = Decimal(repr(float(number))).normalize()
    return f"{exact:f}" if not number or 0.01 <= abs(number) < 1e4 else f"{exact:e}".replace("e+", "e")


def _checked_number(name: str, value: Any) -> float:
    if not isinstance(value, _NUMBERS):
        raise TypeError(f"{name} must be a finite number >= 0, got {value!r}")
    # a NumPy float would be cast, with a warning, to compare with the largest float
    number: Any = float(value) if isinstance(value, np.floating) else value
    if not 0 <= number <= _LARGEST:
        raise ValueError(f"{name} must be a finite number >= 0, got {value!r}")
    return float(value)


def _or(words: Any) -> str:
    return " or ".join(words)


# ---- the definitions -------------------------------------------------------------------------------------------------


def _psi(x: Tensor, y: Tensor, psi: Similarity) -> Tensor:
    """|L|^alpha C^beta |S|^gamma, times the sign of S where signed (equations 2, 5 and 6 of the paper)."""
    mu_x, z_x, sigma_x = _moments(x)
    mu_y, z_y, sigma_y = _moments(y)
    eps = psi.eps
    luminance = _ratio(2 * mu_x * mu_y + eps, mu_x.square() + mu_y.square() + eps)
    contrast = _ratio(2 * sigma_x * sigma_y + eps, sigma_x.square() + sigma_y.square() + eps)
    structure = _ratio((z_x * z_y).mean(-1) + eps, sigma_x * sigma_y + eps)
    of_structure = _abs_power(structure, psi.gamma)
    if psi.signed:
        of_structure = torch.where(structure < 0, -of_structure, of_structure)
    return _abs_power(luminance, psi.alpha) * _abs_power(contrast, psi.beta) * of_structure


def _cosine(x: Tensor, y: Tensor, cosine: Similarity) -> Tensor:
    """<x, y> / (|x| |y|), its absolute value unless signed; 0, with a gradient of 0, where x or y is 0."""
    product = (_unit(x) * _unit(y)).sum(-1)
    return product if cosine.signed else _abs_power(product, 1)


class _Definition(NamedTuple):
    """parameters: the fields that it reads, in the order in which kernels take them; of_slices: see there."""

    parameters: tuple[str, ...]
    of_slices: Callable[[Tensor, Tensor, Similarity], Tensor]


_DEFINITIONS = {"psi": _Definition(_OF_PSI, _psi), "cosine": _Definition((), _cosine)}


def _moments(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, centred values and population standard deviation; exact zeros for a constant slice.

    The gradient of sigma at sigma = 0 is taken as 0.
    """
    shifted = x - x[..., :1]
    mean_shift = shifted.mean(-1)
    centred = shifted - mean_shift.unsqueeze(-1)
    variance = centred.square().mean(-1)
    constant = variance == 0
    sigma = torch.where(constant, 0.0, torch.where(constant, 1.0, variance).sqrt())
    return x[..., 0] + mean_shift, centred, sigma


def _unit(x: Tensor) -> Tensor:
    """x / |x|, without overflow; 0, with a gradient of 0, where x is 0."""
    peak = x.detach().abs().amax(-1, keepdim=True)
    zero = peak == 0
    x = x / torch.where(zero, 1.0, peak)
    return torch.where(zero, 0.0, x / torch.where(zero, 1.0, x.square().sum(-1, keepdim=True)).sqrt())


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """numerator / denominator, and 1 where the denominator is 0, or too small to be inverted: the limit as eps -> 0."""
    zero = denominator < 1 / torch.finfo(denominator.dtype).max
    return torch.where(zero, 1.0, numerator / torch.where(zero, 1.0, denominator))


def _abs_power(x: Tensor, exponent: float) -> Tensor:
    """|x|^exponent. At x = 0 the derivative is the limit from above if that is finite, else 0."""
    if exponent == 0:
        return x**0  # ones, whose gradient is zeros
    magnitude = torch.where(x >= 0, x, -x)
    if exponent == 1:
        return magnitude
    zero = x == 0
    return torch.where(zero, 0.0, torch.where(zero, 1.0, magnitude) ** exponent)
