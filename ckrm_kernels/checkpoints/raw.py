"""Numbers that lie in a file as they are: mapped into memory, and seen as a tensor."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor

from ckrm_kernels.checkpoints.stored import CheckpointError

_LOCAL_HEADER = 30  # bytes of a zip member's header before its name


@contextmanager
def damage_named(path: Path, what: str) -> Iterator[None]:
    """Makes whatever the readers of a format raise for a damaged file into a CheckpointError that says so.

    what: the format with its article, such as "an ONNX model"
    """
    try:
        yield
    except (CheckpointError, ImportError):
        raise
    except OSError as error:
        raise CheckpointError(f"{path}: can't be read: {error.strerror or error}") from None
    except MemoryError:
        raise CheckpointError(f"{path}: needs more memory than there is, or is damaged") from None
    except Exception as error:  # they raise many kinds
        raise CheckpointError(f"{path}: is {what}, truncated or damaged ({type(error).__name__}: {error})") from None


def mapped(path: Path, offset: int, size: int) -> np.ndarray:
    """So many bytes of a file from an offset on, mapped (uint8); what is written to them stays in memory.

    Raises ValueError where the file is shorter.
    """
    if size == 0:
        return np.empty(0, np.uint8)
    return np.asarray(np.memmap(path, np.uint8, "c", offset, (size,)))


class PartOfFile(io.RawIOBase):
    """A part of a file, as a file of its own to read."""

    def __init__(self, whole: IO[bytes], start: int = 0, size: int | None = None) -> None:
        """So many bytes from the start on; None: all that follow."""
        self._whole, self._start, self._at = whole, start, 0
        self._size = os.fstat(whole.fileno()).st_size - start if size is None else size

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Goes to a place, which is counted from the part's start."""
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        if self._at < 0:
            raise OSError("a place before the start")
        return self._at

    def tell(self) -> int:
        """The place from the part's start on."""
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        """So many bytes, or all, but none behind the part's end."""
        left = max(self._size - self._at, 0)
        self._whole.seek(self._start + self._at)
        content = self._whole.read(left if size is None or size < 0 else min(size, left))
        self._at += len(content)
        return content


def zip_member(path: Path, member: zipfile.ZipInfo, start: int = 0) -> np.ndarray:
    """The content of a zip's member (uint8), mapped where it is not compressed. start: of the zip in its file"""
    if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
        if start:
            raise zipfile.BadZipFile("compressed, within another file")
        with zipfile.ZipFile(path) as archive:
            return np.frombuffer(bytearray(archive.read(member)), np.uint8)
    with path.open("rb") as file:
        file.seek(start + member.header_offset)
        header = file.read(_LOCAL_HEADER)
    if header[:4] != b"PK\3\4":
        raise zipfile.BadZipFile(f"no member at {member.header_offset}")
    # its extra field may be longer here than in the archive's directory: torch pads it
    names = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    return mapped(path, start + member.header_offset + _LOCAL_HEADER + names, member.file_size)


def as_tensor(
    raw: np.ndarray, dtype: torch.dtype, shape: Sequence[int], strides: Sequence[int] | None = None, offset: int = 0
) -> Tensor:
    """Little-endian bytes (uint8) as a tensor, without a copy where they are aligned.

    strides, offset: of the tensor among the elements; None: contiguous
    Raises ValueError or RuntimeError where the bytes are too few.
    """
    if any(size < 0 for size in shape) or raw.size % dtype.itemsize:
        raise ValueError(f"{raw.size} bytes for the shape {tuple(shape)} of {dtype}")
    if raw.ctypes.data % dtype.itemsize:
        raw = raw.copy()
    elements = torch.from_numpy(raw).view(dtype)
    if strides is None:
        return elements.reshape(tuple(shape))
    return elements.as_strided(tuple(shape), tuple(strides), offset)
