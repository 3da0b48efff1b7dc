"""The machine and the packages that a result was made with, as records and reports name them."""

from __future__ import annotations

import platform
from importlib import metadata
from pathlib import Path

import torch

from ckrm_kernels.version import __version__


def processor() -> str:
    """The processor's name where the system tells, else its architecture."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def versions(*others: str) -> dict[str, str]:
    """Of this package, of Python, of torch, its build included, and of the others that are installed, by name."""
    found = {"ckrm_kernels": __version__, "Python": platform.python_version(), "torch": torch.__version__}
    for name in others:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
