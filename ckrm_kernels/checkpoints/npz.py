"""NumPy's archives and arrays, read without pickle: `.npz` and `.npy`."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor

from ckrm_kernels.checkpoints.layouts import kernel_in_torch_layout, refused
from ckrm_kernels.checkpoints.raw import damage_named, mapped, zip_member
from ckrm_kernels.checkpoints.stored import CheckpointError, StoredTensor

LAYOUT_NOTE = (
    "NumPy arrays do not say their layout: taken for PyTorch's (O, I, *K), and those named kernel for that of Flax and "
    "Keras (*K, I, O)"
)
"""For the heading of whatever is measured from NumPy arrays."""

_MAGIC = b"\x93NUMPY"
_LARGEST_KERNEL = 11  # of a side; more is a number of channels, and so the layout another than PyTorch's


def is_npy(head: bytes) -> bool:
    """Whether a file that begins so is a NumPy array."""
    return head.startswith(_MAGIC)


def is_npz(members: Collection[str]) -> bool:
    """Whether a zip with members of these names is a NumPy archive."""
    return bool(members) and all(name.endswith(".npy") for name in members)


def read_npz(path: Path) -> list[StoredTensor]:
    """The arrays of a `.npz`, by their names and in their order, or the one of a `.npy`, named "weight".

    path: of a regular file, whose content decides which of both it is
    Arrays are given in PyTorch's layout, see `LAYOUT_NOTE`, and read when asked for: mapped into memory where not
    compressed. What torch has no type for, or needs pickle, is listed with the reason, and so are the arrays of an
    archive whose shapes speak of another layout.
    Raises CheckpointError.
    """
    with damage_named(path, "a file of NumPy arrays"):
        with path.open("rb") as file:
            single = is_npy(file.read(len(_MAGIC)))
        if single:
            with path.open("rb") as file:
                tensors = [_stored("weight", path, file, partial(mapped, path, 0, path.stat().st_size))]
        else:
            tensors = []
            with zipfile.ZipFile(path) as archive:
                for member in archive.infolist():
                    with archive.open(member) as file:
                        name = member.filename.removesuffix(".npy")
                        tensors.append(_stored(name, path, file, partial(zip_member, path, member)))
        return _of_one_layout(tensors)


def _stored(name: str, path: Path, file: IO[bytes], content: Callable[[], np.ndarray]) -> StoredTensor:
    """What the array's header says; the array itself is read from the content when it is asked for."""
    shape, fortran, dtype = _header(file)
    start = file.tell()
    if dtype.hasobject:
        return StoredTensor(name, shape, str(dtype), None, note="objects, which only pickle reads, and that runs code")
    if _torch_dtype(dtype) is None:
        reason = f"NumPy's type {dtype}, which torch has not"
        return StoredTensor(name, shape, str(dtype), None, note=reason)

    def read() -> Tensor:
        with damage_named(path, f"a file of NumPy arrays with {name}"):
            raw = content()[start:]
            count = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
            if raw.size < count:
                raise CheckpointError(f"{path}: is truncated: {name} has {raw.size} of {count} bytes")
            array = np.ndarray(shape, dtype, raw[:count], order="F" if fortran else "C")
            return torch.from_numpy(_native(array))

    return kernel_in_torch_layout(StoredTensor(name, shape, str(_torch_dtype(dtype)).removeprefix("torch."), read))


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(file)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:  # (3, 0) is for names of fields that are not Latin
        raise ValueError(f"version {version} of the format")
    return readers[version](file)


def _native(array: np.ndarray) -> np.ndarray:
    """The array in this machine's byte order, aligned, as torch takes it."""
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    return array if array.flags.aligned and array.flags.writeable else array.copy()


def _torch_dtype(dtype: np.dtype) -> torch.dtype | None:
    try:
        return torch.from_numpy(np.empty(0, dtype.newbyteorder("="))).dtype
    except TypeError:
        return None


def _of_one_layout(tensors: list[StoredTensor]) -> list[StoredTensor]:
    """The tensors; where the shape of one speaks against PyTorch's layout, those that have filters with that reason."""
    plain = [tensor for tensor in tensors if tensor.read and not tensor.note and len(tensor.shape) > 1]
    found = [layout for tensor in plain if (layout := _other_layout(tensor.shape))]
    if not found:
        return tensors
    other, dims = found[0]
    reason = f"seems to be {other} by the shapes in its file: save it as (O, I, *K)"
    return [refused(each, reason) if each in plain and len(each.shape) >= dims else each for each in tensors]


def _other_layout(shape: tuple[int, ...]) -> tuple[str, int] | None:
    """The layout that a weight's shape speaks for, and from how many dimensions on PyTorch's is another.

    None where PyTorch's is as likely.
    """
    if len(shape) not in (4, 5) or max(shape[2:]) <= _LARGEST_KERNEL:
        return None
    if _is_kernel(shape[:-2]):
        return "(*K, I, O), as TensorFlow writes,", 2
    return ("(O, *K, I), as MLX writes,", 3) if _is_kernel(shape[1:-1]) else None


def _is_kernel(sides: tuple[int, ...]) -> bool:
    return len(set(sides)) == 1 and 1 < sides[0] <= _LARGEST_KERNEL
