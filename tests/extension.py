"""Builds C++ for the tests with torch.utils.cpp_extension, once, however many test processes ask."""

from __future__ import annotations

import os
import shutil
import sysconfig
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from ckrm_kernels import native


def load_extension(name: str, **options: Any) -> Any:
    """`torch.utils.cpp_extension.load`; skips where nothing can compile.

    The system gives the lock back when a process is killed; torch's own lock is a file that would then stay, and stop
    every later build.
    """
    if not (shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")):
        pytest.skip("no C++ compiler")
    from torch.utils.cpp_extension import load

    folder = Path(native.build_directory(), "tests", name)
    folder.mkdir(parents=True, exist_ok=True)
    with pytest.MonkeyPatch.context() as patch, FileLock(folder / "alone"):
        # the ninja of a virtual environment that is not activated
        patch.setenv("PATH", os.pathsep.join([os.environ.get("PATH", ""), sysconfig.get_path("scripts")]))
        if shutil.which("ninja") is None:
            pytest.skip("ninja is missing")
        (folder / "lock").unlink(missing_ok=True)  # of a build that was killed
        return load(name=name, build_directory=str(folder), **options)
