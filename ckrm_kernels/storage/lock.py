"""Locks between processes, which the system gives back however their holder ends."""

from __future__ import annotations

import logging
import shutil
import socket
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from inspect import signature
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ckrm_kernels.distributed import team
from ckrm_kernels.storage.files import writing

_LATE = 10.0  # seconds
_logger = logging.getLogger(__name__)
# A soft lock is a file whose presence is the lock: that of a killed process would stay. Older ones have no such option.
_WITHOUT_SOFT_LOCK: dict[str, Any] = (
    {"fallback_to_soft": False} if "fallback_to_soft" in signature(FileLock.__init__).parameters else {}
)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Makes the folder, and keeps other processes out of the statement; one made for nothing is removed again.

    The processes that torchrun started enter together. Raises ValueError where the folder is a file, or in use, or
    another one on the host of another process, and OSError, naming it, where it can't be written.
    """
    if not team().is_first:
        _check_common(folder)
        yield
        return
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise ValueError(f"{folder} can't be a folder: it, or what it lies in, is a file") from error
    try:
        with writing(folder):
            held = _lock(folder / ".lock").acquire(blocking=False)
    except Timeout as error:
        raise ValueError(f"{folder} is in use by another process; wait for it or choose another folder") from error
    with held:
        try:
            _check_common(folder)
            yield
        except BaseException:
            _remove_empty(made)
            raise


def _check_common(folder: Path) -> None:
    """Refuses a folder that the processes, which may be on several hosts, do not have in common."""
    processes = team()
    if processes.size == 1:
        return
    mark = folder / f".common-{processes.of_first(lambda: uuid.uuid4().hex[:8])}"
    if processes.is_first:
        mark.touch()
    processes.wait()
    lack = [host for host in processes.gathered("" if _appears(mark) else socket.gethostname()) if host]
    if processes.is_first:
        mark.unlink()
    if lack:
        raise ValueError(
            f"{folder} is not the same folder on {', '.join(dict.fromkeys(lack))}: "
            "it must lie on a file system that all hosts share"
        )


def _appears(path: Path) -> bool:
    """Whether a file is there, or comes within the time for which a network's file system may not look anew."""
    until = time.monotonic() + _LATE
    while not (found := path.exists()) and time.monotonic() < until:
        time.sleep(0.1)
    return found


def _remove_empty(folders: Sequence[Path]) -> None:
    """Removes those folders, each within the next, that hold nothing but the first one's lock."""
    if folders and [path.name for path in folders[0].iterdir()] == [".lock"]:
        with suppress(OSError):
            (folders[0] / ".lock").unlink()
            for folder in folders:
                folder.rmdir()


@contextmanager
def building_alone(file: Path, work: str, remains: str) -> Iterator[None]:
    """Lets one process at a time into the statement, which builds something beside the lock's file; others wait.

    work: what the statement does, for the warning of those that wait
    remains: the pattern of folders beside the file that killed builds may have left; they are removed
    On a file system without locks none waits and nothing is removed: two builds at once do no harm.
    """
    with ExitStack() as held:
        with suppress(OSError, NotImplementedError):  # the latter of filelock before 3.30
            held.enter_context(_wait_for(_lock(file), work))
            for folder in file.parent.glob(remains):
                shutil.rmtree(folder, ignore_errors=True)
        yield


def _wait_for(lock: FileLock, work: str) -> AbstractContextManager[Any]:
    try:
        return lock.acquire(blocking=False)
    except Timeout:
        _logger.warning("another process is %s; waiting for it", work)
        return lock.acquire()


def _lock(file: Path) -> FileLock:
    return FileLock(file, **_WITHOUT_SOFT_LOCK)
