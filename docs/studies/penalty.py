"""What a penalty on redundancy does to a layer, and what it costs: `python docs/studies/penalty.py`.

A residual network is trained on scikit-learn's digits from three seeds: without a penalty, and with
weight * mean(max(0, Omega - 0.6)) of one 3x3 layer, at the absolute eps and scale-free. Writes penalty.csv beside this
file and prints its means.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import torch
from torch import Tensor, nn

from ckrm_kernels import pairwise_psi, redundancy
from ckrm_kernels.data import Batch, Dataset, digits
from ckrm_kernels.models import ResNetShape
from ckrm_kernels.models.network import cross_entropy
from ckrm_kernels.presentation.tables import csv_text
from ckrm_kernels.storage.files import write_atomically
from ckrm_kernels.training import TrainingConfig, evaluate, train

THRESHOLD, SEEDS, EPOCHS = 0.6, (0, 1, 2), 20
LAYER = "layer3.0.conv2"  # 128 filters of 128 slices
TIMED_STEPS = 60


@dataclass(frozen=True)
class Penalty:
    """How the loss is penalised; a weight of 0 is no penalty."""

    name: str
    weight: float
    scale_free: bool = False

    def loss(self, model: nn.Module, batch: Batch, class_weights: Tensor | None) -> Tensor:
        """Cross entropy and the penalty; in evaluation cross entropy alone."""
        loss = cross_entropy(model, batch, class_weights)
        if not self.weight or not model.training:
            return loss
        omega = pairwise_psi(model.get_submodule(LAYER), scale_free=self.scale_free)
        return loss + self.weight * (omega - THRESHOLD).clamp(min=0).mean()


PENALTIES = (
    Penalty("none", 0.0),
    Penalty("0.1, absolute", 0.1),
    Penalty("1, absolute", 1.0),
    Penalty("0.1, scale-free", 0.1, scale_free=True),
    Penalty("1, scale-free", 1.0, scale_free=True),
)


@dataclass(frozen=True)
class Row:
    """One trained network; rms: of the layer's weights, accuracy: on held-out images."""

    penalty: str
    seed: int
    redundancy: float
    scale_free: float
    rms: float
    accuracy: float


def main() -> None:
    """Trains, measures, and writes the file."""
    torch.set_num_threads(1)
    data = digits()
    rows = [trained(penalty, data, seed) for seed in SEEDS for penalty in PENALTIES]
    text = csv_text([each.name for each in fields(Row)], [astuple(row) for row in rows])
    write_atomically(Path(__file__).with_suffix(".csv"), text)
    print(as_table(rows, seconds_of_a_step(data)))


def trained(penalty: Penalty, data: Dataset, seed: int) -> Row:
    """A network trained with the penalty, measured."""
    torch.manual_seed(seed)
    network = ResNetShape().build()
    train(network, data, TrainingConfig(epochs=EPOCHS), seed, loss=penalty.loss)
    weight = network.get_submodule(LAYER).weight.detach()
    return Row(
        penalty.name,
        seed,
        redundancy(weight, THRESHOLD).item(),
        redundancy(weight, THRESHOLD, scale_free=True).item(),
        weight.square().mean().sqrt().item(),
        evaluate(network, data.held_out, data.classes).accuracy,
    )


def seconds_of_a_step(data: Dataset) -> dict[str, float]:
    """The median time of a training step with each penalty, in turns, on one thread."""
    batch = data.train.batch(torch.arange(TrainingConfig().batch_size))
    steps = {penalty.name: one_step(penalty, batch) for penalty in PENALTIES}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(TIMED_STEPS):
        for name, step in steps.items():
            start = time.process_time()
            step()
            seconds[name].append(time.process_time() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}


def one_step(penalty: Penalty, batch: Batch) -> Callable[[], None]:
    """A step of a network's training on the batch."""
    network = ResNetShape().build()
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)

    def step() -> None:
        optimizer.zero_grad()
        penalty.loss(network, batch, None).backward()
        optimizer.step()

    return step


def as_table(rows: Sequence[Row], seconds: dict[str, float]) -> str:
    """Means of the seeds, and the time of a step beside that without a penalty; as Markdown."""
    lines = [
        "| penalty | lambda | lambda, scale-free | weights' RMS | accuracy | time of a step |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for penalty in PENALTIES:
        own = [row for row in rows if row.penalty == penalty.name]
        means = {
            name: statistics.fmean(getattr(row, name) for row in own)
            for name in ("redundancy", "scale_free", "rms", "accuracy")
        }
        cells = [f"{means['redundancy']:.3f}", f"{means['scale_free']:.4f}", f"{means['rms']:.4f}"]
        cells += [f"{means['accuracy']:.3f}", f"{seconds[penalty.name] / seconds['none']:.2f}"]
        lines.append(f"| {penalty.name} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
