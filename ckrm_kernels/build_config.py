"""How the CPU library is compiled: the one place that setup.py and native.py both read.

Imports the standard library only, since setup.py runs it on its own.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

# The oldest torch whose stable ABI the library uses (2.11), as torch/headeronly/version.h encodes it.
TORCH_TARGET_VERSION = "0x020b000000000000"

COMPILE_FLAGS = [
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
]

# torch names libtorch_python on the link line of a build on first use; nothing in the sources needs it.
LINK_FLAGS = ["-Wl,--as-needed"] if sys.platform == "linux" else []


def sources(csrc: Path) -> list[Path]:
    """The translation units of the CPU library."""
    return sorted(csrc.glob("cpu/*.cpp"))


def headers(csrc: Path) -> list[Path]:
    """The headers that they include."""
    return sorted([*csrc.glob("*.h"), *csrc.glob("cpu/*.h")])


def library_name(csrc: Path) -> str:
    """libckrm_cpu_<digest of sources and flags>: a library built from other sources has another name."""
    digest = hashlib.sha256(repr((COMPILE_FLAGS, LINK_FLAGS)).encode())
    for path in sources(csrc) + headers(csrc):
        digest.update(path.relative_to(csrc).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return f"libckrm_cpu_{digest.hexdigest()[:12]}"
