"""`make gpu-check` without a GPU: the order of its stages, and what becomes of one."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def gpu_check():
    spec = importlib.util.spec_from_file_location("gpu_check", ROOT / "benchmarks" / "gpu_check.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_needs_no_gpu_comes_last(gpu_check, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda tool: f"/usr/bin/{tool}")
    names = [name for name, *_ in gpu_check.stages()]
    assert names[:4] == ["build", "values", "repeatability", "benchmarks"]
    assert names[4:-1] == [f"{tool}, {backend}" for backend in ("triton", "cuda") for tool in ("memcheck", "racecheck")]
    assert names[-1] == "what needs no GPU"
    assert all((ROOT / file).exists() for file in gpu_check.GPU_TESTS)


@pytest.mark.parametrize(
    ("code", "limit", "outcome"),
    [
        ("print('ü')", 60, "passed"),
        ("exit(3)", 60, "failed (3)"),
        ("import time; time.sleep(60)", 1, "stopped after 1 s"),
    ],
)
def test_the_outcome_of_a_stage(gpu_check, code, limit, outcome):
    found, printed = gpu_check.run([sys.executable, "-c", code], {"PYTHONIOENCODING": "utf-8"}, limit)
    assert found == outcome
    assert outcome != "passed" or printed == "ü\n"
