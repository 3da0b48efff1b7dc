"""Folders that are built once, whole or not at all, however many processes ask and wherever one is killed."""

from __future__ import annotations

import logging
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_logger = logging.getLogger(__name__)


def cache_folder(folder: str | None) -> Path:
    """The folder given, else that of the environment's CKRM_CACHE, else ~/.cache/ckrm_kernels."""
    return Path(folder or os.environ.get("CKRM_CACHE") or "~/.cache/ckrm_kernels").expanduser()


def built_once(folder: Path, build: Callable[[Path], None]) -> Path:
    """The folder, filled by `build` in a folder of another name beside it unless it is there already.

    Processes that ask at once wait for the first of them, and use what it built.
    """
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        if not folder.is_dir():
            _build(folder, build)
    return folder


def _build(folder: Path, build: Callable[[Path], None]) -> None:
    temporary = folder.with_name(f"{_prefix(folder)}{uuid.uuid4().hex[:8]}")
    temporary.mkdir()
    try:
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


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Lets one process at a time build the folder; the system gives the lock back even when a process is killed."""
    try:
        import fcntl
    except ImportError:  # a system without these locks: two builds at once do no harm
        yield
        return
    with open(folder.with_name(f".{folder.name}.lock"), "w") as lock:
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                _logger.warning("another process is building %s; waiting for it", folder)
                fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError:  # a file system without locks
            yield
            return
        for remains in folder.parent.glob(f"{_prefix(folder)}*"):  # of builds that were killed
            shutil.rmtree(remains, ignore_errors=True)
        yield
