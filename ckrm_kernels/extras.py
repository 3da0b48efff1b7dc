"""The packages that are optional, by the extra of this one that brings them."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager

EXTRAS = {  # the modules of each, as they are imported
    "triton": ("triton",),
    "cli": ("typer", "rich", "safetensors"),
    "report": ("pandas", "matplotlib"),
    "onnx": ("onnx", "onnxscript"),
    "train": (
        *("sklearn", "scipy", "pydantic", "PIL"),
        *(() if sys.version_info >= (3, 11) else ("tomli",)),
    ),
    "cxr": ("pydicom",),
    "tensorboard": ("tensorboard",),
    "torchmetrics": ("torchmetrics",),
    "lightning": ("lightning",),
    "transformers": ("transformers", "accelerate"),
    "torch-pruning": ("torch_pruning",),
    "build": ("ninja", "setuptools"),
}
_PROJECTS = {"sklearn": "scikit-learn", "PIL": "Pillow", "torch_pruning": "torch-pruning"}


def project(module: str) -> str:
    """The name under which a module's package is installed."""
    return _PROJECTS.get(module, module)


def install(extra: str) -> str:
    """The command that installs an extra."""
    return f'pip install "ckrm-kernels[{extra}]"'


def extra_of(module: str) -> str | None:
    """The extra that brings a module, or the package it is in; None for a module of no extra."""
    top = module.partition(".")[0]
    return next((extra for extra, modules in EXTRAS.items() if top in modules), None)


@contextmanager
def require(what: str, module: str) -> Iterator[None]:
    """Names, where an import in the statement fails, what needs the module and the extra that brings it.

    what: in the singular, such as "the report"
    module: a top-level one of `EXTRAS`
    """
    if extra_of(module) is None:
        raise ValueError(f"module must be one of EXTRAS, got {module!r}")
    try:
        yield
    except ImportError as error:
        absent = (error.name or module).partition(".")[0]
        raise _missing(what, absent if extra_of(absent) else module) from error  # what it needs may be what lacks


def check_installed(what: str, *modules: str) -> None:
    """Raises ImportError, as `require` does, for the first of the modules that is not installed; imports none.

    what: needs them, if only at its end
    """
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise _missing(what, module)


def _missing(what: str, module: str) -> ImportError:
    extra = extra_of(module)
    assert extra is not None
    return ImportError(f"{what} needs {project(module)}: {install(extra)}")
