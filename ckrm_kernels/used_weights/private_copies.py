"""Running a module's own code without a trace: on a private copy, with random numbers from a generator of its own."""

from __future__ import annotations

import types
from collections import OrderedDict, deque
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

_CONTAINERS = (list, dict, set, deque, OrderedDict)
_FORWARD_HOOKS = ("_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called")


def private_copy(module: nn.Module) -> nn.Module:
    """The module in evaluation mode, with tensors of its own that gradients flow through to the module's.

    Whatever the copy's code assigns, or changes in place in a tensor or a container, does not reach the module.
    Nothing is deep-copied: values that can't be copied, such as locks, are shared. Without the hooks that see outputs.
    """
    return _copied(module, {})


def _copied(module: nn.Module, memo: dict[int, Any]) -> nn.Module:
    if id(module) in memo:
        return memo[id(module)]
    if isinstance(module, torch.jit.ScriptModule):
        raise TypeError("it holds a TorchScript module, which can't be run apart from it")
    copy = memo[id(module)] = object.__new__(type(module))
    for name, value in vars(module).items():
        copy.__dict__[name] = _value(value, module, memo)
    copy.__dict__.update({name: OrderedDict() for name in _FORWARD_HOOKS}, training=False)
    return copy


def _value(value: Any, owner: nn.Module, memo: dict[int, Any]) -> Any:
    if isinstance(value, nn.Module):
        return _copied(value, memo)
    if isinstance(value, Tensor):
        if id(value) not in memo:
            memo[id(value)] = value.clone()
        return memo[id(value)]
    if isinstance(value, types.MethodType) and value.__self__ is owner:  # a forward that was put in
        return types.MethodType(value.__func__, memo[id(owner)])
    if type(value) in (dict, OrderedDict):
        return type(value)((key, _value(each, owner, memo)) for key, each in value.items())
    if type(value) in (list, tuple):
        return type(value)(_value(each, owner, memo) for each in value)
    return type(value)(value) if type(value) in (set, deque) else value


class OwnRandomNumbers(TorchDispatchMode):
    """Within it every random number comes from a generator of its own, seeded alike: no other draws are moved.

    drew: whether any number was drawn
    Raises RuntimeError for an operator that takes no generator.
    """

    def __init__(self) -> None:
        super().__init__()
        self.drew = False
        self._generators: dict[torch.device, torch.Generator] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded not in func.tags or kwargs.get("generator") is not None:
            return func(*args, **kwargs)
        self.drew = True
        overload = _with_generator(func)
        if overload is None:
            raise RuntimeError(f"{func} draws random numbers and takes no generator")
        return overload(*args, **{**kwargs, "generator": self._generator(args, kwargs)})

    def _generator(self, args: Any, kwargs: Any) -> torch.Generator:
        tensors = [each for each in pytree.tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
        device = tensors[0].device if tensors else torch.device(kwargs.get("device") or "cpu")
        if device not in self._generators:
            self._generators[device] = torch.Generator(device).manual_seed(0)
        return self._generators[device]


def _with_generator(func: Any) -> Any:
    """The overload of an operator that takes a generator beside the same arguments; None where there is none."""
    if any(argument.name == "generator" for argument in func._schema.arguments):
        return func
    base = func._overloadname.replace("default", "")
    for name in ("_".join(filter(None, (base, "generator"))), f"{base.removesuffix('_dtype')}_generator_dtype"):
        if name in func.overloadpacket.overloads():
            return getattr(func.overloadpacket, name)
    return None
