"""Parts of a data set on disk: one file of raw numbers for each array, opened memory-mapped."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, SupportsIndex

import numpy as np
import torch
from torch import Tensor

from ckrm_kernels.data.dataset import Normalization, Part

_DTYPES = {
    "bool": torch.bool,
    "uint8": torch.uint8,
    "int64": torch.int64,
    "float16": torch.float16,
    "float32": torch.float32,
}

_RECORD = "record.json"
_CURE = "to preprocess the images anew"

Layout = dict[str, dict[str, Any]]


class PartWriter:
    """Writes a part row by row; use it in a `with` statement.

    layout: dtype and shape of each array, as JSON, complete when the statement ends
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.layout: Layout = {}
        self._folder, self._name = folder, name
        self._files: dict[str, BinaryIO] = {}
        self._stack = ExitStack()

    def append(self, row: Mapping[str, np.ndarray]) -> None:
        """Adds one row to every array of the part."""
        for name, array in row.items():
            if name not in self._files:
                file = _path(self._folder, self._name, name).open("wb")
                self._files[name] = self._stack.enter_context(file)
                self.layout[name] = {"dtype": str(array.dtype), "shape": [0, *array.shape]}
            self.layout[name]["shape"][0] += 1
            self._files[name].write(np.ascontiguousarray(array).tobytes())

    def __enter__(self) -> PartWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        with self._stack:
            for file in self._files.values():
                file.flush()
                os.fsync(file.fileno())


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


def open_part(folder: Path, name: str, layout: Layout, normalization: Normalization | None) -> StoredPart:
    """The part that a `PartWriter` wrote; raises ValueError, naming the file, where one is not as it was written."""
    arrays = {array: _open(_path(folder, name, array), **form) for array, form in layout.items()}
    part = StoredPart(**arrays, normalization=normalization)
    object.__setattr__(part, "opened", (folder, name, layout, normalization))
    return part


def _path(folder: Path, part: str, array: str) -> Path:
    return folder / f"{part}.{array}"


def _open(path: Path, dtype: str, shape: list[int]) -> Tensor:
    size = int(np.prod(shape))
    expected = size * _DTYPES[dtype].itemsize
    if not path.is_file() or path.stat().st_size != expected:
        raise ValueError(f"{path} must have {expected} bytes; delete {path.parent} {_CURE}")
    # a private mapping: what is written into the tensor never reaches the file
    return torch.from_file(str(path), shared=False, size=size, dtype=_DTYPES[dtype]).reshape(shape)
