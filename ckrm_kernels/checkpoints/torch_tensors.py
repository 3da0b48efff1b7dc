"""The tensors that a pickle of torch describes, each to be read when it is asked for."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ckrm_kernels.checkpoints.numpy_arrays import stored_array
from ckrm_kernels.checkpoints.pickles import Build, Global, StandIn
from ckrm_kernels.checkpoints.raw import as_tensor
from ckrm_kernels.checkpoints.stored import StoredTensor

SHARDED = (
    "sharded over processes; save a full one: get_model_state_dict(model, "
    "options=StateDictOptions(full_state_dict=True)) of torch.distributed.checkpoint.state_dict"
)
_OF_STORAGE = {
    "Double": torch.float64,
    "Float": torch.float32,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
    "ComplexDouble": torch.complex128,
    "ComplexFloat": torch.complex64,
    "QInt8": torch.qint8,
    "QUInt8": torch.quint8,
    "QInt32": torch.qint32,
    "QUInt4x2": torch.quint4x2,
    "QUInt2x4": torch.quint2x4,
}
_MOST_EXPANDED = 1 << 30  # elements of a tensor that has fewer in its storage
_DTYPES = {f"torch.{name}": value for name, value in vars(torch).items() if isinstance(value, torch.dtype)}
_SHARDED_TYPES = ("DTensor", "ShardedTensor")
_PLAIN_TYPES = ("torch.Tensor", "torch._tensor.Tensor", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer")


@dataclass(eq=False)
class Storage:
    """Numbers that tensors are views of.

    dtype: of the elements; None where each tensor has its own
    size: in bytes
    raw: gives the bytes (uint8), mapped anew each time; there once all of the pickle is read
    """

    dtype: torch.dtype | None
    size: int
    raw: Callable[[], np.ndarray] | None = None


def storage_dtype(kind: Any) -> torch.dtype | None:
    """The type of a storage's elements by its class; None for an untyped one. Raises ValueError for another class."""
    if not isinstance(kind, Global) or not kind.name.startswith("torch."):
        raise ValueError("a storage of no type")
    name = kind.name.rpartition(".")[2].removesuffix("Storage")
    if name == "Untyped":
        return None
    if name not in _OF_STORAGE:
        raise ValueError(f"a storage of {kind.name}")
    return _OF_STORAGE[name]


def tensor_builders() -> dict[str, Build]:
    """What is called in the place of torch's functions that rebuild tensors, by their names."""
    in_utils: dict[str, Build] = {
        "_rebuild_tensor": _strided,
        "_rebuild_tensor_v2": _strided_v2,
        "_rebuild_tensor_v3": _strided_v3,
        "_rebuild_parameter": _same,
        "_rebuild_parameter_with_state": _same,
        "_rebuild_qtensor": _quantised,
        "_rebuild_sparse_tensor": _sparse,
        "_rebuild_sparse_csr_tensor": _sparse,
        "_rebuild_nested_tensor": lambda *_: _unreadable((), "", "nested: convert it first (to_padded_tensor)"),
        "_rebuild_device_tensor_from_cpu_tensor": _of_device,
        "_rebuild_device_tensor_from_numpy": _of_device,
        "_rebuild_xla_tensor": _of_device,
        "_rebuild_meta_tensor_no_storage": _meta,
        "_rebuild_wrapper_subclass": _wrapper,
    }
    return {
        **{f"torch._utils.{name}": build for name, build in in_utils.items()},
        "torch._tensor._rebuild_from_type": _of_subclass,
        "torch._tensor._rebuild_from_type_v2": _of_subclass,
        "torch.nn.parameter.Parameter": _same,
        "torch.nn.parameter.Buffer": _same,
        **{
            f"torch.nn.parameter.Uninitialized{kind}": lambda *_: _unreadable((), "", "lazy, it has no values yet")
            for kind in ("Parameter", "Buffer")
        },
        "torch.Size": lambda sizes=(): tuple(sizes),
        "torch.serialization._get_layout": lambda name: StandIn(name if isinstance(name, str) else "torch.layout"),
    }


def tensor_of(value: Any) -> StoredTensor | None:
    """The tensor that an object in a pickle is, also as a NumPy array or of a kind that is not read; None for none."""
    if isinstance(value, StoredTensor):
        return value
    if not isinstance(value, StandIn):
        return None
    if value.type.rpartition(".")[2] in _SHARDED_TYPES:
        return _unreadable((), "", SHARDED)
    if value.type.startswith("torch.") and "_rebuild" in value.type:
        return _unreadable((), "", f"rebuilt by {value.type}, which is not read")
    return stored_array(value)


def dtype_name(dtype: torch.dtype) -> str:
    """As torch writes it, without "torch."."""
    return str(dtype).removeprefix("torch.")


def _unreadable(shape: tuple[int, ...], dtype: str, note: str) -> StoredTensor:
    return StoredTensor("", shape, dtype, None, note=note)


def _strided(storage: Any, offset: Any, size: Any, stride: Any, dtype: Any = None) -> StoredTensor:
    if not isinstance(storage, Storage):
        raise ValueError("a tensor without a storage")
    dtype = dtype_of(dtype) or storage.dtype or torch.uint8
    numbers = [offset, *size, *stride]
    if len(size) != len(stride) or not all(type(number) is int and number >= 0 for number in numbers):
        raise ValueError("a tensor without a shape and strides that fit")
    elements = storage.size // dtype.itemsize
    last = offset + sum((count - 1) * step for count, step in zip(size, stride, strict=True))
    if all(size) and last >= elements:
        raise ValueError(f"a tensor outside of its storage: element {last} of {elements}")
    if math.prod(size) > max(elements, _MOST_EXPANDED):
        return _unreadable(
            tuple(size), dtype_name(dtype), f"expanded from {elements} numbers to more than fit in memory"
        )
    read = _View(storage, dtype, tuple(size), tuple(stride), offset)
    return StoredTensor("", tuple(size), dtype_name(dtype), read)


def _strided_v2(storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> StoredTensor:
    tensor = _strided(storage, offset, size, stride)
    bits = rest[2] if len(rest) > 2 and isinstance(rest[2], dict) else {}
    return replace(tensor, read=None, note="a conjugated or negated view") if any(bits.values()) else tensor


def _strided_v3(storage: Any, offset: Any, size: Any, stride: Any, _: Any, hooks: Any, dtype: Any, *rest: Any) -> Any:
    return _strided(storage, offset, size, stride, dtype)


@dataclass(frozen=True)
class _View:
    """Reads a tensor. Two of the same numbers are equal, as those of a weight that two layers share."""

    storage: Storage
    dtype: torch.dtype
    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int

    def __call__(self) -> Tensor:
        if 0 in self.size:
            return torch.empty_strided(self.size, self.stride, dtype=self.dtype)
        assert self.storage.raw is not None
        raw = self.storage.raw()
        whole = raw[: raw.size // self.dtype.itemsize * self.dtype.itemsize]
        return as_tensor(whole, self.dtype, self.size, self.stride, self.offset)


def _same(data: Any, *_: Any) -> Any:
    return data


def _quantised(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> StoredTensor:
    name = dtype_name(storage.dtype) if isinstance(storage, Storage) and storage.dtype else ""
    return _unreadable(tuple(size), name, f"{name}, quantised: dequantise it first")


def _sparse(layout: Any, data: Any) -> StoredTensor:
    name = layout.type if isinstance(layout, StandIn) else "torch.sparse"
    tensors = [part for part in data if isinstance(part, StoredTensor)]
    shape = next((part for part in data[1:] if isinstance(part, tuple)), ())
    return _unreadable(shape, tensors[-1].dtype if tensors else "", f"{name}: convert it first (to_dense)")


def _of_device(data: Any, dtype: Any, *_: Any) -> Any:
    tensor, wanted = tensor_of(data), dtype_of(dtype)
    if tensor is None or tensor.read is None or wanted is None:
        return tensor
    read = tensor.read
    return replace(tensor, dtype=dtype_name(wanted), read=lambda: read().to(wanted))


def _meta(dtype: Any, size: Any, *_: Any) -> StoredTensor:
    wanted = dtype_of(dtype)
    return _unreadable(tuple(size), dtype_name(wanted) if wanted else "", "on the meta device, it has no values")


def _wrapper(kind: Any, dtype: Any, size: Any, *_: Any) -> StoredTensor:
    name = kind.name if isinstance(kind, Global) else "a tensor's subclass"
    if name.rpartition(".")[2] in _SHARDED_TYPES:
        note = SHARDED
    else:
        note = f"a {name}, which keeps its numbers in other tensors: convert it to a plain one first"
    wanted = dtype_of(dtype)
    return _unreadable(tuple(size), dtype_name(wanted) if wanted else "", note)


def _of_subclass(function: Any, kind: Any, arguments: Any, *_: Any) -> Any:
    if not isinstance(function, Global):
        raise ValueError("a tensor that nothing rebuilds")
    tensor = tensor_of(function.build(*arguments))
    name = kind.name if isinstance(kind, Global) else ""
    if tensor is None or tensor.note or name in _PLAIN_TYPES:
        return tensor
    if name.startswith("torch.nn.parameter.Uninitialized"):
        return _unreadable((), "", "lazy, it has no values yet")
    return replace(tensor, note=f"a {name}, read as a plain tensor")


def dtype_of(record: Any) -> torch.dtype | None:
    """The type that a record names; None where it names none."""
    return _DTYPES.get(record.name) if isinstance(record, Global) else None
