"""NumPy arrays in a pickle."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ckrm_kernels.checkpoints.pickles import Build, Global, StandIn
from ckrm_kernels.checkpoints.stored import StoredTensor

_BFLOAT16 = "ml_dtypes.bfloat16"
_NUMERIC = "biufc"


def array_builders() -> dict[str, Build]:
    """What is called in the place of NumPy's functions that rebuild arrays, by their names."""
    return {
        name.format(core): build
        for core in ("core", "_core")
        for name, build in (
            ("numpy.{}.multiarray._reconstruct", lambda *_: StandIn("numpy.ndarray")),
            ("numpy.{}.numeric._frombuffer", _from_buffer),
        )
    }


def stored_array(record: StandIn) -> StoredTensor | None:
    """The array of a record that `array_builders` left; None where its elements are no numbers, or it is none.

    Raises ValueError for an array whose parts don't fit.
    """
    if record.type != "numpy.ndarray" or not isinstance(record.state, tuple) or len(record.state) != 5:
        return None
    _, shape, dtype, fortran, raw = record.state
    return _stored(raw, dtype, shape, "F" if fortran else "C")


def _from_buffer(raw: Any, dtype: Any, shape: Any, order: str = "C", *_: Any) -> StoredTensor | None:
    return _stored(raw, dtype, shape, order)


def _stored(raw: Any, record: Any, shape: Any, order: str) -> StoredTensor | None:
    dtype, name = _dtype(record)
    if dtype is None:
        return None
    raw = raw.encode("latin1") if isinstance(raw, str) else raw  # as Python 2 wrote it
    if not isinstance(raw, (bytes, bytearray)) or not isinstance(shape, tuple):
        raise ValueError("an array without its bytes")
    if not all(type(size) is int and size >= 0 for size in shape) or math.prod(shape) * dtype.itemsize != len(raw):
        raise ValueError(f"an array of another shape than its {len(raw)} bytes")
    if order not in ("C", "F"):
        raise ValueError("an array in no known order")
    read = None if name == "longdouble" else partial(_read, raw, dtype, shape, order, name == "bfloat16")
    return StoredTensor("", shape, name, read, note="" if read else f"{name}, which torch does not have")


def _dtype(record: Any) -> tuple[np.dtype[Any] | None, str]:
    """The type of the elements and its name; None where they are no numbers."""
    if not isinstance(record, StandIn) or record.type != "numpy.dtype" or not record.arguments:
        return None, ""
    code = record.arguments[0]
    if isinstance(code, Global):
        return (np.dtype("<u2"), "bfloat16") if code.name == _BFLOAT16 else (None, "")
    if not isinstance(code, str) or code[:1] not in _NUMERIC or not code[1:].isdecimal():
        return None, ""
    order = record.state[1] if isinstance(record.state, tuple) and len(record.state) > 1 else "="
    dtype = np.dtype(f"{order if order in ('<', '>') else '='}{code}")
    return dtype, "longdouble" if dtype.itemsize > (16 if dtype.kind == "c" else 8) else dtype.name


def _read(raw: bytes | bytearray, dtype: np.dtype[Any], shape: Sequence[int], order: Any, is_bfloat16: bool) -> Tensor:
    array = np.frombuffer(raw, dtype).reshape(shape, order=order)
    tensor = torch.from_numpy(np.array(array, dtype.newbyteorder("=")))
    return tensor.view(torch.bfloat16) if is_bfloat16 else tensor
