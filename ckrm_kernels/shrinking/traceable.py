"""Models that can't be traced, refused before anything is done."""

from __future__ import annotations

import torch
from torch import nn

_WRAPPERS = ("DataParallel", "DistributedDataParallel", "FullyShardedDataParallel")


def check_traceable(model: nn.Module) -> None:
    """Raise a TypeError or ValueError that says why a model can't be shrunk, and what to do."""
    if isinstance(model, torch.jit.ScriptModule):
        raise TypeError("model must be a plain module, got a scripted one; give the module that it was made from")
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be an nn.Module, got {type(model).__name__}")
    if type(model).__name__ in _WRAPPERS:
        raise TypeError(f"model must be unwrapped, got {type(model).__name__}; give its .module")
    for name, module in model.named_modules():
        _check_module(name or "the model", module)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        _check_tensor(name, tensor)
    if not any(tensor.dim() > 1 for tensor in model.parameters()):
        raise ValueError("model must have a convolution or linear layer, got none")


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
    if tensor.is_quantized:
        raise TypeError(f"{name} is quantised; shrink the model before quantising it")
    if hasattr(tensor, "device_mesh") or hasattr(tensor, "placements"):
        raise TypeError(f"{name} is sharded over devices; shrink the model before sharding it")
