"""What `make test` leaves to `make test-all`: further cases of a kind of check of which it makes others.

A whole test is marked `pytest.mark.exhaustive`; one whose cases on some backends are, `exhaustive_on("triton")`.
"""

from __future__ import annotations

from typing import Any

import pytest


def also(*values: Any) -> list[Any]:
    """Values of a parameter whose cases are exhaustive."""
    return [pytest.param(value, marks=pytest.mark.exhaustive) for value in values]
