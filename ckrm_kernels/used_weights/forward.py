"""The weight that a layer's next forward pass uses, which need not be the one that it stores.

Parametrisations and the hooks of `torch.nn.utils` are computed. Where a class overrides `forward`, that is called on a
private copy with a tiny input, and the weight that reaches the convolution is taken. The layer itself is only read.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter
from torch.nn.utils import parametrize
from torch.overrides import TorchFunctionMode

from ckrm_kernels.used_weights.private_copies import OwnRandomNumbers, private_copy

AS_USED = "the weight as its forward computes it"
OVERRIDDEN = "its class overrides forward: the stored weight is measured"
REPLACED = "its forward was replaced: the stored weight is measured"
HOOKED = "a hook runs before its forward: the stored weight is measured"
DRAWN = "drawn at random, one draw is measured"

_CONVOLUTIONS = (
    *(torch.conv1d, torch.conv2d, torch.conv3d, torch.convolution),
    *(torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d),
)
_USES = frozenset((*_CONVOLUTIONS, F.linear))
_PRODUCTS = (
    *(torch.matmul, torch.mm, torch.bmm, torch.einsum, torch.addmm, torch.baddbmm, torch.tensordot),
    *(Tensor.matmul, Tensor.__matmul__, Tensor.__rmatmul__, Tensor.mm, Tensor.bmm, Tensor.addmm, Tensor.baddbmm),
)
_MAPS = frozenset((*_USES, F.bilinear, *_PRODUCTS))
_Call = tuple[Callable[..., Any], list[Tensor]]


class NoWeightError(ValueError):
    """A layer without a weight that can be had; the message says why."""


class UsedWeight(NamedTuple):
    """A weight, and what is to be known of how it was had."""

    weight: Tensor
    note: str = ""


def used_weight(module: nn.Module) -> UsedWeight:
    """The weight that the forward pass of a convolution or linear module uses.

    out: the stored tensor itself, where that is used; else one through which gradients flow to what it is made of
    A parametrisation or forward that draws random numbers draws from a generator of its own: the process-wide
    ones, which other threads may be using, are neither moved nor put back.
    Raises NoWeightError for a lazy module that has not seen a batch, and for one without a weight that can be had.
    """
    _check_not_lazy(module)
    stored = _stored_weight(module)
    if stored is not None and not holds_values(stored.weight):
        return stored
    if "forward" in vars(module):
        used = UsedWeight(stored.weight, REPLACED) if stored is not None else None
    elif overrides_forward(module):
        used = _weight_in_forward(module, stored)
    elif _has_unknown_hook(module):
        used = UsedWeight(stored.weight, HOOKED) if stored is not None else None
    else:
        used = stored
    if used is None:
        raise NoWeightError(_missing(module))
    return used


def is_uninitialised(module: nn.Module) -> bool:
    """Whether it is a lazy module that has not seen a batch."""
    own = (*module._parameters.values(), *module._buffers.values())
    return any(
        isinstance(each, (UninitializedParameter, UninitializedBuffer)) for each in own
    )  # as is_lazy, which dynamo can't trace


def holds_values(weight: Tensor) -> bool:
    """Whether it is a plain dense tensor of floating-point numbers, neither freed nor on the meta device."""
    if not is_plain(weight) or weight.layout != torch.strided:
        return False
    return not weight.is_meta and weight.is_floating_point() and not is_freed(weight)


def is_freed(weight: Tensor) -> bool:
    """Whether the storage of a plain dense tensor is empty, as of a weight that FSDP keeps in shards."""
    return weight.numel() > 0 and weight.untyped_storage().size() == 0


def is_plain(weight: Tensor) -> bool:
    """Whether its numbers lie in a storage of its own: no subclass that says itself what operators do."""
    return type(weight).__torch_dispatch__ == Tensor.__torch_dispatch__


def overrides_forward(module: nn.Module) -> bool:
    """Whether a class between the module's own and torch's convolutions and linear layers defines its forward."""
    for each in type(module).__mro__:
        if each.__module__.startswith("torch.nn.modules."):
            return False
        if "forward" in vars(each) or "_conv_forward" in vars(each):
            return True
    return False


def with_adapters(adapter: nn.Module, base: UsedWeight) -> UsedWeight:
    """The weight of a base layer with the low-rank updates that the module around it adds to its output.

    adapter: as of the package peft, with `base_layer`, `active_adapters`, `merged`, `disable_adapters` and
        `get_delta_weight`; where it is not, or an update is no sum, the note says so
    """
    adapters: Any = adapter
    names = [name for name in adapters.active_adapters if name in adapters.lora_A]
    if adapters.merged or adapters.disable_adapters or not names:
        return base
    if not all(map(holds_values, (base.weight, *adapter.parameters()))) or any(
        getattr(adapters, "use_dora", {}).get(name) for name in names
    ):
        return _noted(base.weight, base.note, "its adapters are not included")
    copy: Any = private_copy(adapter)
    weight = base.weight + sum(copy.get_delta_weight(name) for name in names)
    return _noted(weight, base.note, f"with its adapters {', '.join(names)}")


def _noted(weight: Tensor, *notes: str) -> UsedWeight:
    return UsedWeight(weight, "; ".join(filter(None, notes)))


def _check_not_lazy(module: nn.Module) -> None:
    if is_uninitialised(module):
        raise NoWeightError(f"{type(module).__name__} is lazy and not initialised: run a batch through it first")


def _stored_weight(module: nn.Module) -> UsedWeight | None:
    """The weight of a module with the forward of its base class; None where it has none."""
    hooks = [hook for hook in module._forward_pre_hooks.values() if _computed_tensor(hook) == "weight"]
    # looked for in each: torch.compile of 2.11 can't put them together
    own = any("weight" in names for names in (module._parameters, module._buffers, vars(module)))
    if not hooks and (own or not hasattr(type(module), "weight")):
        weight = getattr(module, "weight", None)
        return UsedWeight(weight) if isinstance(weight, Tensor) else None
    copy, random = private_copy(module), OwnRandomNumbers()
    with random:
        weight = _computed_by(hooks[0], copy) if hooks else _computed_attribute(copy)
    return UsedWeight(weight, DRAWN if random.drew else "")


def _computed_tensor(hook: Any) -> str | None:
    """The tensor that a hook of weight_norm, spectral_norm or prune computes; the attribute is stale until it runs."""
    if hasattr(hook, "compute_weight"):
        return getattr(hook, "name", None)
    return getattr(hook, "_tensor_name", None) if hasattr(hook, "apply_mask") else None


def _computed_by(hook: Any, module: nn.Module) -> Tensor:
    if hasattr(hook, "apply_mask"):
        return hook.apply_mask(module)
    return hook.compute_weight(module, **({"do_power_iteration": False} if hasattr(hook, "n_power_iterations") else {}))


def _computed_attribute(module: Any) -> Tensor:
    """A weight that a parametrisation or another property gives."""
    if parametrize.is_parametrized(module, "weight"):
        return module.parametrizations.weight()  # not by the property, which may put it in a cache
    return module.weight


def _has_unknown_hook(module: nn.Module) -> bool:
    return any(_computed_tensor(hook) is None for hook in module._forward_pre_hooks.values())


def _missing(module: nn.Module) -> str:
    own = {**module._parameters, **module._buffers}
    held = ", ".join(
        f"{name} {str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
        for name, value in own.items()
        if value is not None and name != "bias"
    )
    return f"it has no weight that can be had, and holds {held or 'no tensor'}"


class _Maps(TorchFunctionMode):
    """Records the calls of convolutions and matrix products: (function, its tensors)."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[_Call] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _MAPS:
            values = (*args, *(kwargs or {}).values())
            self.calls.append((func, [each for each in values if isinstance(each, Tensor)][:2]))
        return func(*args, **(kwargs or {}))


def _weight_in_forward(module: nn.Module, stored: UsedWeight | None) -> UsedWeight | None:
    """The weight of the one convolution or product that an input goes through in the module's own forward.

    That call, and no other, has other operands where the input is another. Weights that depend on the input, and
    forwards that fail on a tiny one or use it more than once, give the stored weight.
    """
    unknown = None if stored is None else UsedWeight(stored.weight, OVERRIDDEN)
    try:
        calls, drew = _calls(module, stored, torch.ones)
        others, _ = _calls(module, stored, _ramp)
        if [func for func, _ in calls] != [func for func, _ in others]:
            return unknown
        differ = [call for call, other in zip(calls, others, strict=True) if not _same(call[1], other[1])]
        ((func, operands),) = differ
        weight = operands[1]
        depends = not any(_same([weight], other[1:]) for _, other in others)
    except Exception:  # whatever a class's own code may raise
        return unknown
    if depends or func not in _USES or weight.shape != _expected_shape(module, stored):
        return unknown
    if stored is not None and torch.equal(weight, stored.weight):
        return stored
    return _noted(weight, AS_USED, DRAWN if drew else "")


def _calls(module: nn.Module, stored: UsedWeight | None, fill: Callable[..., Tensor]) -> tuple[list[_Call], bool]:
    """What the forward of a private copy calls on an input, and whether it drew random numbers."""
    copy, maps, random = private_copy(module), _Maps(), OwnRandomNumbers()
    if stored is not None and "weight" in vars(copy):  # which a hook leaves stale
        copy.__dict__["weight"] = stored.weight
    like = stored.weight if stored is not None else next(module.parameters())
    with random, maps:
        copy.forward(fill(_input_shape(module), dtype=like.dtype, device=like.device))
    return maps.calls, random.drew


def _input_shape(module: Any) -> tuple[int, ...]:
    """The smallest input of a batch that a convolution or linear module takes with any of its paddings."""
    if isinstance(module, nn.Linear):
        return (1, module.in_features)
    padding = (0,) * len(module.kernel_size) if isinstance(module.padding, str) else module.padding
    sizes = zip(module.kernel_size, module.dilation, padding, strict=True)
    return (1, module.in_channels, *((size - 1) * dilation + 1 + pad for size, dilation, pad in sizes))


def _expected_shape(module: Any, stored: UsedWeight | None) -> tuple[int, ...]:
    if stored is not None:
        return stored.weight.shape
    if isinstance(module, nn.Linear):
        return (module.out_features, module.in_features)
    ends = (module.in_channels, module.out_channels) if module.transposed else (module.out_channels, module.in_channels)
    return (ends[0], ends[1] // module.groups, *module.kernel_size)


def _ramp(shape: tuple[int, ...], **options: Any) -> Tensor:
    return torch.linspace(-1, 1, math.prod(shape), **options).view(shape)


def _same(tensors: list[Tensor], others: list[Tensor]) -> bool:
    return len(tensors) == len(others) and all(map(torch.equal, tensors, others))
