"""What a machine may lack: a test that comes to it is skipped, with the reason.

A GPU machine without a network has neither every optional package nor a Triton whose interpreter its NumPy runs.
"""

from __future__ import annotations

import importlib.util
import re

import numpy as np
import pytest

from ckrm_kernels import extras


def skip_what_is_lacking(patch: pytest.MonkeyPatch) -> None:
    """Skips, from now on, where a kernel starts in an interpreter that can't run or a missing package is asked for."""
    if reason := interpreter_failure():
        patch.setattr("triton.runtime.interpreter.GridExecutor.__call__", lambda *_, **__: pytest.skip(reason))
    missing = {module for of_extra in extras.EXTRAS.values() for module in of_extra if not installed(module)}
    explain = extras._missing

    def skip(what: str, module: str) -> ImportError:
        if module in missing:
            pytest.skip(f"{extras.project(module)} is not installed")
        return explain(what, module)

    patch.setattr(extras, "_missing", skip)


def interpreter_failure() -> str:
    """Why kernels don't run in Triton's interpreter here; empty if they do, or if there is no Triton."""
    if not installed("triton"):
        return ""
    import triton

    if _version(triton.__version__) >= (3, 7) or _version(np.__version__) < (2, 4):
        return ""
    return (
        f"the interpreter of Triton {triton.__version__} turns arrays of one element into numbers, which NumPy "
        f"{np.__version__} refuses: it takes Triton 3.7 or newer, or NumPy 2.3 or older"
    )


def installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", text)[:2])
