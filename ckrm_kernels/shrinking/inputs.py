"""The arguments of a model's forward pass, however they are given."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Inputs:
    """Positional and keyword arguments: `model(*inputs.args, **inputs.kwargs)`."""

    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Any]:
        """Unpacks into args and kwargs."""
        return iter((self.args, self.kwargs))

    def tensors(self) -> list[Tensor]:
        """All tensors in them, in order."""
        return list(tensors_in((self.args, self.kwargs)))

    def map(self, change: Callable[[Tensor], Tensor]) -> Inputs:
        """With each tensor changed."""
        return Inputs(*replaced((self.args, self.kwargs), map(change, self.tensors())))

    @property
    def batch(self) -> int:
        """How many examples the first tensor with dimensions holds."""
        return next((len(tensor) for tensor in self.tensors() if tensor.dim()), 1)

    @property
    def device(self) -> torch.device:
        """Of the first tensor."""
        return next((tensor.device for tensor in self.tensors()), torch.device("cpu"))


def as_inputs(name: str, given: Any) -> Inputs:
    """A tensor, a tuple of positional arguments, a mapping of keyword arguments, or a pair of both.

    name: of the argument that holds them, for errors
    Raises TypeError for anything else, and where there is no tensor in it.
    """
    if isinstance(given, Inputs):
        inputs = given
    elif isinstance(given, Tensor):
        inputs = Inputs((given,))
    elif isinstance(given, Mapping):
        inputs = Inputs((), dict(given))
    elif isinstance(given, tuple) and len(given) == 2 and _is_pair(*given):
        inputs = Inputs(given[0], dict(given[1]))
    elif isinstance(given, tuple):
        inputs = Inputs(given)
    else:
        raise TypeError(
            f"{name} must be a tensor, a tuple of positional arguments, a mapping of keyword arguments or a pair of "
            f"both, got {type(given).__name__}"
        )
    if not inputs.tensors():
        raise TypeError(f"{name} must hold a tensor, got none")
    return inputs


def _is_pair(first: Any, second: Any) -> bool:
    return isinstance(first, tuple) and isinstance(second, Mapping)


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors of nested tuples, lists, dicts and dataclasses, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors_in(item)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from tensors_in(getattr(value, field.name))


def replaced(value: Any, tensors: Iterator[Tensor]) -> Any:
    """The same structure with other tensors, in the order of `tensors_in`."""
    if isinstance(value, Tensor):
        return next(tensors)
    if isinstance(value, dict):
        return type(value)({key: replaced(item, tensors) for key, item in value.items()})
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(replaced(item, tensors) for item in value))
    if isinstance(value, (tuple, list)):
        return type(value)(replaced(item, tensors) for item in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return dataclasses.replace(value, **{f.name: replaced(getattr(value, f.name), tensors) for f in fields})
    return value
