"""Files that are either there and whole, or not there."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_BREAK = r"\n\s*"
_CHUNK = 1 << 20
_WORDS = {  # where the system's own are hard to read
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission is denied",
    errno.EPERM: "permission is denied",
    errno.ENOTDIR: "what it lies in is a file",
    errno.EEXIST: "what it lies in is a file",
}
OF_WRITING = frozenset({errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG})  # which no reading leads to
_DEVICES = (Path("/dev"), Path("/dev/fd"))  # where /dev/stdout is a link, to a file where the shell redirects it


def write_atomically(path: Path, content: bytes | str) -> None:
    """Writes under a temporary name beside the path, then renames; raises OSError, naming the path, where it can't.

    What is no file, such as /dev/stdout or a pipe, is written to as it is: a renamed file would take its place.
    """
    data = content.encode() if isinstance(content, str) else content
    with writing(path):
        if path.parent in _DEVICES or (path.exists() and not path.is_file()):
            with path.open("ab") as file:
                file.write(data)
        else:
            _write_and_rename(path, data)


def text_or_file(text: str, path: str | os.PathLike[str] | None) -> str | None:
    """The text, or None once it is in the file, whole, where a path is given."""
    if path is None:
        return text
    write_atomically(Path(path), text)
    return None


def append_line(path: Path, text: str) -> None:
    """Adds a line to a file, which it makes where there is none; raises OSError, naming the path, where it can't."""
    made = not path.exists()
    try:
        with writing(path), path.open("a", encoding="utf-8") as file:
            file.write(text + "\n")
    except OSError:
        if made:
            path.unlink(missing_ok=True)
        raise


@contextmanager
def writing(path: Path, only: Collection[int] | None = None) -> Iterator[None]:
    """Names the path, in words, in an OSError of the statement, which writes there.

    only: errors of these numbers; `OF_WRITING` where the statement reads other files, too
    """
    try:
        yield
    except OSError as error:
        if only is not None and error.errno not in only:
            raise
        why = _WORDS.get(error.errno or 0, error.strerror or error)
        raise type(error)(f"{path} can't be written: {why}") from error


def _write_and_rename(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """Writes JSON, atomically, indented but for lists of plain values, each of which is one line."""
    text = json.dumps(value, indent=1)  # whose strings hold no line breaks
    text = re.sub(r"\[\n\s*([^\[\]{}]*?)\n\s*\]", lambda m: f"[{re.sub(_BREAK, ' ', m[1])}]", text)
    write_atomically(path, text + "\n")


def sha256_of(path: Path) -> tuple[str, int]:
    """The SHA-256 of a file's content, in hexadecimal digits, and how many bytes it has; raises OSError."""
    digest, size, buffer = hashlib.sha256(), 0, bytearray(_CHUNK)
    view = memoryview(buffer)
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(view[:count])
            size += count
    return digest.hexdigest(), size


def read_json(path: Path) -> Any:
    """The file's value; raises ValueError, naming the path, if it is not JSON."""
    try:
        return json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON ({error}); delete it to start anew") from error
