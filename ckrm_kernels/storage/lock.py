"""A folder that only one command at a time works in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ckrm_kernels.distributed import team


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Makes the folder, and keeps other processes out of the statement; the lock ends with this process, however.

    The processes that torchrun started enter together. Raises ValueError where the folder is a file, or in use.
    """
    if not team().is_first:
        team().wait()
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("ab")
    except (FileExistsError, NotADirectoryError) as error:
        raise ValueError(f"{folder} can't be a folder: it, or what it lies in, is a file") from error
    with file:
        _lock(file, folder)
        team().wait()
        yield


def _lock(file: BinaryIO, folder: Path) -> None:
    try:
        import fcntl
    except ImportError:  # no POSIX system
        return
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # a record lock: processes forked from this one don't share it
    except (BlockingIOError, PermissionError) as error:
        raise ValueError(f"{folder} is in use by another process; wait for it or choose another folder") from error
