"""From the tensors of a checkpoint to its layers: a row for each weight, measured or with the reason why not."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from ckrm_kernels.checkpoints.assembled import PARAMETRISED, is_parametrised
from ckrm_kernels.checkpoints.stored import StoredTensor
from ckrm_kernels.checkpoints.torch_tensors import SHARDED
from ckrm_kernels.filters import grouped_banks
from ckrm_kernels.functional import checked_weight
from ckrm_kernels.layers import Layer

_KINDS = {1: "vector", 2: "linear", 3: "conv1d", 4: "conv2d", 5: "conv3d"}
_MEASURED = ("float16", "bfloat16", "float32", "float64")
_CONVOLUTION = re.compile(r"Conv(Transpose)?[123]d")
_REASONS = (
    (re.compile(r"Norm"), "normalisation, no filters"),
    (re.compile(r"Embedding"), "embedding, no filters"),
    (re.compile(r"RNN|LSTM|GRU"), "recurrent, no filters"),
    (re.compile(r"MultiheadAttention"), "attention, its projections share one matrix"),
)
# Words in a tensor's own name that no weight has.
_NO_WEIGHT = re.compile(
    "(?<![a-z])(bias|embed|embeddings?|tokens?|mask|running|pos|position|positional|mean|std|var)(?![a-z])"
)
_FLAT = ("_flat_param", "flat_param")  # of FSDP: many weights in one vector
_ONE_DIMENSION = "one dimension, no filters"
_NOT_BY_NAME = "not a weight by its name"
GROUPS_UNKNOWN = "groups not known"


class StoredLayer(NamedTuple):
    """A layer in a checkpoint's file.

    outline: without its numbers: its banks are on the meta device
    read: gives it with them; raises CheckpointError
    """

    outline: Layer
    read: Callable[[], Layer]


def in_memory(layer: Layer) -> StoredLayer:
    """A layer whose numbers are there, or mapped, already."""
    return StoredLayer(layer, lambda: layer)


def layers_of(tensors: Iterable[StoredTensor]) -> list[StoredLayer]:
    """A layer for each tensor that is a weight or could be one, the weights of one operator in banks by its groups.

    One whose numbers are those of an earlier one shares its weight with that. Where the file does not say what uses a
    weight, its shape does: 3 to 5 dimensions are a convolution's, 2 a linear layer's (or an embedding's), and all
    filters form one bank.
    """
    owners: dict[object, str] = {}
    found = []
    for tensor in tensors:
        if _is_listed(tensor):
            outline = _outline(tensor)
            if outline.banks and tensor.read is not None and 0 not in tensor.shape:
                numbers = tensor.read, tensor.groups, "Transpose" in tensor.operator
                owner = owners.setdefault(numbers, outline.name)
                if owner != outline.name:
                    outline = Layer(outline.name, outline.kind, (), f"shares its weight with {owner}", owner)
            found.append(StoredLayer(outline, partial(_read, tensor, outline)))
    return found


def unmeasurable(tensors: Sequence[StoredTensor], layers: Sequence[StoredLayer]) -> str:
    """Why there is nothing to measure, in words that go on after a path."""
    notes = [layer.outline.note for layer in layers]
    if PARAMETRISED in notes:
        return f"its weights are {PARAMETRISED}"
    weights = [
        tensor for tensor in tensors if _is_listed(tensor) and _reason(tensor) not in ("", _NOT_BY_NAME, _ONE_DIMENSION)
    ]
    reasons = list(dict.fromkeys(_reason(tensor) for tensor in weights))
    if reasons:
        return f"nothing in it can be measured: {'; '.join(reasons[:4])}"
    shapes = sorted({tensor.shape for tensor in tensors}, key=len)[-3:]
    return f"no weights of convolutions or linear layers among its {len(tensors)} tensors" + (
        f", whose shapes are such as {', '.join(map(str, shapes))}" if shapes else ""
    )


def is_convolution_of_unknown_groups(tensor: StoredTensor) -> bool:
    """Whether it is measured as a convolution's weight although neither its groups nor its direction are known."""
    return len(tensor.shape) > 2 and tensor.groups is None and not _reason(tensor)


def _is_listed(tensor: StoredTensor) -> bool:
    leaf = tensor.name.rpartition(".")[2]
    if leaf in _FLAT:
        return True
    if tensor.operator and not _has_filters(tensor) and tensor.read is not None and "weight" not in leaf:
        return False  # a buffer or table of a module, as in `model_layers`
    if len(tensor.shape) >= 2:
        return True
    if tensor.read is None and not tensor.shape:  # of a shape that isn't known
        return not _NO_WEIGHT.search(leaf.lower())
    return len(tensor.shape) == 1 and tensor.name.endswith("weight")


def _outline(tensor: StoredTensor) -> Layer:
    short = re.sub(r"[./](weight|kernel)$", "", tensor.name)
    kind = tensor.operator or _KINDS.get(len(tensor.shape), "tensor")
    reason = _reason(tensor)
    if reason or tensor.read is None:
        return Layer(short, kind, (), reason)
    banks = _banks(tensor, torch.empty(tensor.shape, dtype=getattr(torch, tensor.dtype), device="meta"))
    groups = tensor.groups or 1
    if is_convolution_of_unknown_groups(tensor):
        compared = GROUPS_UNKNOWN
    elif len(banks) < groups:
        compared = "depthwise, all filters compared"
    else:
        compared = f"{groups} groups, compared within each" if groups > 1 else ""
    return Layer(short, kind, banks, ", ".join(filter(None, (tensor.note, compared))))


def _read(tensor: StoredTensor, outline: Layer) -> Layer:
    """The layer with its numbers."""
    if not outline.banks or tensor.read is None:
        return outline
    return replace(outline, banks=_banks(tensor, checked_weight(tensor.read(), outline.name)))


def _banks(tensor: StoredTensor, weight: Tensor) -> tuple[Tensor, ...]:
    return tuple(grouped_banks(weight, tensor.groups or 1, transposed="Transpose" in tensor.operator))


def _has_filters(tensor: StoredTensor) -> bool:
    """Whether the file says that a convolution or a linear layer uses it."""
    return tensor.operator == "Linear" or _CONVOLUTION.fullmatch(tensor.operator) is not None


def _reason(tensor: StoredTensor) -> str:
    """Why a tensor is not measured; "" where it is."""
    leaf = re.split(r"[./]", tensor.name)[-1]
    if tensor.operator and not _has_filters(tensor):
        return next((reason for names, reason in _REASONS if names.search(tensor.operator)), "not a convolution")
    if leaf in _FLAT:
        return SHARDED
    if len(tensor.shape) == 1:
        return _ONE_DIMENSION
    if is_parametrised(tensor.name):
        return PARAMETRISED
    if not leaf.endswith(("weight", "kernel")) and _NO_WEIGHT.search(leaf.lower()):
        return _NOT_BY_NAME
    if tensor.read is None:
        return tensor.note or f"{tensor.dtype}, which torch does not have"
    if tensor.dtype not in _MEASURED:
        return f"{tensor.dtype}, measured are {', '.join(_MEASURED)}"
    if len(tensor.shape) > 5:
        return f"{len(tensor.shape)} dimensions, no convolution has so many"
    dims = len(tensor.shape) - 2
    if _has_filters(tensor) and dims != (0 if tensor.operator == "Linear" else int(tensor.operator[-2])):
        return f"not the weight of its {tensor.operator}, of shape {tensor.shape}"
    if 0 in tensor.shape[1:] and tensor.shape[0] > 0:
        return f"has filters without slices: shape {tensor.shape}"
    if (tensor.groups or 1) > 1 and tensor.shape[0] % (tensor.groups or 1):
        return f"its {tensor.groups} groups do not divide the shape {tensor.shape}"
    return ""
