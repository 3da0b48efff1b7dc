"""How the compiled libraries are built: the one place that setup.py and native.py both read.

Imports the standard library only, since setup.py runs it on its own.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

# The oldest torch whose stable ABI the libraries use (2.11), as torch/headeronly/version.h encodes it.
TORCH_TARGET_VERSION = "0x020b000000000000"
# The GPUs to compile for where there is none to ask; newer ones run what is compiled for the newest.
ARCHITECTURES = ("8.0", "9.0", "10.0", "12.0")


@dataclass(frozen=True)
class Library:
    """One compiled library: the sources of one folder of csrc and the headers beside them.

    name: its folder
    title: what its kernels are called in messages
    suffix: of its translation units
    """

    name: str
    title: str
    suffix: str
    compile_flags: tuple[str, ...]
    link_flags: tuple[str, ...]

    def sources(self, csrc: Path) -> list[Path]:
        """The translation units."""
        return sorted(csrc.glob(f"{self.name}/*{self.suffix}"))

    def headers(self, csrc: Path) -> list[Path]:
        """The headers that they include."""
        return sorted([*csrc.glob("*.h"), *csrc.glob(f"{self.name}/*.h"), *csrc.glob(f"{self.name}/*.cuh")])

    def file_name(self, csrc: Path) -> str:
        """libckrm_<name>_<digest of sources and flags>: a library built from other sources has another name."""
        digest = hashlib.sha256(repr((self.compile_flags, self.link_flags)).encode())
        for path in self.sources(csrc) + self.headers(csrc):
            digest.update(path.relative_to(csrc).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
        return f"libckrm_{self.name}_{digest.hexdigest()[:12]}"


# torch names libtorch_python on the link line of a build on first use; nothing in the sources needs it. A compiler that
# puts libstdc++ into the library must keep it there alone: mixed with torch's own, every error message crashes.
_LINK_FLAGS = ("-Wl,--as-needed", "-Wl,--exclude-libs,ALL") if sys.platform == "linux" else ()

CPU = Library(
    "cpu",
    "CPU",
    ".cpp",
    (
        "-O3",
        "-ffp-contract=fast",
        "-fno-math-errno",
        "-fvisibility=hidden",
        "-Wno-psabi",  # vectors are passed between inlined functions only
        f"-DTORCH_TARGET_VERSION={TORCH_TARGET_VERSION}",
        # setuptools adds -DNDEBUG, -g and -fwrapv to what it compiles: say them here, so that both builds are one.
        "-DNDEBUG",
        "-g0",
        "-fno-wrapv",
    ),
    _LINK_FLAGS,
)

CUDA = Library(
    "cuda",
    "CUDA",
    ".cu",
    (
        "-O3",
        "-Xcompiler=-fvisibility=hidden",
        "-DUSE_CUDA",  # torch's stable headers then declare what they have for streams
        f"-DTORCH_TARGET_VERSION={TORCH_TARGET_VERSION}",
        "-DNDEBUG",
    ),
    _LINK_FLAGS,
)

LIBRARIES = (CPU, CUDA)


def architectures(nvcc: Path, gpus: int) -> str | None:
    """The TORCH_CUDA_ARCH_LIST to build with; None where torch finds out: the variable is set, or there are GPUs."""
    if gpus > 0 or os.environ.get("TORCH_CUDA_ARCH_LIST") not in (None, "", "native"):
        return None
    known = subprocess.run([str(nvcc), "--list-gpu-arch"], capture_output=True, text=True, check=True).stdout.split()
    wanted = [name for name in ARCHITECTURES if f"compute_{name.replace('.', '')}" in known]
    if not wanted:
        raise RuntimeError(f"{nvcc} compiles for none of {', '.join(ARCHITECTURES)}: set TORCH_CUDA_ARCH_LIST")
    return ";".join(wanted) + "+PTX"


def cuda_home(found: str | None) -> str | None:
    """The folder of the CUDA toolkit: nvcc's own where torch has found but a script or a link that calls it."""
    if not found:
        return None
    try:  # of a link the target, since nvcc finds its settings beside itself
        nvcc = Path(found, "bin", "nvcc").resolve(strict=True)
        asked = subprocess.run([str(nvcc), "--dryrun", "-x", "cu", os.devnull], capture_output=True, text=True)
    except OSError:
        return found
    top = re.search(r"^#\$ TOP=(.+)$", asked.stderr, re.MULTILINE)
    home = Path(top[1]).resolve() if top else Path(found)
    return str(home) if Path(home, "bin", "nvcc").exists() else found


def first_error(log: str) -> str:
    """The line of a build's log that says what went wrong: the first error of a compiler or linker, else the first."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    of_tool = (line for line in lines if _ERROR.search(line) and not line.startswith("collect2:"))
    return next(of_tool, lines[0] if lines else "no message")


_ERROR = re.compile(r"\berror:|\bfatal\b|cannot find -l|undefined reference")
