"""The command `ckrm`: runs a command of `commands` and turns its errors into one line."""

from __future__ import annotations

import io
import os
import sys
from typing import NoReturn

from ckrm_kernels.extras import extra_of, install, project


def main() -> NoReturn:
    """Runs the command line. Exit codes: 0 done, 1 an error, 2 wrong usage, 130 interrupted."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal without ± still gets the rest
    try:
        from ckrm_kernels.commands import app
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("typer", "rich"):
            raise
        sys.exit(f"ckrm: {_one_line(error)}")
    try:
        app(prog_name="ckrm")
    except BrokenPipeError:  # the reader of the output has gone; a second error at exit would say so again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if os.environ.get("CKRM_TRACEBACK") == "1":
            raise
        sys.exit(f"ckrm: {_one_line(error)}")
    sys.exit(0)


def _one_line(error: Exception) -> str:
    """The message of an error meant for users; of any other also its kind and how to see where it came from."""
    if isinstance(error, ModuleNotFoundError) and error.name:
        needed = error.name.partition(".")[0]
        extra = extra_of(needed)
        if extra:
            return f"{project(needed)} is missing: {install(extra)}"
    text = " ".join(str(error).split())
    if isinstance(error, (ImportError, OSError, ValueError, TypeError, RuntimeError)) and text:
        return text
    return f"{type(error).__name__}: {text} (CKRM_TRACEBACK=1 shows where)"
