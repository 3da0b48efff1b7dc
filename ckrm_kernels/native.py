"""Finds, builds and loads the compiled CPU library, whose kernels register themselves under `torch.ops.ckrm.*`.

In order: the library that was installed with the package, one that an earlier first use built, a build now, and
without a compiler a warning, after which the reference runs. `CKRM_KERNELS_BUILD=0` forbids the build.
"""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import shlex
import shutil
import sys
import sysconfig
import tempfile
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from ckrm_kernels import build_config

_PACKAGE = Path(__file__).parent
_logger = logging.getLogger("ckrm_kernels")
_lock = threading.Lock()
_status: CpuStatus | None = None


@dataclass(frozen=True)
class CpuStatus:
    """What became of the CPU library.

    loaded: whether its kernels can run
    path: the file that is loaded
    origin: where the file is from
    failure: why nothing is loaded; beside a loaded one, why the installed library was passed over; else empty
    """

    loaded: bool
    path: Path | None = None
    origin: Literal["prebuilt", "built on first use"] | None = None
    failure: str = ""


class BuildError(RuntimeError):
    """The library can't be built here; the message names the cause and the cure."""


def load_cpu() -> bool:
    """Whether the CPU kernels are loaded. The first call loads, and where there is no library builds it (a minute)."""
    return (_status or cpu_status()).loaded


# What torch.compiler.assume_constant_result does, without its import of torch._dynamo: a call that is being compiled
# runs load_cpu and keeps the answer, instead of tracing into a build.
load_cpu._dynamo_marked_constant = True  # type: ignore[attr-defined]


def cpu_status() -> CpuStatus:
    """What became of the CPU library; loads it first, as `load_cpu` does. Warns once if there is none."""
    global _status
    with _lock:
        if _status is None:
            _status = _load()
            if not _status.loaded:
                warnings.warn(
                    f"ckrm_kernels runs on plain PyTorch, much slower than its CPU kernels: {_status.failure}",
                    RuntimeWarning,
                    stacklevel=5,  # the caller of the public function
                )
        return _status


def cpu_failure() -> str:
    """Why the CPU kernels are not loaded; empty if they are."""
    status = cpu_status()
    return "" if status.loaded else status.failure


def source_directory() -> Path:
    """Where the C++ sources are: inside an installed package, beside it in a checkout."""
    inside = _PACKAGE / "csrc"
    return inside if inside.is_dir() else _PACKAGE.parent / "csrc"


def build_directory() -> Path:
    """Where libraries built on first use are kept: a folder of torch's extension cache."""
    from torch.utils.cpp_extension import get_default_build_root

    root = os.environ.get("TORCH_EXTENSIONS_DIR") or get_default_build_root()
    return Path(root, "ckrm_kernels", f"torch{torch.__version__}-{sys.platform}-{platform.machine()}")


def _load() -> CpuStatus:
    csrc = source_directory()
    name = build_config.library_name(csrc)
    passed_over = ""
    prebuilt = _PACKAGE / "lib" / (name + ".so")
    if prebuilt.exists():
        try:
            torch.ops.load_library(str(prebuilt))
            return CpuStatus(True, prebuilt, "prebuilt")
        except OSError as error:
            passed_over = f"the installed library does not load ({error.__cause__ or error})"
    try:
        return CpuStatus(True, _built(csrc, name), "built on first use", passed_over)
    except BuildError as error:
        return CpuStatus(False, failure=f"{passed_over}; {error}" if passed_over else str(error))


def _built(csrc: Path, name: str) -> Path:
    """The library that an earlier first use built, or that this one builds, loaded. Raises BuildError."""
    library = build_directory() / (name + ".so")
    if _loads(library):
        return library
    _check_tools(csrc)
    try:
        library.parent.mkdir(parents=True, exist_ok=True)
        with _build_alone(library.parent) as alone:
            # Another process may have built it while this one waited.
            if not (alone and _loads(library)):
                _build(csrc, library)
    except OSError as error:
        raise BuildError(f"can't write to {library.parent} ({error}); set TORCH_EXTENSIONS_DIR") from error
    return library


def _loads(library: Path) -> bool:
    if not library.exists():
        return False
    try:
        torch.ops.load_library(str(library))
    except OSError:  # from another machine that shares this folder: build anew
        return False
    return True


def _check_tools(csrc: Path) -> None:
    """Raises BuildError with the cure if a build can't even start."""
    if os.environ.get("CKRM_KERNELS_BUILD") == "0":
        raise BuildError("there is no library for these sources, and CKRM_KERNELS_BUILD=0 forbids building one")
    if sys.platform == "win32":
        raise BuildError("the kernels need GCC or Clang, which torch does not build with on Windows; use WSL")
    if not build_config.sources(csrc):
        raise BuildError(f"the C++ sources are missing from {csrc}; install the package again")
    compiler = shlex.split(os.environ.get("CXX") or "c++")[0]
    if shutil.which(compiler) is None:
        raise BuildError(f"there is no C++ compiler ({compiler} was not found); install g++ or clang++, or set CXX")
    with _scripts_on_path():
        if shutil.which("ninja") is None:
            raise BuildError('ninja is missing; pip install "ckrm-kernels[build]"')


def _build(csrc: Path, library: Path) -> None:
    """Compiles in a private folder, loads the result and moves it to its place, so that none is seen half-written."""
    _logger.warning(
        "compiling the CPU kernels; this happens once and takes about a minute (kept in %s)", library.parent
    )
    folder = Path(tempfile.mkdtemp(prefix="build-", dir=library.parent))
    try:
        # Imported here: older torch imports setuptools with it.
        from torch.utils.cpp_extension import load

        with _scripts_on_path():
            load(
                name=library.stem,
                sources=[str(path) for path in build_config.sources(csrc)],
                extra_cflags=list(build_config.COMPILE_FLAGS),
                extra_ldflags=list(build_config.LINK_FLAGS),
                extra_include_paths=[str(csrc)],
                build_directory=str(folder),
                is_python_module=False,
            )
        if build_config.library_name(csrc) != library.stem:
            raise RuntimeError("the sources were edited while they were compiled; start again")
        os.replace(next(folder.glob("*.so")), library)
    except Exception as error:  # whatever a compiler breaks with
        log = library.with_suffix(".log")
        log.write_text(str(error))
        raise BuildError(f"the build failed ({_first_error(str(error))}); the compiler's output is in {log}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _first_error(log: str) -> str:
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    return next((line for line in lines if "error:" in line), lines[0] if lines else "no message")


@contextlib.contextmanager
def _build_alone(folder: Path) -> Iterator[bool]:
    """Lets one process at a time build in the folder; the system gives the lock back even when a process is killed."""
    import fcntl

    with open(folder / "lock", "w") as lock:
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                _logger.warning("another process is compiling the CPU kernels; waiting for it")
                fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError:  # a file system without locks: two builds at once do no harm
            yield False
            return
        for remains in folder.glob("build-*"):  # of builds that were killed
            shutil.rmtree(remains, ignore_errors=True)
        yield True


@contextlib.contextmanager
def _scripts_on_path() -> Iterator[None]:
    """Finds the ninja of a virtual environment that is not activated."""
    path = os.environ.get("PATH", "")
    os.environ["PATH"] = os.pathsep.join([path, sysconfig.get_path("scripts")])
    try:
        yield
    finally:
        os.environ["PATH"] = path
