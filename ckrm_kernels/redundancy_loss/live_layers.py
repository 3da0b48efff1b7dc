"""The layers of a model whose weights a penalty reads anew at every call."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ckrm_kernels.choices import Pointwise
from ckrm_kernels.filters import as_vectors, is_pointwise
from ckrm_kernels.functional import checked_banks
from ckrm_kernels.layers import layer_modules, model_layers
from ckrm_kernels.report.selection import fitting
from ckrm_kernels.used_weights import is_freed


@dataclass(frozen=True, eq=False)
class LiveLayer:
    """A convolution or linear module; as_vectors: each filter of a pointwise one is taken as one slice."""

    name: str
    module: nn.Module
    as_vectors: bool

    @property
    def is_frozen(self) -> bool:
        """Whether nothing that its weight is made of asks for a gradient."""
        return is_frozen(self.module)

    def banks(self, scale_free: bool) -> Sequence[Tensor]:
        """The filter banks (F2, F1, *K) of the weight that the next forward pass uses, differentiable.

        scale_free: over the root mean square of them all
        A DTensor is gathered, for which every process of its mesh must call, and has its part of the gradient.
        Raises ValueError where FSDP1 has freed the weight.
        """
        weight = self.module._parameters.get("weight")
        if weight is not None and is_freed(weight):
            raise ValueError(_freed(self.name))
        banks = checked_banks(self.module, scale_free)
        return [as_vectors(bank) for bank in banks] if self.as_vectors else banks


def is_frozen(module: nn.Module) -> bool:
    """Whether nothing that a module's weight is made of asks for a gradient."""
    weight = module._parameters.get("weight")
    made_of = [each for name, each in module.named_parameters() if name != "bias"] if weight is None else [weight]
    return not any(each.requires_grad for each in made_of)


def live_layers(
    model_or_layers: nn.Module | Iterable[nn.Module], patterns: str | Iterable[str] | None, pointwise: Pointwise
) -> list[LiveLayer]:
    """The layers of a model, or of several modules, that have pairs of filters to compare, a shared weight once.

    model_or_layers: a model, or modules, whose layers' names then begin with their number
    patterns: only the layers whose names hold one of them, or fit it as a glob; None takes all
    pointwise: as `measure` takes it
    Raises TypeError for what holds no modules, ValueError where nothing can be measured, where a pattern fits no name
    or none that can be measured, and for weights that FSDP1 has flattened or freed.
    """
    model = as_model(model_or_layers)
    if pointwise not in ("skip", "slices", "vector"):
        raise ValueError(f'pointwise must be "skip", "slices" or "vector", got {pointwise!r}')
    with torch.no_grad():
        found = model_layers(model, sharded=True)
    modules = layer_modules(model)
    wanted = _wanted([layer.name for layer in found], patterns)
    layers, reasons = [], []
    for layer in (layer for layer in found if layer.name in wanted):
        if layer.note.startswith("sharded"):
            raise ValueError(_freed(layer.name))
        pairs = bool(layer.banks) and layer.banks[0].shape[0] > 1
        single_numbers = pairs and is_pointwise(layer.banks[0])
        if not pairs or layer.name not in modules:
            lacks = "a single filter" if layer.banks and not pairs else "not a convolution or linear layer of its own"
            reasons.append(f"{layer.name!r} ({layer.note or lacks})")
        elif single_numbers and pointwise == "skip":
            reasons.append(f"{layer.name!r} (pointwise)")
        else:
            layers.append(LiveLayer(layer.name, modules[layer.name], single_numbers and pointwise == "vector"))
    if not layers:
        listed = ", ".join(reasons[:8]) + (", ..." if len(reasons) > 8 else "")
        raise ValueError(
            f"model_or_layers has no layer with filters to compare{f'; it has {listed}' if listed else ''}"
        )
    return layers


def _freed(name: str) -> str:
    return f"layer {name!r} is sharded by FSDP1, which keeps no weight of its own for it: fully_shard (FSDP2) does"


def as_model(model_or_layers: Any) -> nn.Module:
    """The model, or one that holds the modules by their number."""
    if isinstance(model_or_layers, nn.Module):
        return model_or_layers
    modules = list(model_or_layers) if isinstance(model_or_layers, Iterable) else None
    if not modules or not all(isinstance(module, nn.Module) for module in modules):
        kind = type(model_or_layers).__name__
        held = f" of {', '.join(sorted({type(each).__name__ for each in modules}))}" if modules else ""
        raise TypeError(f"model_or_layers must be a module or a sequence of modules, got {kind}{held}")
    return nn.ModuleList(modules)


def _wanted(names: Sequence[str], patterns: str | Iterable[str] | None) -> set[str]:
    if patterns is None:
        return set(names)
    several = isinstance(patterns, Iterable) and not isinstance(patterns, str)
    listed: list[Any] = list(patterns) if several else [patterns]
    if not all(isinstance(pattern, str) for pattern in listed):
        raise TypeError(f"layers must be a pattern of names or several, got {patterns!r}")
    if not listed:
        raise ValueError("layers must hold at least one pattern, got none")
    return set().union(*(fitting(names, pattern) for pattern in listed))
