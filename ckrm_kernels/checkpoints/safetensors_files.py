"""safetensors files, in the layout that they declare."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ckrm_kernels.checkpoints.layouts import from_flax, from_mlx, from_tensorflow
from ckrm_kernels.checkpoints.raw import as_tensor, damage_named, mapped
from ckrm_kernels.checkpoints.stored import CheckpointError, StoredTensor
from ckrm_kernels.extras import require
from ckrm_kernels.report.selection import natural

_TORCH_NAMES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
    "C64": "complex64",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F8_E8M0": "float8_e8m0fnu",
}
_LENGTH = 8  # bytes that say how long the header is
_LAYOUTS = {
    **dict.fromkeys(("", "pt", "torch", "pytorch", "np", "numpy"), "torch"),
    "mlx": "mlx",
    **dict.fromkeys(("flax", "jax"), "flax"),
    **dict.fromkeys(("tf", "tensorflow"), "tf"),
}


def read_safetensors(path: Path) -> tuple[list[StoredTensor], str]:
    """The tensors of a file in the order of their names, block 2 before block 11, in torch's layout.

    Beside them, what is to be said of the layout that the file declares; "" where that is torch's.

    Raises CheckpointError for a damaged file and for one that declares a layout which isn't known.
    """
    with require(f"reading {path}", "safetensors"):
        from safetensors import SafetensorError, safe_open
    with damage_named(path, "a safetensors file"):
        try:
            file = safe_open(path, framework="pt")
        except SafetensorError as error:
            if unknown := re.search(r"unknown variant `(\w+)`, expected one of `BOOL`", str(error)):
                raise CheckpointError(
                    f"{path}: holds tensors of the type {unknown[1]}, which this safetensors does not know"
                ) from None
            raise
        declared = (file.metadata() or {}).get("format", "").lower()
        places = _places(path)
        tensors = [_stored(path, name, file.get_slice(name), places[name]) for name in sorted(places, key=natural)]
    if declared not in _LAYOUTS:
        accepted = ", ".join(sorted(filter(None, _LAYOUTS)))
        raise CheckpointError(
            f"{path}: declares the format {declared!r}, whose layout isn't known; known are {accepted}"
        )
    in_torch = _IN_TORCH[_LAYOUTS[declared]]
    return [in_torch(replace(tensor, name=tensor.name.removesuffix(":0"))) for tensor in tensors], _note(declared)


def _note(declared: str) -> str:
    if declared in ("np", "numpy"):
        return f"declares the format {declared}, which says nothing of the layout: taken for torch's"
    return "" if _LAYOUTS[declared] == "torch" else f"declares the format {declared}: put into torch's layout"


def _places(path: Path) -> dict[str, tuple[int, int]]:
    """Where each tensor begins in the file, and its size in bytes; of a file whose header is known to be valid.

    The library maps the whole file, of which all that was touched stays in memory as long as one tensor does.
    """
    with path.open("rb") as file:
        size = int.from_bytes(file.read(_LENGTH), "little")
        header = json.loads(file.read(size))
    header.pop("__metadata__", None)
    return {
        name: (_LENGTH + size + start, end - start)
        for name, (start, end) in ((name, each["data_offsets"]) for name, each in header.items())
    }


def _stored(path: Path, name: str, part: Any, place: tuple[int, int]) -> StoredTensor:
    shape, dtype = tuple(part.get_shape()), _TORCH_NAMES.get(part.get_dtype())
    if dtype is None:
        return StoredTensor(name, shape, part.get_dtype(), None)
    return StoredTensor(name, shape, dtype, partial(_read, path, getattr(torch, dtype), shape, place))


def _read(path: Path, dtype: torch.dtype, shape: tuple[int, ...], place: tuple[int, int]) -> Tensor:
    with damage_named(path, "a safetensors file"):
        return as_tensor(mapped(path, *place), dtype, shape)


_IN_TORCH: dict[str, Callable[[StoredTensor], StoredTensor]] = {
    "torch": lambda tensor: tensor,
    "mlx": from_mlx,
    "flax": from_flax,
    "tf": from_tensorflow,
}
