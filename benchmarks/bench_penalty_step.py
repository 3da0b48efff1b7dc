"""A training step of a ResNet18 at batch 64 and 32x32, with RedundancyLoss and without, in turns.

`python benchmarks/bench_penalty_step.py` prints the CPU time of a step, of one thread, which a busy machine leaves as
it is; as a benchmark it takes the wall clock's.
"""

import statistics
import time

import pytest
import race
import torch
from torch import nn

from ckrm_kernels import RedundancyLoss, native
from ckrm_kernels.models import ResNetShape

SHAPE = ResNetShape(
    stem=64, inner=tuple((width,) * 2 for width in (64, 128, 256, 512)), out=(64, 128, 256, 512), in_channels=3
)
WAYS = {
    "without": None,
    "apart": {},
    "4,096 pairs of a layer": {"pairs_per_step": 4096},
    "together": {"toward": "together", "example_inputs": torch.zeros(2, 3, 32, 32)},
}
RACES = {}


def step_of(options):
    """A training step."""
    torch.manual_seed(0)
    network = SHAPE.build().train()
    images, labels = torch.randn(64, 3, 32, 32), torch.arange(64) % 10
    penalty = None if options is None else RedundancyLoss(network, **options)
    optimizer = torch.optim.SGD(network.parameters(), 1e-3)

    def step():
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(network(images), labels)
        (loss if penalty is None else loss + 0.1 * penalty()).backward()
        optimizer.step()

    return step


@pytest.mark.parametrize("way", WAYS)
def test_penalty_step(report_times, way):
    assert native.load_cpu(), native.cpu_failure()
    if not RACES:
        RACES.update({name: race.enter({"": step_of(options)}, lambda _: None) for name, options in WAYS.items()})
        race.run(list(RACES.values()))
    report_times("a training step", "ResNet18, batch 64", way, RACES[way].seconds, form="", slice_pairs=0)


def main():
    """Three steps of each, in turns."""
    torch.set_num_threads(1)
    steps = {name: step_of(options) for name, options in WAYS.items()}
    seconds = {name: [] for name in steps}
    for turn in range(4):
        for name, step in steps.items():
            start = time.process_time()
            step()
            if turn:  # the first warms up
                seconds[name].append(time.process_time() - start)
    for name, times in seconds.items():
        print(f"{name}: {statistics.median(times):.2f} s")


if __name__ == "__main__":
    main()
