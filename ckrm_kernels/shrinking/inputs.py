"""The arguments of a model's forward pass, however they are given."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree


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
        return [leaf for leaf in pytree.tree_leaves((self.args, self.kwargs)) if isinstance(leaf, Tensor)]

    def map(self, change: Callable[[Tensor], Tensor]) -> Inputs:
        """With each tensor changed."""
        args, kwargs = pytree.tree_map_only(Tensor, change, (self.args, self.kwargs))
        return Inputs(args, kwargs)

    @property
    def device(self) -> torch.device:
        """Of the first tensor."""
        return next((tensor.device for tensor in self.tensors()), torch.device("cpu"))


def as_inputs(name: str, given: Any) -> Inputs:
    """A tensor, a tuple or list of positional arguments, a mapping of keyword arguments, or a pair of both.

    name: of the argument that holds them, for errors
    Raises TypeError for anything else, and where there is no tensor in it.
    """
    if isinstance(given, Inputs):
        inputs = given
    elif isinstance(given, Tensor):
        inputs = Inputs((given,))
    elif isinstance(given, Mapping):
        inputs = Inputs((), dict(given))
    elif isinstance(given, (tuple, list)) and len(given) == 2 and _is_pair(*given):
        inputs = Inputs(tuple(given[0]), dict(given[1]))
    elif isinstance(given, (tuple, list)):
        inputs = Inputs(tuple(given))
    else:
        raise TypeError(
            f"{name} must be a tensor, a tuple of positional arguments, a mapping of keyword arguments or a pair of "
            f"both, got {type(given).__name__}"
        )
    if not inputs.tensors():
        raise TypeError(f"{name} must hold a tensor, got none")
    return inputs


def _is_pair(first: Any, second: Any) -> bool:
    return isinstance(first, (tuple, list)) and isinstance(second, Mapping)
