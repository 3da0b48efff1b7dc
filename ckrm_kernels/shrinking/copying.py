"""Copies of a user's model that keep all that it holds."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn


def copied(model: nn.Module, changed: Mapping[int, Tensor] = MappingProxyType({}), *, share: bool = False) -> nn.Module:
    """A deep copy of the model, if wanted with other tensors in the place of some, wherever the model holds them.

    changed: by the id of the model's tensor
    share: the copy holds the model's own tensors, for a use that changes none of them
    Unlike with `copy.deepcopy`, tensors keep their hooks and Python attributes, and the weights that hooks of
    `torch.nn.utils` compute are no obstacle. Gradients are dropped.
    Raises ValueError for a model that `copy.deepcopy` can't copy.
    """
    memo: dict[int, Any] = dict(changed)
    for tensor in (*tensors_of(model).values(), *_computed(model)):
        if id(tensor) not in memo and (share or is_plain(tensor)):
            memo[id(tensor)] = tensor if share else like(tensor, tensor.detach().clone())
    try:
        return copy.deepcopy(model, memo)
    except Exception as error:
        raise ValueError(f"model must be one that copy.deepcopy can copy, which says: {error}") from error


def _computed(model: nn.Module) -> Iterator[Tensor]:
    """Tensors that hooks computed from parameters and left in the modules, which deepcopy refuses."""
    for module in model.modules():
        yield from (value for value in vars(module).values() if isinstance(value, Tensor) and not value.is_leaf)


def is_plain(tensor: Tensor) -> bool:
    """Whether it holds its own values: not sharded, quantised or otherwise a wrapper of others."""
    return type(tensor).__torch_dispatch__ is Tensor.__torch_dispatch__


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Its parameters and buffers by name, shared ones under their first."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def shapes_of(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Of its parameters and buffers, by name, shared ones under their first."""
    return {name: tuple(tensor.shape) for name, tensor in tensors_of(model).items()}


def like(tensor: Tensor, data: Tensor) -> Tensor:
    """The data as a tensor of the type, with the hooks and attributes."""
    made = data.as_subclass(type(tensor))
    vars(made).update(copy.copy(vars(tensor)))
    for hook in (tensor._backward_hooks or {}).values():
        made.requires_grad_().register_hook(hook)
    for hook in (getattr(tensor, "_post_accumulate_grad_hooks", None) or {}).values():
        made.requires_grad_().register_post_accumulate_grad_hook(hook)
    return made.requires_grad_(tensor.requires_grad)
