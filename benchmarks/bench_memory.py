"""Memory that an operation holds at its peak beyond its inputs and outputs, in a process of its own."""

import subprocess
import sys

import pytest
from layers import layer

CODE = """
import time, torch, ckrm_kernels
from pathlib import Path

def status(field):
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024

def reset_peak():
    Path("/proc/self/clear_refs").write_text("5")

call = ckrm_kernels.{function}
call(torch.randn(64, 64, 3, 3), backend="cpu")  # threads and their stacks
weight = torch.randn({shape}) * 0.0085
reset_peak()
before, start = status("VmRSS"), time.perf_counter()
result = call(weight, backend="cpu")
seconds = time.perf_counter() - start
print(seconds, status("VmHWM") - before - result.nbytes)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("function", "shape"),
    [("pairwise_psi", "512x512x3x3"), ("redundancy", "512x512x3x3"), ("redundancy", "8192x64x3x3")],
)
def test_memory(report_times, function, shape):
    one = layer(shape)
    code = CODE.format(function=function, shape=shape.replace("x", ","))
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    seconds, extra = (float(number) for number in output.split())
    info = {"form": "", "slice_pairs": one.slice_pairs, "extra_bytes": int(extra)}
    report_times(f"memory of {function}", shape, "ckrm_kernels", [seconds], **info)
