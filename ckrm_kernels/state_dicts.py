"""From a checkpoint file to its layers: safetensors, or what torch.save wrote, read without running code from it."""

from __future__ import annotations

import argparse
import pickle
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ckrm_kernels.extras import require
from ckrm_kernels.functional import checked_weight
from ckrm_kernels.layers import WRAPPED, Layer, share_marked

_KINDS = {2: "linear", 3: "conv1d", 4: "conv2d", 5: "conv3d"}
_MODEL_KEYS = ("state_dict", "model_state_dict", "model", "module", "net", "network", "weights", "params")
_NO_WEIGHTS = ("bias", "embed", "token", "mask", "running_", "position", "pos_")
_PARAMETRIZED = "parametrised, which a checkpoint does not say how: load it into its model and measure that"
_DEEPEST = 8
_SCALAR = np.float64(0).__reduce__()[0]
# Plain records and numbers that training scripts store beside the weights; building them runs no code.
_HARMLESS: list[Any] = [
    argparse.Namespace,
    np.dtype,
    *(type(np.dtype(code)) for code in ("f4", "f8", "i4", "i8", "?")),
    *((_SCALAR, f"numpy.{core}.multiarray.scalar") for core in ("_core", "core")),
]


class CheckpointError(ValueError):
    """A checkpoint that can't be read or holds nothing to measure; the message begins with its path."""


def checkpoint_layers(path: str | Path) -> list[Layer]:
    """The layers of a checkpoint: a safetensors file or a state dict written by torch.save, nested or not.

    A state dict does not name modules, so weights are found by shape: 3 to 5 dimensions are a convolution's, 2 a
    linear layer's (or an embedding's), and all filters of a weight form one bank, as groups and transposition can't
    be told. Weights that weight_norm or pruning keep as two tensors are put together again; what another
    parametrisation would make into a weight is listed, not measured.
    Raises CheckpointError.
    """
    tensors = _unwrapped_names(_read(Path(path)))
    whole = _without_masks(_without_weight_norm(tensors))
    layers = [_layer(name, tensor) for name, tensor in whole.items() if _is_listed(name, tensor)]
    if not any(layer.banks for layer in layers):
        if any(layer.note == _PARAMETRIZED for layer in layers):
            raise CheckpointError(f"{path}: its weights are {_PARAMETRIZED}")
        shapes = sorted({tuple(tensor.shape) for tensor in tensors.values()}, key=len)[-3:]
        raise CheckpointError(
            f"{path}: no weights of convolutions or linear layers among its {len(tensors)} tensors"
            + (f", whose shapes are such as {', '.join(map(str, shapes))}" if shapes else "")
        )
    return share_marked(layers)


def _read(path: Path) -> dict[str, Tensor]:
    """All tensors of the file by name. The format is told by content, never by the file's name."""
    try:
        with path.open("rb") as file:
            head = file.read(9)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise CheckpointError(f"{path}: is a folder, pass a file in it") from None
    except OSError as error:
        raise CheckpointError(f"{path}: can't be read: {error.strerror}") from None
    if not head:
        raise CheckpointError(f"{path}: is empty")
    if head[8:] == b"{":
        return _read_safetensors(path)
    if head.startswith((b"PK", b"\x80")):
        return dict(_flattened(_model_state(_read_torch(path, mmap=head.startswith(b"PK")))))
    raise CheckpointError(f"{path}: is not a checkpoint, neither safetensors nor written by torch.save")


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    with require(f"reading {path}", "safetensors"):
        from safetensors import SafetensorError, safe_open
    try:
        with safe_open(path, framework="pt") as file:
            names = sorted(file.keys(), key=_natural)  # the file keeps no order of its own
            return {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: is a truncated or damaged safetensors file ({error})") from None


def _natural(name: str) -> list[tuple[int, str]]:
    """A key that puts block 2 before block 11."""
    parts = re.split(r"([0-9]+)", name)
    return [(len(part.lstrip("0")), part.lstrip("0")) if at % 2 else (0, part) for at, part in enumerate(parts)]


def _read_torch(path: Path, mmap: bool) -> Any:
    """What torch.save wrote, by torch's restricted unpickler, which builds tensors and containers and calls no code."""
    try:
        with torch.serialization.safe_globals(_HARMLESS), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # each of its warnings comes before an error that says more
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        refused = re.search(
            r"(?:Unsupported global: GLOBAL|Unsupported class|Trying to load unsupported GLOBAL) (\S+)", str(error)
        )
        if refused:
            raise CheckpointError(
                f"{path}: holds {refused[1]}, and reading that could run code from the file, so it is refused; "
                "save a state dict instead: torch.save(model.state_dict(), path)"
            ) from None
        raise CheckpointError(f"{path}: is not a checkpoint, or a damaged one") from None
    except Exception as error:  # torch raises many kinds for damaged files
        if "TorchScript" in str(error):
            raise CheckpointError(f"{path}: is a TorchScript archive; save its state_dict() instead") from None
        if isinstance(error, MemoryError):
            raise
        raise CheckpointError(f"{path}: is a truncated or damaged checkpoint, or none at all") from None


def _model_state(content: Any) -> Any:
    """The part of a training checkpoint that is the model's state dict: the content itself if it holds tensors."""
    for _ in range(_DEEPEST):
        if not isinstance(content, Mapping) or any(isinstance(value, Tensor) for value in content.values()):
            break
        inner = next((content[key] for key in _MODEL_KEYS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = inner
    return content


def _flattened(content: Any, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Tensor]]:
    """Every tensor under string keys, with its dotted name; an optimiser's state is left out."""
    if isinstance(content, Tensor):
        yield prefix or "weight", content
    elif isinstance(content, Mapping) and depth < _DEEPEST:
        for key, value in content.items():
            if isinstance(key, str) and "optim" not in key.lower():
                yield from _flattened(value, f"{prefix}.{key}" if prefix else key, depth + 1)


def _unwrapped_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names without the components that torch.compile, FSDP and DataParallel add."""
    parts = {name: [part for part in name.split(".") if part not in WRAPPED] for name in tensors}
    if all(part[0] == "module" for name, part in parts.items() if name != "n_averaged"):
        parts = {name: part[1:] or part for name, part in parts.items()}
    return {".".join(parts[name]): tensor for name, tensor in tensors.items()}


def _without_weight_norm(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, with each pair of magnitude g and direction v replaced by the weight g v / |v|."""
    result = dict(tensors)
    for g_end, v_end in (
        ("weight_g", "weight_v"),
        ("parametrizations.weight.original0", "parametrizations.weight.original1"),
    ):
        for name in [name for name in result if name.endswith(g_end)]:
            stem = name.removesuffix(g_end)
            g, v = result[name], result.get(stem + v_end)
            if v is None:
                continue
            g = g if g.dim() else g.view([1] * v.dim())  # one magnitude for all filters
            if g.dim() != v.dim() or any(a not in (1, b) for a, b in zip(g.shape, v.shape, strict=True)):
                continue
            over = [dim for dim in range(g.dim()) if g.shape[dim] == 1]
            del result[name], result[stem + v_end]
            result[stem + "weight"] = g * v / torch.linalg.vector_norm(v, dim=over, keepdim=True)
    return result


def _without_masks(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, with each weight that was pruned and its mask replaced by their product."""
    result = dict(tensors)
    for name in [name for name in result if name.endswith("weight_mask")]:
        stem = name.removesuffix("weight_mask")
        original = result.get(f"{stem}weight_orig")
        if original is not None and original.shape == result[name].shape:
            result[stem + "weight"] = result.pop(f"{stem}weight_orig") * result.pop(name)
    return result


def _is_listed(name: str, tensor: Tensor) -> bool:
    return 2 <= tensor.dim() <= 5 or (tensor.dim() == 1 and name.endswith("weight"))


def _layer(name: str, tensor: Tensor) -> Layer:
    short, kind = name.removesuffix(".weight"), _KINDS.get(tensor.dim(), "vector")
    if tensor.dim() == 1:
        return Layer(short, kind, (), "one dimension, no filters")
    if "parametrizations" in name.split(".") or name.endswith("weight_orig"):
        return Layer(short, kind, (), _PARAMETRIZED)
    if any(word in name.rpartition(".")[2] for word in _NO_WEIGHTS):
        return Layer(short, kind, (), "not a weight by its name")
    try:
        return Layer(short, kind, (checked_weight(tensor, "weight"),))
    except (TypeError, ValueError) as error:
        return Layer(short, kind, (), str(error))
