"""Folders that `torch.distributed.checkpoint` wrote: tensors cut into chunks, which lie in the files of the ranks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ckrm_kernels.checkpoints.pickles import Global, RefusedError, StandIn, Unpickler
from ckrm_kernels.checkpoints.raw import damage_named
from ckrm_kernels.checkpoints.stored import CheckpointError, StoredTensor
from ckrm_kernels.checkpoints.torch_archives import torch_archive
from ckrm_kernels.checkpoints.torch_tensors import dtype_name, dtype_of, tensor_builders, tensor_of

METADATA = ".metadata"
"""The file that describes a folder. It is written last."""
PARTS = "*.distcp"
"""The files that hold the tensors."""

_SAVE_ANEW = "take an earlier one, or save it anew"


class _Chunk(NamedTuple):
    """A part of a tensor, and where it lies.

    offsets, sizes: of the part, along each dimension; start, length: in the file, in bytes
    """

    file: Path
    start: int
    length: int
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]


def read_distributed(path: Path) -> dict[Any, Any]:
    """What a folder's description names, nested as it was saved: tensors, and None for anything else.

    path: of the description; nothing of it is imported or run
    A tensor is put together of its chunks when it is read. That the files of all chunks are there and long enough is
    seen to before.
    Raises CheckpointError.
    """
    try:
        content = BytesIO(path.read_bytes())  # of which no damaged length can ask for more than there is
        return _content(path, Unpickler(content, tensor_builders()).load())
    except (CheckpointError, RefusedError, MemoryError):
        raise
    except Exception as error:  # damaged pickles raise many kinds
        words = f"{type(error).__name__}: {error}"
        raise CheckpointError(f"{path}: is truncated or damaged ({words}): {_SAVE_ANEW}") from None


def _content(path: Path, metadata: Any) -> dict[Any, Any]:
    described = _fields(metadata, "Metadata")
    places = _places(path, described["storage_data"])
    paths = described.get("planner_data") or {}
    content: dict[Any, Any] = {}
    for name, record in described["state_dict_metadata"].items():
        value = _tensor(path, name, record, places) if _is(record, "TensorStorageMetadata") else None
        _put(content, paths.get(name) or (name,), value)
    return content


def _is(record: Any, kind: str) -> bool:
    return isinstance(record, StandIn) and record.type.rpartition(".")[2] == kind


def _fields(record: Any, kind: str) -> dict[str, Any]:
    if not _is(record, kind):
        raise ValueError(f"no {kind} where one is expected")
    fields: dict[str, Any] = record.attributes
    return fields


def _put(content: dict[Any, Any], keys: Sequence[Any], value: Any) -> None:
    for key in keys[:-1]:
        content = content.setdefault(key, {})
        if not isinstance(content, dict):
            raise ValueError(f"{key} is both a value and a mapping")
    content[keys[-1]] = value


def _places(path: Path, storage: dict[Any, Any]) -> dict[tuple[str, tuple[int, ...] | None], tuple[Path, int, int]]:
    """Where the chunk of a tensor lies that begins at an offset: its file, and in this its start and length."""
    sizes: dict[str, int] = {}
    places = {}
    for key, value in storage.items():
        index, info = _fields(key, "MetadataIndex"), _fields(value, "_StorageInfo")
        name, start, length = info["relative_path"], _number(info["offset"]), _number(info["length"])
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or "\0" in name:
            raise CheckpointError(f"{path}: names {name!r}, which is not in its folder")
        if info.get("transform_descriptors"):
            how = ", ".join(info["transform_descriptors"])
            raise CheckpointError(f"{path}: its tensors were written through {how}: save it without these extensions")
        if name not in sizes:
            sizes[name] = _size(path, name)
        if start + length > sizes[name]:
            raise CheckpointError(
                f"{path.parent / name}: is truncated, {index['fqn']} ends at byte {start + length} of "
                f"{sizes[name]}: {_SAVE_ANEW}"
            )
        offset = index.get("offset")
        places[index["fqn"], None if offset is None else tuple(offset)] = (path.parent / name, start, length)
    return places


def _size(path: Path, name: str) -> int:
    try:
        return (path.parent / name).stat().st_size
    except FileNotFoundError:
        raise CheckpointError(
            f"{path}: names {name}, which is not there: copy all files of the folder, or {_SAVE_ANEW}"
        ) from None


def _tensor(path: Path, name: str, record: Any, places: dict[Any, tuple[Path, int, int]]) -> StoredTensor:
    fields = _fields(record, "TensorStorageMetadata")
    shape = _sizes(fields["size"])
    properties = fields["properties"].state  # (dtype, layout, requires_grad, ...)
    kind = properties[0] if isinstance(properties, tuple) else properties["dtype"]
    dtype = dtype_of(kind)
    if dtype is None:
        known = kind.name.removeprefix("torch.") if isinstance(kind, Global) else ""
        return StoredTensor("", shape, known, None)
    chunks = []
    for each in fields["chunks"]:
        chunk = _fields(each, "ChunkStorageMetadata")
        offsets, sizes = _sizes(chunk["offsets"]), _sizes(chunk["sizes"])
        place = places.get((name, offsets)) or places.get((name, None))
        if place is None:
            raise CheckpointError(f"{path}: does not say where the part of {name} at {offsets} lies: {_SAVE_ANEW}")
        chunks.append(_Chunk(*place, offsets, sizes))
    _check_chunks(path, name, shape, chunks)
    return StoredTensor("", shape, dtype_name(dtype), partial(_read, name, shape, dtype, chunks))


def _check_chunks(path: Path, name: str, shape: tuple[int, ...], chunks: Sequence[_Chunk]) -> None:
    """Refuses chunks that are not the tensor, each number once, or more than their files can hold."""
    within = all(
        len(each.sizes) == len(each.offsets) == len(shape)
        and all(start + size <= whole for start, size, whole in zip(each.offsets, each.sizes, shape, strict=True))
        and math.prod(each.sizes) <= each.length
        for each in chunks
    )
    places = {each.offsets for each in chunks}
    if not within or len(places) < len(chunks) or sum(math.prod(each.sizes) for each in chunks) != math.prod(shape):
        raise CheckpointError(f"{path}: the parts of {name} are not the whole of its shape {shape}: {_SAVE_ANEW}")


def _read(name: str, shape: tuple[int, ...], dtype: torch.dtype, chunks: Sequence[_Chunk]) -> Tensor:
    """The tensor: mapped where it is one chunk, else put together, one after the other."""
    if len(chunks) == 1:
        return _read_chunk(name, dtype, chunks[0])
    whole = torch.empty(shape, dtype=dtype)
    for chunk in chunks:
        if all(chunk.sizes):
            place = [slice(start, start + size) for start, size in zip(chunk.offsets, chunk.sizes, strict=True)]
            whole[tuple(place)] = _read_chunk(name, dtype, chunk)
    return whole


def _read_chunk(name: str, dtype: torch.dtype, chunk: _Chunk) -> Tensor:
    with damage_named(chunk.file, f"a part of a distributed checkpoint with {name}"):
        archive = torch_archive(chunk.file, chunk.start, chunk.length)
        stored = None if archive is None else tensor_of(archive.load("data.pkl", "data"))
        if stored is None or stored.read is None:
            raise ValueError(f"no plain tensor {stored.note if stored else ''}".rstrip())
        if stored.shape != chunk.sizes or stored.dtype != dtype_name(dtype):
            raise ValueError(f"{stored.dtype} {stored.shape} where {dtype_name(dtype)} {chunk.sizes} is expected")
        return stored.read()


def _sizes(value: Any) -> tuple[int, ...]:
    return tuple(_number(each) for each in value)


def _number(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"a size of {value!r}")
    return value
