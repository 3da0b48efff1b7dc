"""Programs that `torch.export.save` wrote (.pt2), read without loading them: JSON and plain numbers."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ckrm_kernels.checkpoints.exported_graph import Use, uses_in
from ckrm_kernels.checkpoints.raw import as_tensor, damage_named, zip_member
from ckrm_kernels.checkpoints.stored import CheckpointError, StoredTensor

# torch._export.serde.schema.ScalarType
_DTYPES = {
    **{1: "uint8", 2: "int8", 3: "int16", 4: "int32", 5: "int64", 6: "float16", 7: "float32", 8: "float64"},
    **{9: "complex32", 10: "complex64", 11: "complex128", 12: "bool", 13: "bfloat16", 28: "uint16"},
    **{29: "float8_e4m3fn", 30: "float8_e5m2", 31: "float8_e4m3fnuz", 32: "float8_e5m2fnuz", 33: "float8_e8m0fnu"},
    **{34: "uint32", 35: "uint64"},
}


_OLD = "is a program of torch.export without its graph, or of a torch before 2.9: load it there and save its state_dict"


def is_exported(members: Collection[str]) -> bool:
    """Whether a zip with members of these names is what torch.export or AOTInductor wrote."""
    return any(
        name.endswith(("archive_format", "serialized_exported_program.json")) or "data/aotinductor/" in name
        for name in members
    )


def read_exported(path: Path) -> list[StoredTensor]:
    """The parameters, buffers and constants of the program, with the operator that uses each and its groups.

    A matrix that the program multiplies with from the right is given transposed: (F2, F1), as that of a Linear.
    What no convolution or linear layer uses is listed with that reason, unless it has one dimension. Of several
    programs in one file, names begin with the program's.
    Raises CheckpointError, also for an AOTInductor package, which holds compiled code in place of the program.
    """
    with damage_named(path, "a program of torch.export"), zipfile.ZipFile(path) as archive:
        members = {_inner(info.filename): info for info in archive.infolist()}
        if any(re.fullmatch(r"data/weights/[^/]+\.pt", name) for name in members):  # all weights in a pickle
            raise CheckpointError(f"{path}: {_OLD}")
        models = [name for name in members if re.fullmatch(r"models/[^/]+\.json", name)]
        if not models:
            raise CheckpointError(f"{path}: {_without_program(members)}")
        if "byteorder" in members and archive.read(members["byteorder"]) != b"little":
            raise CheckpointError(f"{path}: was written on a big-endian machine: save it again on this one")
        tensors = []
        for model in models:
            name = Path(model).stem
            used = uses_in(json.loads(archive.read(members[model]))["graph_module"])
            prefix = f"{name}." if len(models) > 1 else ""
            for kind in ("weights", "constants"):
                config = members.get(f"data/{kind}/{name}_{kind}_config.json")
                stored = json.loads(archive.read(config))["config"] if config else {}
                for weight, meta in stored.items():
                    member = members[f"data/{kind}/{meta['path_name']}"]
                    tensors.append(_stored(path, prefix + weight, meta, member, used.get(weight, Use())))
        return tensors


def _inner(name: str) -> str:
    """A member's name within the one folder of the archive."""
    return name.partition("/")[2]


def _without_program(members: Collection[str]) -> str:
    if any("data/aotinductor/" in name for name in members):
        return (
            "is an AOTInductor package, which holds compiled code: pass the program before it was compiled, "
            "saved by torch.export.save"
        )
    return _OLD


def _stored(path: Path, name: str, meta: dict[str, Any], member: zipfile.ZipInfo, use: Use) -> StoredTensor:
    layout = meta["tensor_meta"]
    if layout is None:
        return StoredTensor(name, (), "object", None, note="an object, not a tensor")
    shape = tuple(_size(each) for each in layout["sizes"])
    dtype = _DTYPES.get(layout["dtype"], f"type {layout['dtype']}")
    of_torch = getattr(torch, dtype, None)
    if meta.get("use_pickle"):
        reason = "a tensor subclass, which is not read"
    elif not isinstance(of_torch, torch.dtype):
        reason = f"{dtype}, which is none of this torch's"
    elif len(shape) > 1 and (why_not := use.reason(shape)):
        reason = why_not
    else:
        strides, offset = [_size(each) for each in layout["strides"]], _size(layout["storage_offset"])

        def read() -> Tensor:
            with damage_named(path, f"a program of torch.export with {name}"):
                tensor = as_tensor(zip_member(path, member), of_torch, shape, strides, offset)
                return tensor.t() if use.transposed else tensor

        operator = use.operator_of(shape)
        given = shape[::-1] if use.transposed else shape
        return StoredTensor(
            name, given, dtype, read, operator, use.groups if operator else None, use.note(name) if operator else ""
        )
    return StoredTensor(name, shape, dtype, None, note=reason)


def _size(number: dict[str, Any]) -> int:
    if not isinstance(size := number["as_int"], int) or size < 0:
        raise ValueError(f"a size of {size!r}")
    return size
