"""Whole numbers among arguments: Python's, NumPy's and any other type's."""

from __future__ import annotations

from numbers import Integral
from typing import Any


def whole_number(name: str, value: Any, least: int = 1) -> int:
    """The value as Python's int; raises ValueError, naming it, unless it is a whole number >= least, and no bool."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be a whole number >= {least}, got {value!r}")
    return int(value)
