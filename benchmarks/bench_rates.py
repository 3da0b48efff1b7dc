"""What one core does: slice pairs a second by instruction set, exponents, dtype and K, in one thread's CPU time."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rates import CASES

CAPABILITIES = ("default", "avx2", "avx512")  # of ATEN_CPU_CAPABILITY; a processor takes the best that it has


@functools.cache
def rates(capability: str) -> dict:
    """What rates.py prints."""
    script = Path(__file__).with_name("rates.py")
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": capability, "OMP_NUM_THREADS": "1"}
    ran = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True, check=True)
    return json.loads(ran.stdout.splitlines()[-1])


@pytest.mark.parametrize("index", range(len(CASES)), ids=lambda index: f"{CASES[index].name} {CASES[index].layer}")
@pytest.mark.parametrize("capability", CAPABILITIES)
def test_rates(report_times, benchmark, capability, index):
    if benchmark.disabled:
        pytest.skip("only timed")
    found, case = rates(capability), CASES[index]
    names = {"default": ("sse2", "neon", "plain")}.get(capability, (capability,))
    if found["capability"] not in names:
        pytest.skip(f"the processor has no {capability}")
    seconds, operation = found["seconds"][index], f"one core's CPU time, {found['capability']}"
    report_times(operation, str(case.layer), case.name, seconds, form="", slice_pairs=case.layer.slice_pairs)
