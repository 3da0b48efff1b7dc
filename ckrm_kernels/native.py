"""Finds, builds and loads the compiled libraries, whose kernels register themselves under torch's operators.

    CPU     torch.ops.ckrm.* on CPU tensors
    CUDA    torch.ops.ckrm_cuda.* on CUDA tensors; nothing is tried where torch has no CUDA

In order: the library that was installed with the package, one that an earlier first use built, a build now. What comes
of it is kept for the process; without CPU kernels the reference runs, after a warning. `CKRM_KERNELS_BUILD=0` forbids
builds.
"""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import re
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
from ckrm_kernels.build_config import CPU, CUDA, Library
from ckrm_kernels.extras import install

_PACKAGE = Path(__file__).parent
_logger = logging.getLogger("ckrm_kernels")
_lock = threading.Lock()
_statuses: dict[Library, LibraryStatus] = {}


@dataclass(frozen=True)
class LibraryStatus:
    """What became of a library.

    loaded: whether its kernels can run
    path: the file that is loaded
    origin: where the file is from
    failure: why nothing is loaded; beside a loaded one, why none that was installed is; else empty
    """

    loaded: bool
    path: Path | None = None
    origin: Literal["prebuilt", "built on first use"] | None = None
    failure: str = ""


class BuildError(RuntimeError):
    """The library can't be built here; the message names the cause and the cure."""


def load_cpu() -> bool:
    """Whether the CPU kernels are loaded. The first call loads, and where there is no library builds it (a minute)."""
    return (_statuses.get(CPU) or cpu_status()).loaded


def load_cuda() -> bool:
    """Whether the CUDA kernels are loaded. The first call loads, and where there is no library builds it (minutes)."""
    return (_statuses.get(CUDA) or cuda_status()).loaded


# What torch.compiler.assume_constant_result does, without its import of torch._dynamo: a call that is being compiled
# runs these and keeps the answer, instead of tracing into a build.
for _load_function in (load_cpu, load_cuda):
    _load_function._dynamo_marked_constant = True  # type: ignore[attr-defined]


def cpu_status() -> LibraryStatus:
    """What became of the CPU library; loads it first, as `load_cpu` does. Warns once if there is none."""
    with _lock:
        if CPU not in _statuses:
            _statuses[CPU] = _load(CPU)
            if not _statuses[CPU].loaded:
                warnings.warn(
                    f"ckrm_kernels runs on plain PyTorch, much slower than its CPU kernels: {_statuses[CPU].failure}",
                    RuntimeWarning,
                    stacklevel=5,  # the caller of the public function
                )
        return _statuses[CPU]


def cuda_status() -> LibraryStatus:
    """What became of the CUDA library; loads it first, as `load_cuda` does."""
    with _lock:
        if CUDA not in _statuses:
            _statuses[CUDA] = _load(CUDA) if torch.version.cuda else LibraryStatus(False, failure=_NO_CUDA)
        return _statuses[CUDA]


_NO_CUDA = "this torch has no CUDA"


def cpu_failure() -> str:
    """Why the CPU kernels are not loaded; empty if they are."""
    status = cpu_status()
    return "" if status.loaded else status.failure


def cuda_failure() -> str:
    """Why the CUDA kernels are not loaded; empty if they are."""
    status = cuda_status()
    return "" if status.loaded else status.failure


def source_directory() -> Path:
    """Where the C++ sources are: inside an installed package, beside it in a checkout."""
    inside = _PACKAGE / "csrc"
    return inside if inside.is_dir() else _PACKAGE.parent / "csrc"


def build_directory(library: Library = CPU) -> Path:
    """Where libraries built on first use are kept: a folder of torch's extension cache."""
    from torch.utils.cpp_extension import get_default_build_root

    root = os.environ.get("TORCH_EXTENSIONS_DIR") or get_default_build_root()
    name = f"torch{torch.__version__}-{sys.platform}-{platform.machine()}"
    if library is CUDA:  # it runs on the GPUs that it was built for
        asked = os.environ.get("TORCH_CUDA_ARCH_LIST")
        name += "-" + re.sub(r"[^0-9a-zA-Z.+]+", "_", asked if asked not in (None, "", "native") else _capabilities())
    return Path(root, "ckrm_kernels", name)


def _capabilities() -> str:
    """Those of the GPUs here, such as "8.0_9.0"."""
    found = {torch.cuda.get_device_capability(index) for index in range(torch.cuda.device_count())}
    return "_".join(f"{major}.{minor}" for major, minor in sorted(found)) or "any"


def _load(library: Library) -> LibraryStatus:
    csrc = source_directory()
    name = library.file_name(csrc)
    prebuilt = _PACKAGE / "lib" / (name + ".so")
    passed_over = "" if prebuilt.exists() else _install_failure(prebuilt.with_suffix(".log"))
    if prebuilt.exists():
        try:
            torch.ops.load_library(str(prebuilt))
            return LibraryStatus(True, prebuilt, "prebuilt")
        except OSError as error:
            passed_over = f"the installed library does not load ({error.__cause__ or error})"
    try:
        return LibraryStatus(True, _built(library, csrc, name), "built on first use", passed_over)
    except BuildError as error:
        return LibraryStatus(False, failure=f"{passed_over}; {error}" if passed_over else str(error))


def _install_failure(log: Path) -> str:
    """Why setup.py did not build the library; empty if it left no reason."""
    if not log.exists():
        return ""
    reason = build_config.first_error(log.read_text(encoding="utf-8", errors="replace"))
    return f"no library was built when the package was installed ({reason}; the whole output is in {log})"


def _built(library: Library, csrc: Path, name: str) -> Path:
    """The library that an earlier first use built, or that this one builds, loaded. Raises BuildError."""
    file = build_directory(library) / (name + ".so")
    if _loads(file):
        return file
    _check_tools(library, csrc)
    from ckrm_kernels.storage.lock import building_alone  # filelock, which only builds need

    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with building_alone(file.parent / "lock", f"compiling the {library.title} kernels", "build-*"):
            if not _loads(file):  # else another process has built it while this one waited
                _build(library, csrc, file)
    except OSError as error:
        raise BuildError(f"can't write to {file.parent} ({error}); set TORCH_EXTENSIONS_DIR") from error
    return file


def _loads(file: Path) -> bool:
    if not file.exists():
        return False
    try:
        torch.ops.load_library(str(file))
    except OSError:  # from another machine that shares this folder: build anew
        return False
    return True


def _check_tools(library: Library, csrc: Path) -> None:
    """Raises BuildError with the cure if a build can't even start."""
    if os.environ.get("CKRM_KERNELS_BUILD") == "0":
        raise BuildError("there is no library for these sources, and CKRM_KERNELS_BUILD=0 forbids building one")
    if sys.platform == "win32":
        raise BuildError("the kernels need GCC or Clang, which torch does not build with on Windows; use WSL")
    if not library.sources(csrc):
        raise BuildError(f"the C++ sources are missing from {csrc}; install the package again")
    compiler = shlex.split(os.environ.get("CXX") or "c++")[0]
    if shutil.which(compiler) is None:
        raise BuildError(f"there is no C++ compiler ({compiler} was not found); install g++ or clang++, or set CXX")
    if library is CUDA:
        _check_cuda_tools()
    with _scripts_on_path():
        if shutil.which("ninja") is None:
            raise BuildError(f"ninja is missing: {install('build')}")


def _check_cuda_tools() -> None:
    if not torch.cuda.is_available() and os.environ.get("FORCE_CUDA") != "1":
        raise BuildError("there is no library yet, and no GPU to build one for; FORCE_CUDA=1 builds it all the same")
    home = _cuda_home()
    nvcc = Path(home, "bin", "nvcc") if home else None
    if nvcc is None or not nvcc.exists():
        raise BuildError(
            f"there is no CUDA compiler ({nvcc or 'nvcc'} was not found); install the CUDA toolkit "
            f"{torch.version.cuda}, or set CUDA_HOME"
        )


def _cuda_home() -> str | None:
    from torch.utils import cpp_extension

    return build_config.cuda_home(cpp_extension.CUDA_HOME)


def _build(library: Library, csrc: Path, file: Path) -> None:
    """Compiles in a private folder, loads the result and moves it to its place, so that none is seen half-written."""
    _logger.warning(
        "compiling the %s kernels; this happens once and takes a minute or more (kept in %s)",
        library.title,
        file.parent,
    )
    folder = Path(tempfile.mkdtemp(prefix="build-", dir=file.parent))
    try:
        # Imported here: older torch imports setuptools with it.
        from torch.utils.cpp_extension import load

        cuda = library is CUDA
        with _scripts_on_path(), _toolkit() if cuda else contextlib.nullcontext():
            load(
                name=file.stem,
                sources=[str(path) for path in library.sources(csrc)],
                extra_cflags=None if cuda else list(library.compile_flags),
                extra_cuda_cflags=list(library.compile_flags) if cuda else None,
                extra_ldflags=list(library.link_flags),
                extra_include_paths=[str(csrc)],
                build_directory=str(folder),
                with_cuda=cuda,
                is_python_module=False,
            )
        if library.file_name(csrc) != file.stem:
            raise RuntimeError("the sources were edited while they were compiled; start again")
        os.replace(next(folder.glob("*.so")), file)
    except Exception as error:  # whatever a compiler breaks with
        log = file.with_suffix(".log")
        log.write_text(str(error))
        reason = build_config.first_error(str(error))
        raise BuildError(f"the build failed ({reason}); the compiler's output is in {log}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _scripts_on_path() -> Iterator[None]:
    """Finds the ninja of a virtual environment that is not activated."""
    path = os.environ.get("PATH", "")
    os.environ["PATH"] = os.pathsep.join([path, sysconfig.get_path("scripts")])
    try:
        yield
    finally:
        os.environ["PATH"] = path


@contextlib.contextmanager
def _toolkit() -> Iterator[None]:
    """Tells torch where the CUDA toolkit is, and what to compile for where it could not find out."""
    from torch.utils import cpp_extension

    found, asked = cpp_extension.CUDA_HOME, os.environ.get("TORCH_CUDA_ARCH_LIST")
    home = _cuda_home()
    assert home  # _check_cuda_tools has found its nvcc
    cpp_extension.CUDA_HOME = home
    try:
        chosen = build_config.architectures(Path(home, "bin", "nvcc"), torch.cuda.device_count())
        if chosen:
            os.environ["TORCH_CUDA_ARCH_LIST"] = chosen
        yield
    finally:
        cpp_extension.CUDA_HOME = found
        if asked is not None:
            os.environ["TORCH_CUDA_ARCH_LIST"] = asked
        else:
            os.environ.pop("TORCH_CUDA_ARCH_LIST", None)
