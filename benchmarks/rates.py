"""The CPU kernels' rates on one thread, in CPU time, by the instruction set that ATEN_CPU_CAPABILITY allows.

Run by bench_rates.py, in a process of its own for each instruction set: prints the seconds of each case as JSON.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from layers import Layer, layer

from ckrm_kernels import native, pairwise_psi

ROUNDS, SHORTEST = 9, 0.02  # in turns; seconds of a round, in which shorter calls are repeated


@dataclass(frozen=True)
class Case:
    """A call of `pairwise_psi`, and whether its gradient is computed too."""

    name: str
    layer: Layer
    dtype: torch.dtype = torch.float32
    options: tuple[tuple[str, Any], ...] = ()
    backward: bool = False

    def call(self) -> Callable[[], Any]:
        """The call, on a weight of its own."""
        weight, options = self.layer.weight().to(self.dtype), dict(self.options)
        if not self.backward:
            return lambda: pairwise_psi(weight, **options)
        weight.requires_grad_()
        grad = torch.ones(self.layer.filters * (self.layer.filters - 1) // 2, dtype=self.dtype)
        return lambda: torch.autograd.grad(pairwise_psi(weight, **options), weight, grad)


GENERAL = (("alpha", 0.5), ("beta", 2.0), ("gamma", 1.5))
CASES = [
    Case("forward", layer("512x512x3x3")),
    Case("alpha = 0", layer("512x512x3x3"), options=(("alpha", 0.0),)),
    Case("alpha = 1", layer("512x512x3x3"), options=(("alpha", 1.0),)),
    Case("signed", layer("512x512x3x3"), options=(("signed", True),)),
    Case("cosine", layer("512x512x3x3"), options=(("similarity", "cosine"),)),
    Case("float64", layer("256x256x3x3"), torch.float64),
    Case("eps = 0", layer("256x256x3x3"), options=(("eps", 0.0),)),
    Case("beta = 2, gamma = 1.5", layer("256x256x3x3"), options=GENERAL),
    Case("K = 25", layer("256x256x5x5")),
    Case("K = 49", layer("256x128x7x7")),
    Case("K = 121", layer("256x64x11x11")),
    Case("one small call", layer("32x64x3x3")),
    Case("forward", layer("128x128x3x3")),
    Case("forward, backward", layer("128x128x3x3"), backward=True),
    Case("forward", layer("256x256x3x3")),
    Case("forward, backward", layer("256x256x3x3"), backward=True),
]


def main() -> None:
    """Prints the instruction set in use and, for each case, its seconds in every round."""
    torch.set_num_threads(1)
    assert native.load_cpu(), native.cpu_failure()
    calls = [case.call() for case in CASES]
    repeats = [max(1, round(SHORTEST / max(min(_seconds(call, 1) for _ in range(3)), 1e-6))) for call in calls]
    seconds: list[list[float]] = [[] for _ in CASES]
    for _ in range(ROUNDS):
        for each, call, times in zip(seconds, calls, repeats, strict=True):
            each.append(_seconds(call, times))
    print(json.dumps({"capability": torch.ops.ckrm.cpu_capability(), "seconds": seconds}))


def _seconds(call: Callable[[], Any], repeats: int) -> float:
    start = time.process_time()
    for _ in range(repeats):
        call()
    return (time.process_time() - start) / repeats


if __name__ == "__main__":
    main()
