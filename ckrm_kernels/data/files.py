"""The files that a data set is read from."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from ckrm_kernels.data.dataset import Skipped


def existing_folder(folder: str | Path) -> Path:
    """The folder; raises FileNotFoundError where there is none."""
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder")
    return folder


class BadFile(ValueError):
    """A file that can't be used, and why; with skip_bad, what was to be read from it is left out."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(path, reason)  # as it is made anew in another process
        self.skipped = Skipped(str(path), reason)

    def __str__(self) -> str:
        return f"{self.skipped.path} {self.skipped.reason}; skip_bad leaves such images out (--skip-bad)"


def key_of_files(folder: Path, paths: Iterable[Path]) -> str:
    """What tells these files from others: a digest of path within the folder, size and time of change of each.

    A file that is missing counts as such.
    """
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{os.path.relpath(path, folder)}\0{_size_and_time(path)}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _size_and_time(path: Path) -> str:
    try:
        status = path.stat()
    except FileNotFoundError:
        return "missing"
    return f"{status.st_size}\0{status.st_mtime_ns}"
