"""Folders that are built once, whole or not at all, however many processes ask and wherever one is killed."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

from ckrm_kernels.storage.files import OF_WRITING, writing
from ckrm_kernels.storage.lock import building_alone


def cache_folder(folder: str | None) -> Path:
    """The folder given, else that of the environment's CKRM_CACHE, else ~/.cache/ckrm_kernels."""
    return Path(folder or os.environ.get("CKRM_CACHE") or "~/.cache/ckrm_kernels").expanduser()


def built_once(folder: Path, build: Callable[[Path], None]) -> Path:
    """The folder, filled by `build` in a folder of another name beside it unless it is there already.

    Processes that ask at once wait for the first of them, and use what it built. Raises OSError, naming the folder,
    where it can't be written.
    """
    if folder.is_dir():
        return folder
    with writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
    lock = folder.with_name(f".{folder.name}.lock")
    with building_alone(lock, f"building {folder}", f"{_prefix(folder)}*"):
        if not folder.is_dir():
            _build(folder, build)
    return folder


def _build(folder: Path, build: Callable[[Path], None]) -> None:
    temporary = folder.with_name(f"{_prefix(folder)}{uuid.uuid4().hex[:8]}")
    with writing(folder):
        temporary.mkdir()
    try:
        with writing(folder, OF_WRITING):
            build(temporary)
        try:
            os.rename(temporary, folder)
        except OSError:
            if not folder.is_dir():  # else built meanwhile by another, where there are no locks
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _prefix(folder: Path) -> str:
    return f".{folder.name}.building-"
