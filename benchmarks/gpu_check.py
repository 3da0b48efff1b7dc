"""Everything that only a GPU can show, in one command without a network: `make gpu-check`.

In this order: the build of both libraries and what `ckrm doctor` finds, values, repeatability, benchmarks (which write
benchmarks/results/<device>.json), compute-sanitizer on every kernel where the tool is, and last the tests that need no
GPU. A stage that fails or takes too long does not stop the next. Tests of what the machine lacks, an optional package
or Triton's interpreter, are skipped with that reason.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
GPU_TESTS = ("tests/test_gpu.py", "tests/test_cuda_kernels.py", "tests/training/test_gpu_training.py")
ON_GPU = "(test_gpu or test_cuda_kernels and [cuda)"  # its other half runs on the CPU
REPEATS = "(same_bits or ends_the_same)"
LIMIT = 520  # seconds of all stages
GRACE = 10  # seconds in which a stage that is stopped may end by itself
BUILD = """
import subprocess, sys
cpu = subprocess.Popen([sys.executable, "-c", "from ckrm_kernels import native; native.load_cpu()"])  # beside CUDA's
from ckrm_kernels import doctor, native
native.load_cuda()
cpu.wait()
for name, finding in doctor.findings():
    print(f"{name:<20}{finding}")
assert native.load_cpu() and native.load_cuda()
"""


def stages() -> list[tuple[str, list[str], dict[str, str], int]]:
    """Name, command, environment and seconds of each."""
    python = [sys.executable]
    workers = ["-n", str(min(12, os.cpu_count() or 1))] if importlib.util.find_spec("xdist") else []
    quiet = ["--benchmark-disable"] if importlib.util.find_spec("pytest_benchmark") else []
    pytest = [*python, "-m", "pytest", "-q", "--continue-on-collection-errors", *quiet, *workers]
    found = [
        ("build", [*python, "-c", BUILD], {}, 150),
        ("values", [*pytest, *GPU_TESTS, "-k", f"{ON_GPU} and not {REPEATS}"], {}, 180),
        ("repeatability", [*pytest, *GPU_TESTS, "-k", f"{ON_GPU} and {REPEATS}"], {}, 60),
        ("benchmarks", [*python, "benchmarks/gpu_times.py"], {}, 150),
    ]
    if sanitizer := shutil.which("compute-sanitizer"):
        for backend in ("triton", "cuda"):
            for tool in ("memcheck", "racecheck"):
                command = [
                    sanitizer,
                    "--tool",
                    tool,
                    "--error-exitcode",
                    "1",
                    "--report-api-errors",  # torch and Triton check their own calls, and try some that may fail
                    "no",
                    *python,
                    "tests/gpu_sanitized.py",
                    backend,
                ]
                found.append((f"{tool}, {backend}", command, {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}, 90))
    others = [*pytest, "-m", "not exhaustive", "-k", f"not {ON_GPU}"]
    found.append(("what needs no GPU", others, {"TRITON_INTERPRET": "1"}, 180))
    return found


def run(command: list[str], environment: dict[str, str], limit: float) -> tuple[str, str]:
    """The outcome and what was printed."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "benchmarks"), os.environ.get("PYTHONPATH", "")])
    given = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "2", **environment}
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as output:  # a stop may cut a character
        # in a group of its own, so that compilers and workers end with it
        process = subprocess.Popen(
            command, cwd=ROOT, env=given, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            code = process.wait(timeout=limit)
            outcome = "passed" if code == 0 else f"failed ({code})"
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)  # pytest then says what has failed so far
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=GRACE)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            outcome = f"stopped after {limit:.0f} s"
        output.seek(0)
        return outcome, output.read()


def main() -> None:
    """Exits with 1 if a stage failed; without a GPU, or without torch, says so and exits with 0."""
    if importlib.util.find_spec("torch") is None:
        print(f"make gpu-check: {sys.executable} has no torch, nothing was run; name another with PYTHON=")
        return
    import torch

    if not torch.cuda.is_available():
        print("make gpu-check: torch sees no GPU here, nothing was run")
        return
    outcomes, begun = [], time.monotonic()
    for name, command, environment, limit in stages():
        start = time.monotonic()
        left = LIMIT - (start - begun)
        outcome, printed = run(command, environment, min(limit, left)) if left > 5 else ("left out, no time", "")
        lines = printed.rstrip().splitlines()
        print(f"\n==== {name}: {outcome}\n" + "\n".join(lines[-60:]), flush=True)
        outcomes.append((name, outcome, time.monotonic() - start, lines[-1] if lines else ""))
    print("\n| stage | | s | last line |\n|---|---|--:|---|")
    for name, outcome, seconds, last in outcomes:
        print(f"| {name} | {outcome} | {seconds:.0f} | {last[:100]} |")
    sys.exit(any(outcome != "passed" for _, outcome, _, _ in outcomes))


if __name__ == "__main__":
    main()
