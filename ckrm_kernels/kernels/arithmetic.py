"""How a similarity is computed for a weight's dtype: the functions that kernels take, and their scalars."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Sequence
from types import ModuleType
from typing import Any, NamedTuple, get_args

import torch
from torch import Tensor

from ckrm_kernels.kernels import plan, tables
from ckrm_kernels.similarity import Name, Similarity

_NUMBERS = {name: len(Similarity(name).parameters) for name in get_args(Name)}  # of parameters, by similarity


class Compiled(NamedTuple):
    """What a similarity is compiled to.

    double: float64 arithmetic, else float32
    constants: the scale, a power of two that every number of a weight is multiplied by; what every covariance has added
        to it; what else the similarity's functions take
    kinds: how these enter, known when a kernel is compiled
    """

    double: bool
    constants: tuple[float, ...]
    kinds: tuple[int, ...]


class Arithmetic(NamedTuple):
    """How a similarity is computed.

    similarity: the module kernels/<name>.py, of which kernels take the device functions
        of_slice             what a slice has beside mu and sigma
        term                 the similarity of two slices
        term_of_numbers      the same for K = 1
        gradient             what mu_i, sigma_i and the covariance get of the gradient of a term
        gradient_of_numbers  the same for K = 1
    """

    similarity: ModuleType
    compiled: Compiled

    @classmethod
    def of(cls, dtype: torch.dtype, similarity: str, signed: bool, parameters: Sequence[float]) -> Arithmetic:
        """For weights of a dtype; raises RuntimeError for a similarity that there is not, or other parameters."""
        # Floats: kernels take them in a tuple, where Triton 3.4 compiles no constant, such as an integer that is 1.
        return _arithmetic(dtype == torch.float64, similarity, signed, tuple(map(float, parameters)))

    @property
    def double(self) -> bool:
        """Whether it is float64 arithmetic."""
        return self.compiled.double

    @property
    def dtype(self) -> torch.dtype:
        """Of the arithmetic."""
        return torch.float64 if self.double else torch.float32

    @property
    def width(self) -> int:
        """Elements that a step of coordinates takes: in float32 each is split in two tf32 numbers."""
        return plan.COORDINATES_PER_STEP * (1 if self.double else 2)

    def of_weight(self, device: torch.device) -> dict[str, Any]:
        """The arguments of kernels that read or write a weight: see `elementary.constants_of`."""
        constants = self.compiled.constants
        return {
            "scalars": _on_device(constants, device) if self.double else constants,
            "NUMBER": len(constants),
            "DOUBLE": self.double,
        }

    def of_prepare(self, device: torch.device) -> dict[str, Any]:
        """The arguments of the kernel that prepares a weight."""
        return {**self.of_weight(device), "OF_SLICE": self.similarity.of_slice}

    def of_term(self, device: torch.device, steps: int = -1) -> dict[str, Any]:
        """The arguments of kernels that compute terms; steps: 0 where K is 1."""
        term = self.similarity.term if steps else self.similarity.term_of_numbers
        return {**self.of_weight(device), "TERM": term, "KINDS": self.compiled.kinds}

    def of_gradient(self, device: torch.device, steps: int = -1) -> dict[str, Any]:
        """The arguments of kernels that compute the gradients of terms; steps: 0 where K is 1."""
        gradient = self.similarity.gradient if steps else self.similarity.gradient_of_numbers
        return {**self.of_weight(device), "GRADIENT": gradient, "KINDS": self.compiled.kinds}


@functools.lru_cache(maxsize=256)
def _arithmetic(double: bool, similarity: str, signed: bool, parameters: tuple[float, ...]) -> Arithmetic:
    _check(similarity, parameters)
    module = importlib.import_module(f"ckrm_kernels.kernels.{similarity}")
    return Arithmetic(module, module.compiled(double, signed, list(parameters)))


def _check(similarity: str, parameters: Sequence[float]) -> None:
    if similarity not in _NUMBERS:
        raise RuntimeError(f"there is no similarity {similarity}")
    if len(parameters) != _NUMBERS[similarity]:
        raise RuntimeError(f"{similarity} takes {_NUMBERS[similarity]} parameters, got {len(parameters)}")


def _on_device(constants: tuple[float, ...], device: torch.device) -> Tensor:
    table = _table(constants, device)
    tables.keep_if_captured(table)
    return table


@functools.lru_cache(maxsize=64)
def _table(constants: tuple[float, ...], device: torch.device) -> Tensor:
    return tables.on_device(torch.tensor(constants, dtype=torch.float64, device="cpu"), device)
