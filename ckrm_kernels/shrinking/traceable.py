"""Models that can't be traced, refused before anything is done."""

from __future__ import annotations

import torch
from torch import nn

_WRAPPERS = {
    "DataParallel": "module",
    "DistributedDataParallel": "module",
    "FullyShardedDataParallel": "module",
    "OptimizedModule": "_orig_mod",
}
"""What a wrapper calls the model in it."""


def check_traceable(model: nn.Module) -> None:
    """Raise a TypeError or ValueError that says why a model can't be shrunk, and what to do."""
    if isinstance(model, torch.jit.ScriptModule):
        raise TypeError("model must be a plain module, got a scripted one; give the module that it was made from")
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be an nn.Module, got {type(model).__name__}")
    wrapped = _WRAPPERS.get(type(model).__name__)
    if wrapped is not None:
        raise TypeError(f"model must be unwrapped, got {type(model).__name__}; give its .{wrapped}")
    for name, module in model.named_modules():
        _check_module(name or "the model", module)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        _check_tensor(name, tensor)


def _check_module(name: str, module: nn.Module) -> None:
    if isinstance(module, torch.jit.ScriptModule):
        raise TypeError(f"{name} is scripted; give the module that it was made from")
    if isinstance(module, nn.modules.lazy.LazyModuleMixin) and module.has_uninitialized_params():
        raise ValueError(f"{name} is a lazy layer without parameters yet; run the model once")
    if "quantized" in type(module).__module__:
        raise TypeError(f"{name} is quantised ({type(module).__name__}); shrink the model before quantising it")


def _check_tensor(name: str, tensor: torch.Tensor) -> None:
    if tensor.is_meta:
        raise ValueError(f"{name} is on the meta device and has no values; load the model first")
    if tensor.is_quantized or type(tensor.data).__module__.startswith("torchao"):
        raise TypeError(f"{name} is quantised; shrink the model before quantising it")
    if hasattr(tensor, "placements"):
        raise TypeError(f"{name} is sharded over devices; shrink the model before sharding it")
