"""Parts of a data set on disk: one .npy file for each array, opened memory-mapped."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np
import torch
from numpy.lib import format as npy
from torch import Tensor

from ckrm_kernels.data.dataset import Normalization, Part

_RECORD = "record.json"
_CURE = "to preprocess the images anew"


class PartWriter:
    """Writes a part row by row; use it in a `with` statement, whose end makes its files whole."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name = folder, name
        self._writers: dict[str, _ArrayWriter] = {}
        self._stack = ExitStack()

    @property
    def arrays(self) -> list[str]:
        """The names of those that have rows."""
        return list(self._writers)

    def append(self, row: Mapping[str, np.ndarray]) -> None:
        """Adds one row to every array of the part."""
        for name, array in row.items():
            if name not in self._writers:
                writer = _ArrayWriter(_path(self._folder, self._name, name), array)
                self._writers[name] = writer
                self._stack.callback(writer.close)
            self._writers[name].append(array)

    def __enter__(self) -> PartWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()


class _ArrayWriter:
    """Writes a .npy file row by row; the number of rows comes into its header at the end.

    row: of the dtype and shape of all rows
    """

    def __init__(self, path: Path, row: np.ndarray) -> None:
        self._dtype, self._shape, self._rows = row.dtype, row.shape, 0
        self._file = path.open("wb")
        self._write_header()

    def append(self, row: np.ndarray) -> None:
        self._file.write(np.ascontiguousarray(row).tobytes())
        self._rows += 1

    def close(self) -> None:
        with self._file:
            self._file.seek(0)
            self._write_header()
            self._file.flush()
            os.fsync(self._file.fileno())

    def _write_header(self) -> None:
        """Writes as many bytes for every number of rows: numpy leaves room for the largest."""
        descr, shape = npy.dtype_to_descr(self._dtype), (self._rows, *self._shape)
        npy.write_array_header_1_0(self._file, {"descr": descr, "fortran_order": False, "shape": shape})


def write_record(folder: Path, record: Any) -> None:
    """Writes what is known of the parts, as JSON."""
    with open(folder / _RECORD, "w") as file:
        json.dump(record, file)
        file.flush()
        os.fsync(file.fileno())


def read_record(folder: Path) -> Any:
    """What `write_record` wrote; raises ValueError, naming the file, where it is not whole."""
    path = folder / _RECORD
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, ValueError) as error:
        raise ValueError(f"{path} is missing or damaged; delete {folder} {_CURE}") from error


@dataclass(frozen=True, eq=False)
class StoredPart(Part):
    """A part that goes to another process as the place of its files, and not as a copy of them.

    opened: the arguments of `open_part`; None for a part made from one, by `dataclasses.replace`
    """

    opened: tuple[Any, ...] | None = field(default=None, init=False, repr=False)

    def __reduce_ex__(self, protocol: SupportsIndex) -> Any:
        return super().__reduce_ex__(protocol) if self.opened is None else (open_part, self.opened)


def open_part(folder: Path, name: str, arrays: list[str], normalization: Normalization | None) -> StoredPart:
    """The part that a `PartWriter` wrote; raises ValueError, naming the file, where one is not as it was written."""
    part = StoredPart(**{array: _open(_path(folder, name, array)) for array in arrays}, normalization=normalization)
    object.__setattr__(part, "opened", (folder, name, arrays, normalization))
    return part


def _path(folder: Path, part: str, array: str) -> Path:
    return folder / f"{part}.{array}.npy"


def _open(path: Path) -> Tensor:
    try:
        array = npy.open_memmap(path, mode="c")  # a private mapping: what is written into it never reaches the file
        if path.stat().st_size != array.offset + array.nbytes:
            raise ValueError("it is longer than its header says")
    except Exception as error:  # a damaged header may lead to many
        raise ValueError(f"{path} is missing or damaged ({error}); delete {path.parent} {_CURE}") from error
    return torch.from_numpy(array)
