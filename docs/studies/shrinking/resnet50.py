"""What shrinking a ResNet-50 takes: seconds of a core, and memory, of its plan and of its fold.

    python docs/studies/shrinking/resnet50.py --size 224 --images 256

Weights and images are drawn, and the norms' statistics are those of drawn images, on one thread: what the fold takes
depends on how many filters leave which layer, and hardly on the values. Needs transformers.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import ResNetConfig, ResNetForImageClassification

from ckrm_kernels import plan_shrink


class Logits(nn.Module):
    """The classifier, which gives its logits alone."""

    def __init__(self) -> None:
        super().__init__()
        self.network = ResNetForImageClassification(ResNetConfig(num_labels=1000))

    def forward(self, images: Tensor) -> Tensor:
        """(N, 1000) of (N, 3, H, W)."""
        return self.network(images).logits


def network() -> nn.Module:
    """A ResNet-50 whose norms normalise."""
    made = Logits()
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # a cumulative average
    with torch.no_grad():
        made(torch.randn(8, 3, 112, 112))
    return made.eval()


def timed(what: str, call: Callable[[], Any]) -> Any:
    """What the call gives; prints what it takes."""
    core, clock = time.process_time(), time.perf_counter()
    result = call()
    core, clock = time.process_time() - core, time.perf_counter() - clock
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{what}: {core:.0f} s of a core, {clock:.0f} s on the clock, the process's peak so far {peak:.1f} GiB",
        flush=True,
    )
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--images", type=int, default=256)
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model, images = network(), torch.randn(given.images, 3, given.size, given.size)
    plan = timed("plan", lambda: plan_shrink(model, images[:2], calibration=images, parameters=0.5))
    print(plan.notes[0])
    small = timed("fold", plan.apply)
    before, after = (sum(parameter.numel() for parameter in each.parameters()) for each in (model, small))
    print(f"{after / before:.3f} of the parameters")
