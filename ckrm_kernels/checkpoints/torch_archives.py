"""What torch.save and torch.jit.save write: a zip archive, or the file of before torch 1.6; plain pickles too."""

from __future__ import annotations

import os
import pickle
import zipfile
import zlib
from collections.abc import Callable
from functools import cached_property, partial
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from ckrm_kernels.checkpoints.numpy_arrays import array_builders
from ckrm_kernels.checkpoints.pickles import Build, Unpickler
from ckrm_kernels.checkpoints.raw import PartOfFile, damage_named, mapped, zip_member
from ckrm_kernels.checkpoints.stored import CheckpointError
from ckrm_kernels.checkpoints.torch_tensors import Storage, storage_dtype, tensor_builders

_MAGIC = 0x1950A86A20F9469CFC6C
_PICKLE = "data.pkl"
_LONGEST_LINE = 1 << 24


class TorchArchive:
    """A zip archive of torch.save or torch.jit.save.

    members: what it holds, by name without the archive's own
    start: where it begins in the file
    """

    def __init__(self, path: Path, members: dict[str, zipfile.ZipInfo], start: int = 0) -> None:
        self.path, self.members, self._start = path, members, start

    @property
    def is_torchscript(self) -> bool:
        """Whether torch.jit.save wrote it."""
        return "constants.pkl" in self.members

    def read(self, name: str) -> bytes:
        """The content of a member. Raises BadZipFile where its checksum differs."""
        content = self._raw(self.members[name]).tobytes()
        if self._has_checksums and zlib.crc32(content) != self.members[name].CRC:
            raise zipfile.BadZipFile(f"the checksum of {name} differs")
        return content

    @cached_property
    def _has_checksums(self) -> bool:
        """False after torch.serialization.set_crc32_options(False), told by a member that torch always writes."""
        version = self.members.get("version")
        return version is not None and zlib.crc32(self._raw(version).tobytes()) == version.CRC

    def load(self, name: str, storages: str) -> Any:
        """The object of a pickle; storages: the folder of its tensors' numbers."""
        loaded: dict[str, Storage] = {}

        def persistent(pid: Any) -> Storage:
            key, dtype, size = _described(pid)
            if key not in loaded:
                member = self.members[f"{storages}/{key}"]
                if size > member.file_size:
                    raise ValueError(f"storage {key} has {member.file_size} bytes, not {size}")
                loaded[key] = Storage(dtype, member.file_size, partial(self._raw_named, member))
            return loaded[key]

        return Unpickler(BytesIO(self.read(name)), _builders(), persistent).load()

    def _raw(self, member: zipfile.ZipInfo) -> np.ndarray:
        return zip_member(self.path, member, self._start)

    def _raw_named(self, member: zipfile.ZipInfo) -> np.ndarray:
        with damage_named(self.path, "a checkpoint"):
            return self._raw(member)


def torch_archive(path: Path, start: int = 0, size: int | None = None) -> TorchArchive | None:
    """The archive in a zip file, or in a part of a file; None where that holds none of torch's.

    start, size: of the part, in bytes; by default the whole file
    Raises CheckpointError and zipfile's errors.
    """
    with path.open("rb") as whole, zipfile.ZipFile(PartOfFile(whole, start, size)) as file:
        members = {member.filename: member for member in file.infolist()}
        file_names = sorted((name for name in members if f"/{name}".endswith(f"/{_PICKLE}")), key=len)
        if not file_names:
            return None
        if min(member.header_offset for member in members.values()):
            raise CheckpointError(
                f"{path}: holds more than one archive, as a part of a distributed checkpoint does: pass its folder"
            )
        prefix = file_names[0].removesuffix(_PICKLE)
    own = {name.removeprefix(prefix): member for name, member in members.items() if name.startswith(prefix)}
    archive = TorchArchive(path, own, start)
    if "byteorder" in archive.members and archive.read("byteorder") not in (b"little", b""):
        raise CheckpointError(f"{path}: was written on a big-endian machine; save it anew on a little-endian one")
    return archive


def read_pickled(path: Path) -> Any:
    """The object in a file of before torch 1.6, or in a plain pickle."""
    size = path.stat().st_size

    def raw(offset: int, count: int) -> np.ndarray:
        with damage_named(path, "a checkpoint"):
            return mapped(path, offset, count)

    with path.open("rb") as file:
        return _load_legacy(_Bounded(file, size), size, raw)


class _Bounded:
    """A file of which no more is asked for than there is, whatever a damaged pickle says of lengths."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file, self._size = file, size
        self.tell, self.seek = file.tell, file.seek

    def read(self, count: int) -> bytes:
        if count > self._size - self._file.tell():
            raise EOFError(f"{count} bytes are not there")
        return self._file.read(count)

    def readline(self) -> bytes:
        return self._file.readline(_LONGEST_LINE)


def _load_legacy(file: _Bounded, size: int, raw: Callable[[int, int], np.ndarray]) -> Any:
    """The object: after a magic number, the protocol and the machine; then come its storages, one after the other.

    size: of the file, in bytes; raw: gives so many of its bytes (uint8) from an offset on
    """
    storages: dict[str, Storage] = {}
    views: dict[tuple[str, int, int], Storage] = {}

    def persistent(pid: Any) -> Any:
        if isinstance(pid, tuple) and len(pid) > 1 and pid[0] == "module":
            return pid[1]  # a module's class, beside its source
        key, dtype, count = _described(pid)
        storage = storages.setdefault(key, Storage(dtype, count))
        view = pid[5] if len(pid) > 5 else None
        if view is None or storage.dtype is None:
            return storage
        start, end = (int(number) * storage.dtype.itemsize for number in (view[1], view[1] + view[2]))
        if not 0 <= start <= end <= storage.size:
            raise ValueError(f"a view outside of the storage {key}")
        return views.setdefault((key, start, end), Storage(dtype, end - start, lambda: _whole(storage)[start:end]))

    def load() -> Any:
        return Unpickler(file, _builders(), persistent).load()

    content = load()
    if type(content) is not int or content != _MAGIC:
        if storages:
            raise ValueError("storages are missing")
        return content
    load(), load()
    content, keys = load(), load()
    for key in keys:
        count = int.from_bytes(file.read(8), "little")
        storage, offset = storages[key], file.tell()
        count *= storage.dtype.itemsize if storage.dtype else 1
        if count < storage.size or offset + count > size:
            raise ValueError(f"storage {key} has {count} bytes, not {storage.size}")
        storage.raw = partial(raw, offset, count)
        file.seek(count, os.SEEK_CUR)
    if any(storage.raw is None for storage in storages.values()):
        raise ValueError("storages are missing")
    return content


def _whole(storage: Storage) -> np.ndarray:
    assert storage.raw is not None
    return storage.raw()


def _described(pid: Any) -> tuple[str, Any, int]:
    """The key, type and size in bytes of a storage by its persistent id."""
    if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage":
        raise pickle.UnpicklingError("an object outside of the pickle that is no storage")
    _, kind, key, _, count = pid[:5]
    if type(key) not in (str, int):
        raise pickle.UnpicklingError("a storage without a key")
    dtype = storage_dtype(kind)
    if type(count) is not int or count < 0:
        raise ValueError("a storage of no number of elements")
    return str(key), dtype, _bytes(dtype, count)


def _bytes(dtype: Any, count: int) -> int:
    """Of so many elements, of which some quantised types hold several in a byte."""
    together = {torch.quint4x2: 2, torch.quint2x4: 4}.get(dtype, 1)
    return -(-count // together) * (dtype.itemsize if dtype else 1)


def _builders() -> dict[str, Build]:
    return {**tensor_builders(), **array_builders(), "torch.storage._load_from_bytes": _storage_of_bytes}


def _storage_of_bytes(content: bytes) -> Any:
    """A storage as a plain pickle holds it: as the file that torch.save would write of it."""
    return _load_legacy(
        _Bounded(BytesIO(content), len(content)),
        len(content),
        lambda offset, count: np.frombuffer(bytearray(content[offset : offset + count]), np.uint8),
    )
