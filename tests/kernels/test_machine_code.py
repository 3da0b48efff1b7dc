"""What the Triton kernels compile to for NVIDIA architectures, counted without a GPU (benchmarks/machine_code.py)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton is not installed")

ROOT = Path(__file__).parents[2]


def printed(arguments, **variables):
    """What Python prints as JSON in a process of its own, where Triton compiles instead of interpreting."""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    environment |= {"PYTHONPATH": str(ROOT), **variables}
    run = subprocess.run([sys.executable, "-W", "ignore", *arguments], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.fixture(scope="module")
def counts(tmp_path_factory):
    """By kernel and architecture."""
    rows = printed(
        [str(ROOT / "benchmarks/machine_code.py"), "--json"], TRITON_CACHE_DIR=str(tmp_path_factory.mktemp("triton"))
    )
    found = {(row["name"], row["architecture"]): row for row in rows}
    assert {architecture for _, architecture in found} == {80, 90, 100}
    return found


def test_nothing_is_spilled(counts):
    assert {key: row["spilled"] for key, row in counts.items() if row["spilled"]} == {}


def test_float32_kernels_hold_no_float64_instruction(counts):
    assert {key: row["doubles"] for key, row in counts.items() if row["doubles"] and "float64" not in key[0]} == {}


def test_float64_kernels_hold_float64_instructions(counts):
    """The counter sees them."""
    assert all(row["doubles"] > 100 for key, row in counts.items() if "float64" in key[0])


@pytest.mark.parametrize("architecture", [80, 90, 100])
@pytest.mark.parametrize("name", ["tile, K = 9", "tile, K = 1"])
def test_a_term_costs_at_most_26_cycles(counts, name, architecture):
    """24 are its three special functions."""
    row = counts[name, architecture]
    assert 24 <= row["cycles"] <= 26
    assert 32 * row["per_term"]["special"] == pytest.approx(3, abs=0.05)


@pytest.mark.parametrize("architecture", [90, 100])
def test_forward_and_backward_cost_at_most_5_times_forward(counts, architecture):
    """The gradient visits every pair in both orders."""
    forward, backward = (counts[f"{kernel}, K = 9", architecture]["cycles"] for kernel in ("tile", "tile gradient"))
    assert forward + 2 * backward <= 5 * forward


def test_the_covariance_is_on_tensor_cores(counts):
    for architecture in (80, 90, 100):
        assert counts["tile, K = 9", architecture]["per_term"].get("tensor", 0) > 0


def test_kernels_fit_as_often_as_their_configuration_says(counts):
    from ckrm_kernels.kernels.configurations import TABLE

    for name, row in (("tile, K = 9", "tensor cores"), ("tile, K = 1", "none")):
        config, count = TABLE[row], counts[name, 90]
        registers = -(-count["registers"] // 8) * 8 * 32 * config.warps
        assert 65536 // registers >= config.resident
        assert 227 * 1024 // (count["shared"] + 1024) >= config.resident


# A loop of two MUFU, 0x10 to 0x50, that waits behind the code, at 0x90; then a copy of its last turn.
LISTING = """
00 0 MOV R0, R1
10 0 MUFU.RCP R0, R1
20 1 BRA 0x90
30 0 FMUL.FTZ R0, R0, R2
40 0 MUFU.EX2 R0, R0
50 0 BRA.U UP0, 0x10
60 0 MUFU.RCP R0, R1
70 0 MUFU.EX2 R0, R0
80 0 EXIT
90 1 BRA 0x90
a0 0 BRA 0x30
b0 0 BRA 0xb0
"""


def test_the_loop_is_found_along_the_jumps():
    program = f"""
import json
from benchmarks.machine_code import Instruction, hot_loop
lines = [line.split(maxsplit=2) for line in {LISTING.split(chr(10))!r} if line]
print(json.dumps(hot_loop([Instruction(int(at, 16), guarded == "1", text) for at, guarded, text in lines])))
"""
    assert printed(["-c", program]) == {"MUFU": 2, "FMUL": 1, "BRA": 4}
