"""Makes the norms of a network those of a smaller one, over the channels that the smaller one has."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

WITH_WEIGHTS = re.compile(r"(Layer|Group|RMS)_?Norm|GRN$", re.IGNORECASE)
WITHOUT_WEIGHTS = (functional.layer_norm, functional.group_norm)


def narrow_modules(whole: nn.Module, small: nn.Module, kept: Mapping[str, np.ndarray]) -> None:
    """Gives `whole` hooks that put the small network's norms in place of its own; channels that left become 0.

    kept: for each tensor of the small network where in the whole one's flattened tensor its entries lie
    """
    for name, module in whole.named_modules():
        weight = getattr(module, "weight", None)
        entries = kept.get(f"{name}.weight")
        if entries is None or not WITH_WEIGHTS.search(type(module).__name__) or entries.size == weight.numel():
            continue
        lost = next(dim for dim in range(weight.dim()) if entries.shape[dim] < weight.shape[dim])
        channels = torch.from_numpy(np.unique(np.unravel_index(entries.ravel(), weight.shape)[lost]))
        narrow = narrow_norm(small.get_submodule(name), channels, lost - weight.dim(), weight.shape[lost])
        module.register_forward_hook(narrow)


def narrow_norm(norm: nn.Module, channels: Tensor, at: int, width: int) -> Callable[..., Tensor]:
    """A forward hook that puts the narrow norm's output in place of a wide one's.

    channels: that the narrow one has; at: their dimension, or else the first of this width
    """

    def hook(module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
        x = arguments[0]
        first = isinstance(module, nn.GroupNorm) or getattr(module, "data_format", "") == "channels_first"
        dim = 1 if first else at if x.shape[at] == width else list(x.shape).index(width, 1)
        return torch.zeros_like(output).index_copy(dim, channels, norm(x.index_select(dim, channels)))

    return hook


class Recorded(TorchFunctionMode):
    """Keeps the inputs of the norms without weights, and over what they are taken, in the order of their calls."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Tensor, Any]] = []

    def __torch_function__(self, function: Callable, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        if is_without_weights(function, args, kwargs or {}):
            self.calls.append(args[:2])
        return function(*args, **(kwargs or {}))


class Narrowed(TorchFunctionMode):
    """Takes norms without weights over the channels of the small network alone, found by their values.

    calls: of the small network with the same inputs
    """

    def __init__(self, calls: list[tuple[Tensor, Any]]) -> None:
        super().__init__()
        self.calls = iter(calls)

    def __torch_function__(self, function: Callable, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        if not is_without_weights(function, args, kwargs or {}):
            return function(*args, **(kwargs or {}))
        x, (narrow, over) = args[0], next(self.calls)
        changed = [dim for dim in range(x.dim()) if x.shape[dim] != narrow.shape[dim]]
        if len(changed) != 1:
            return function(*args, **(kwargs or {}))
        dim = changed[0]
        rows = [each.movedim(dim, 0).flatten(1) for each in (narrow, x)]
        channels = torch.cdist(*rows).argmin(1)
        taken = function(x.index_select(dim, channels), over, *args[2:], **(kwargs or {}))
        return torch.zeros_like(x).index_copy(dim, channels, taken)


def is_without_weights(function: Callable, args: tuple, kwargs: Mapping[str, Any]) -> bool:
    """Whether a call is that of a layer or group norm without a weight."""
    return function in WITHOUT_WEIGHTS and kwargs.get("weight", args[2] if len(args) > 2 else None) is None
