"""What torch's own modules hold besides their tensors: their widths, and weights that they compute from others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils.parametrizations import _Orthogonal, _SpectralNorm, _WeightNorm
from torch.nn.utils.parametrize import is_parametrized
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm


def own_tensors(module: Any) -> Iterator[Tensor]:
    """Its parameters and buffers, those of its parametrisations too, not those of its layers."""
    yield from (tensor for tensor in (*module._parameters.values(), *module._buffers.values()) if tensor is not None)
    if is_parametrized(module):
        yield from module.parametrizations.parameters()
        yield from module.parametrizations.buffers()


def size_attribute(module: nn.Module) -> str | None:
    """Where a norm without tensors of its own holds its width; None of any other module."""
    if next(own_tensors(module), None) is not None:
        return None
    return next((name for kind, name in _SIZES.items() if isinstance(module, kind)), None)


_SIZES: dict[type[nn.Module], str] = {
    _NormBase: "num_features",
    nn.GroupNorm: "num_channels",
    nn.LayerNorm: "normalized_shape",
    nn.RMSNorm: "normalized_shape",
}


def norm_sizes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """What the norms without tensors of their own hold, by the names of module and attribute."""
    found = {}
    for path, module in model.named_modules():
        if (name := size_attribute(module)) is not None:
            size = getattr(module, name)
            found[f"{path}.{name}".removeprefix(".")] = tuple(size) if isinstance(size, (tuple, list)) else (size,)
    return found


def set_norm_size(model: nn.Module, name: str, sizes: Mapping[int, int]) -> None:
    """Give a norm without tensors of its own another width.

    name: of module and attribute; sizes: by dimension
    """
    path, _, attribute = name.rpartition(".")
    module = model.get_submodule(path)
    if isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
        module.normalized_shape = tuple(sizes.get(d, size) for d, size in enumerate(module.normalized_shape))
        return
    if isinstance(module, nn.GroupNorm) and module.num_groups == module.num_channels:
        module.num_groups = sizes[0]
    setattr(module, attribute, sizes[0])


@torch.no_grad()
def set_widths(module: nn.Module) -> None:
    """Make the widths that a module of torch's, or of a subclass, holds those of its tensors; others stay."""
    weight = getattr(module, "weight", None)
    if isinstance(module, _NormBase):
        module.num_features = len(next(own_tensors(module)))
    elif not isinstance(weight, Tensor):
        return
    elif isinstance(module, _ConvNd):
        _set_channels(module, weight)
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = weight.shape
    elif isinstance(module, nn.GroupNorm):
        module.num_groups = len(weight) if module.num_groups == module.num_channels else module.num_groups
        module.num_channels = len(weight)
    elif isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
        module.normalized_shape = tuple(weight.shape)
    elif isinstance(module, nn.PReLU):
        module.num_parameters = len(weight)
    elif isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
        module.num_embeddings, module.embedding_dim = weight.shape


def _set_channels(conv: _ConvNd, weight: Tensor) -> None:
    """A depthwise convolution keeps its outputs of each channel, any other one its groups."""
    if conv.groups > 1 and conv.groups == conv.in_channels:
        each = conv.out_channels // conv.in_channels
        conv.groups = weight.shape[0] if isinstance(conv, _ConvTransposeNd) else weight.shape[0] // each
        conv.in_channels, conv.out_channels = conv.groups, conv.groups * each
    elif isinstance(conv, _ConvTransposeNd):
        conv.in_channels, conv.out_channels = weight.shape[0], weight.shape[1] * conv.groups
    else:
        conv.out_channels, conv.in_channels = weight.shape[0], weight.shape[1] * conv.groups


def refresh_computed(module: nn.Module) -> None:
    """Compute anew the weights that hooks of `torch.nn.utils` (weight norm, pruning) keep in the module."""
    for hook in _hooks(module):
        if isinstance(hook, (WeightNorm, BasePruningMethod)):
            hook(module, None)


def check_parametrised(model: nn.Module, kept: Mapping[str, Iterable[int]]) -> None:
    """Raise a ValueError that names the layer where a weight would change with the filters that leave.

    kept: for each tensor that loses anything, by its name, the dimensions that do
    Weight norm is cut exactly along the dimension that it keeps, masks of `torch.nn.utils.prune` along any.
    """
    for name, dims in kept.items():
        layer, tensor, computing = _computing(model, name)
        if (reason := mixes_filters(model, name)) is not None:
            raise ValueError(f"{layer}: {reason}")
        for each in computing:
            if isinstance(each, (WeightNorm, _WeightNorm)) and {*dims} != {each.dim}:
                raise ValueError(f"{layer}: {tensor} is normalised over dimensions {[*dims]}, which can't be cut")


def mixes_filters(model: nn.Module, name: str) -> str | None:
    """Why a tensor can't be cut along any dimension: a weight is computed from all of it; None if it can."""
    for each in _computing(model, name)[2]:
        if isinstance(each, (SpectralNorm, _SpectralNorm, _Orthogonal)):
            kind = type(each).__name__.strip("_")
            return (
                f"its weight is computed from all its filters ({kind}); make it a plain one, such as by "
                "torch.nn.utils.parametrize.remove_parametrizations"
            )
    return None


def _computing(model: nn.Module, name: str) -> tuple[str, str, list[Any]]:
    """Of a tensor its layer, its name there, and what computes a weight from it."""
    layer, _, parametrised = f".{name}".rpartition(".parametrizations.")
    if layer:
        path, _, tensor = name.rpartition(".")
        return layer[1:] or "model", parametrised, list(model.get_submodule(path).children())
    path, _, tensor = name.rpartition(".")
    return path or "model", tensor, [hook for hook in _hooks(model.get_submodule(path)) if _reads(hook, tensor)]


def _hooks(module: nn.Module) -> list[Any]:
    return list(module._forward_pre_hooks.values())


def _reads(hook: Any, tensor: str) -> bool:
    """Whether a hook of torch.nn.utils computes a weight from the tensor."""
    name = getattr(hook, "name", None)
    return name is not None and tensor.removeprefix(str(name)) in ("_orig", "_u", "_v", "_g")
