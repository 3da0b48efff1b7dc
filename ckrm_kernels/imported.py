"""What stands behind an import path such as "package.module:Class.method"."""

from __future__ import annotations

from functools import reduce
from importlib import import_module
from typing import Any


def imported(path: str, what: str) -> Any:
    """The object of an import path: a module, a colon and a chain of attributes.

    what: the path as an error names it
    Raises ValueError for what can't be imported, whatever its module breaks with.
    """
    module, _, name = path.partition(":")
    try:
        return reduce(getattr, name.split("."), import_module(module))
    except ModuleNotFoundError as error:
        where = ""
        if error.name == module.partition(".")[0]:
            where = "; install it, or put its folder on PYTHONPATH (the current one: PYTHONPATH=.)"
        raise ValueError(f"{what} can't be imported: {error}{where}") from error
    except SystemExit as error:
        raise ValueError(f"{what} can't be imported: {module} ends the program when it is imported") from error
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise ValueError(f"{what} can't be imported: {error}") from error
    except Exception as error:
        raise ValueError(f"{what} can't be imported: {type(error).__name__}: {error}") from error
