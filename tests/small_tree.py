"""A checkout with a C++ source that compiles in a second, and a compiler that can be held: for tests of the build."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
COMPILER = os.environ.get("CXX") or "c++"
needs_compiler = pytest.mark.skipif(
    shutil.which(COMPILER) is None or sys.platform == "win32", reason="there is no C++ compiler"
)

SOURCE = """
#include <torch/csrc/stable/library.h>
#include "answer.h"
static int64_t probe() { return answer; }
STABLE_TORCH_LIBRARY_FRAGMENT(NAMESPACE, m) { m.def("probe() -> int"); }
STABLE_TORCH_LIBRARY_IMPL(NAMESPACE, CompositeExplicitAutograd, m) { m.impl("probe", TORCH_BOX(&probe)); }
"""

CUDA_SOURCE = """
#include <torch/csrc/stable/library.h>
#include "probe.cuh"
static int64_t cuda_probe() { return answer + 1; }
STABLE_TORCH_LIBRARY_FRAGMENT(NAMESPACE, m) { m.def("cuda_probe() -> int"); }
STABLE_TORCH_LIBRARY_IMPL(NAMESPACE, CompositeExplicitAutograd, m) { m.impl("cuda_probe", TORCH_BOX(&cuda_probe)); }
"""


def write_sources(csrc: Path, namespace: str = "ckrm") -> Path:
    """Sources whose libraries register `torch.ops.<namespace>.probe() -> 7` (CPU) and `cuda_probe() -> 8` (CUDA)."""
    (csrc / "cpu").mkdir(parents=True)
    (csrc / "cuda").mkdir()
    (csrc / "cuda" / "probe.cuh").write_text('#include "answer.h"\n__global__ void kernel() {}\n')
    (csrc / "cuda" / "probe.cu").write_text(CUDA_SOURCE.replace("NAMESPACE", namespace))
    (csrc / "answer.h").write_text("constexpr long answer = 7;\n")
    (csrc / "cpu" / "probe.cpp").write_text(SOURCE.replace("NAMESPACE", namespace))
    return csrc


def copy_checkout(target: Path) -> Path:
    """The package and its build files as they are in the repository, without a library, on small sources."""
    ignore = shutil.ignore_patterns("__pycache__", "lib")
    shutil.copytree(REPOSITORY / "ckrm_kernels", target / "ckrm_kernels", ignore=ignore)
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in", "LICENSE"):
        shutil.copy(REPOSITORY / name, target)
    (target / "README.md").write_text("small\n")
    write_sources(target / "csrc")
    return target


class HeldCompiler:
    """A compiler that notes each compilation and goes on only after `release`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._log, self._hold, script = folder / "compilations", folder / "hold", folder / "held-g++"
        self._hold.touch()
        script.write_text(
            f'#!/bin/sh\ncase " $* " in *" -c "*) echo $$ >> "{self._log}"\n'
            f'while [ -e "{self._hold}" ]; do sleep 0.05; done;; esac\nexec {COMPILER} "$@"\n'
        )
        script.chmod(0o755)
        self.path = str(script)

    @property
    def compilations(self) -> int:
        return len(self._log.read_text().splitlines()) if self._log.exists() else 0

    def release(self) -> None:
        self._hold.unlink()


def start_python(code: str, package: Path, **environment: str) -> subprocess.Popen[str]:
    """Runs Python code that imports the package from a folder; output and errors are captured."""
    variables = {**os.environ, "PYTHONPATH": str(package), "OMP_NUM_THREADS": "1", **environment}
    return subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=package,
        env=variables,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def run_python(code: str, package: Path, **environment: str) -> tuple[str, str]:
    """What the code writes to its output and to its errors; fails if the code fails."""
    process = start_python(code, package, **environment)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return output.strip(), errors
