"""Finds, builds and loads the compiled CPU library (placeholder until the build lands)."""

from __future__ import annotations


def load_cpu() -> bool:
    """Whether the CPU kernels are loaded."""
    return False


def cpu_failure() -> str:
    """Why they are not."""
    return "not built"
