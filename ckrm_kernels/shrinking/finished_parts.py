"""Finished parts of a long work, kept in files until the whole is done."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from ckrm_kernels.checkpoints.raw import damage_named
from ckrm_kernels.extras import require
from ckrm_kernels.storage.files import write_atomically
from ckrm_kernels.training.run_files import as_safetensors


class Part(NamedTuple):
    """What was found: a value that JSON can hold, and tensors, on the CPU, bit for bit as they were kept."""

    value: Any
    tensors: dict[str, Tensor]


class FinishedParts:
    """Parts of one work, each whole or not there wherever the process is killed.

    folder: where files are written; work: all that decides the parts, as JSON. Those of another work are not found
    """

    def __init__(self, folder: Path, work: Mapping[str, Any]) -> None:
        self._all = folder
        self._folder = folder / _name(json.dumps(work, sort_keys=True))

    def find(self, kind: str, name: str) -> Part | None:
        """The part that was kept; None where there is none. Raises ValueError, naming the file, for a damaged one."""
        path = self._path(kind, name)
        if not path.exists():
            return None
        with require("a finished part", "safetensors"):
            from safetensors import safe_open
        with damage_named(path, "a safetensors file"), safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - it is no mapping
            return Part(json.loads(file.metadata()["value"]), tensors)

    def keep(self, kind: str, name: str, value: Any, tensors: Mapping[str, Tensor]) -> None:
        """Writes the part."""
        write_atomically(self._path(kind, name), as_safetensors(dict(tensors), {"value": json.dumps(value)}))

    def remove(self) -> None:
        """Removes all that was kept in the folder, of other works too."""
        shutil.rmtree(self._all, ignore_errors=True)

    def _path(self, kind: str, name: str) -> Path:
        return self._folder / f"{kind}-{_name(name)}.safetensors"


def _name(text: str) -> str:
    """A file's name for any text."""
    return hashlib.sha256(text.encode()).hexdigest()[:20]
