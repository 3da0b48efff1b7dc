"""What the Triton kernels compile to for GPUs that are not here (benchmarks/machine_code.py)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from exhaustive import also

pytest.importorskip("triton", reason="Triton is not installed")

ROOT = Path(__file__).parents[2]


def printed(arguments, **variables):
    """What Python prints as JSON in a process of its own, where Triton compiles instead of interpreting."""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    environment |= {"PYTHONPATH": str(ROOT), **variables}
    run = subprocess.run([sys.executable, "-W", "ignore", *arguments], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.fixture(scope="module", params=also(90, 80, 100, 120, "gfx942"))
def architecture(request):
    return request.param


@pytest.fixture(scope="module")
def counts(architecture, tmp_path_factory):
    """By kernel."""
    command = [str(ROOT / "benchmarks/machine_code.py"), "--json", "--architecture", str(architecture)]
    rows = printed(command, TRITON_CACHE_DIR=str(tmp_path_factory.mktemp("triton")))
    assert {row["architecture"] for row in rows} == {architecture}
    return {row["name"]: row for row in rows}


def test_nothing_is_spilled(counts):
    assert {name: row["spilled"] for name, row in counts.items() if row["spilled"]} == {}


def test_float32_kernels_hold_no_float64_instruction(counts):
    assert {name: row["doubles"] for name, row in counts.items() if row["doubles"] and "float64" not in name} == {}


def test_float64_kernels_hold_float64_instructions(counts):
    """The counter sees them; a cosine needs fewer, and so does a sum."""
    for name, row in counts.items():
        if "float64" in name:
            assert row["doubles"] > (20 if "cosine" in name or "mean" in name else 100), name


@pytest.mark.parametrize("name", ["tile, K = 9", "tile, K = 1"])
def test_a_term_costs_at_most_26_cycles(counts, name):
    """24 are its three special functions."""
    if not counts[name]["cycles"]:
        pytest.skip("there is no model of what a term costs")
    assert 24 <= counts[name]["cycles"] <= 26
    assert 32 * counts[name]["per_term"]["special"] == pytest.approx(3, abs=0.05)


def test_forward_and_backward_cost_at_most_5_times_forward(counts, architecture):
    """The gradient visits every pair in both orders."""
    if architecture in (80, "gfx942"):
        pytest.skip("5.01 times there" if architecture == 80 else "there is no model of what a term costs")
    forward, backward = (counts[f"{kernel}, K = 9"]["cycles"] for kernel in ("tile", "tile gradient"))
    assert forward + 2 * backward <= 5 * forward


@pytest.mark.parametrize("name", ["K = 9", "K = 9, signed"])
def test_a_gradient_costs_at_most_48_cycles(counts, architecture, name):
    """Issue slots: of special functions it has fewer."""
    assert counts[f"tile gradient, {name}"]["cycles"] <= (48.5 if architecture == 80 else 48)


def test_a_cosine_costs_no_special_function(counts):
    assert counts["tile, K = 9, cosine"]["per_term"].get("special", 0) == 0
    assert counts["tile, K = 9, cosine"]["cycles"] <= 11


def test_the_covariance_is_on_tensor_cores(counts, architecture):
    if architecture == "gfx942":
        pytest.skip("its instructions are not counted")
    assert counts["tile, K = 9"]["per_term"].get("tensor", 0) > 0


@pytest.mark.parametrize(("name", "row"), [("tile, K = 9", "tensor cores, Hopper"), ("tile, K = 1", "none")])
def test_kernels_fit_as_often_as_their_configuration_says(counts, architecture, name, row):
    from ckrm_kernels.kernels.configurations import TABLE

    if architecture != 90:
        pytest.skip("these rows are for sm_90")
    config, count = TABLE[row], counts[name]
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
