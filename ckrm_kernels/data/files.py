"""The files that a data set is read from."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from ckrm_kernels.data.dataset import Skipped
from ckrm_kernels.storage.files import read_json, sha256_of, write_json

T = TypeVar("T")
Track = Callable[..., Iterable[Any]]  # called as rich.progress.track is: with an iterable, description and total

_THREADS = 8


def untracked(sequence: Iterable[T], description: str = "", total: float | None = None) -> Iterable[T]:
    """The sequence itself: progress that nobody watches."""
    return sequence


def existing_folder(folder: str | Path) -> Path:
    """The folder; raises FileNotFoundError where there is none."""
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder, which should hold the data (--data-folder, --image-folder)")
    return folder


class BadFile(ValueError):
    """A file that can't be used, and why; with skip_bad, what was to be read from it is left out."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(path, reason)  # as it is made anew in another process
        self.skipped = Skipped(str(path), reason)

    def __str__(self) -> str:
        return f"{self.skipped.path} {self.skipped.reason}; skip_bad leaves such images out (--skip-bad)"


def contents_of_files(
    folder: Path, groups: Mapping[str, Sequence[Path]], cache: Path, track: Track = untracked
) -> dict[str, str]:
    """For each group of files a digest of their contents, and of their paths within the folder.

    cache: a folder that keeps each file's digest with its size and times, so that a file is read only once while they
        stay as they are
    track: shows progress where files have to be read, see `DataConfig.load`
    A file that is missing counts as such.
    """
    digests = _digests(folder, list(dict.fromkeys(path for paths in groups.values() for path in paths)), cache, track)
    contents = {}
    for name, paths in groups.items():
        digest = hashlib.sha256()
        for path in paths:
            digest.update(f"{_within(folder, path)}\0{digests[path]}\n".encode("utf-8", "surrogateescape"))
        contents[name] = digest.hexdigest()[:32]
    return contents


def _digests(folder: Path, paths: Sequence[Path], cache: Path, track: Track) -> dict[Path, str]:
    place = hashlib.sha256(os.fsencode(folder.absolute())).hexdigest()[:20]
    index = cache / f"digests-{place}.json"
    known: dict[str, list[Any]] = {}
    with suppress(OSError, ValueError):  # what is lost is computed again
        known = dict(read_json(index))
    times = {path: _size_and_times(path) for path in paths}
    fresh = [path for path in paths if times[path] and known.get(_within(folder, path), [None])[:-1] != times[path]]
    if fresh:
        with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
            computed = track(pool.map(sha256_of, fresh), description="Reading the files", total=len(fresh))
            for path, (digest, _) in zip(fresh, computed, strict=True):
                known[_within(folder, path)] = [*times[path], digest]
        with suppress(OSError, UnicodeEncodeError):
            write_json(index, known)
    return {path: known[_within(folder, path)][-1] if times[path] else "missing" for path in paths}


def _size_and_times(path: Path) -> list[int]:
    """Size and times of the last change of content and of anything; nothing where the file is missing."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return []
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _within(folder: Path, path: Path) -> str:
    return os.path.relpath(path, folder)
