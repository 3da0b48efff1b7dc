"""What a penalty on redundancy does: `python docs/studies/penalty.py`.

Residual networks are trained on scikit-learn's digits and on 2,160 images of Fashion-MNIST, from three seeds: plainly,
with weight decay, and with `RedundancyLoss` in each direction besides. Then each is shrunk three times, without
training: as far as an error of 1 % in each layer allows, to a sixth of its parameters, and to half of them by merging
alike filters without any data.
Writes penalty.csv and penalty.png beside this file and prints the means. What penalty.csv holds already is not trained
again: an interrupted study goes on.
"""

from __future__ import annotations

import csv
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional

from ckrm_kernels import RedundancyLoss, measure, plan_shrink
from ckrm_kernels.data import Batch, Dataset, Part, digits
from ckrm_kernels.data.fashion import fashion_mnist
from ckrm_kernels.data.fraction import with_fraction
from ckrm_kernels.models import ResNetShape
from ckrm_kernels.models.network import cross_entropy
from ckrm_kernels.presentation.drawing import new_figure, png_file
from ckrm_kernels.presentation.tables import csv_text
from ckrm_kernels.presentation.theme import LIGHT
from ckrm_kernels.storage.files import write_atomically
from ckrm_kernels.training import TrainingConfig, evaluate, train

FILE = Path(__file__).with_suffix(".csv")
SEEDS, THRESHOLD, TOLERANCE, CALIBRATION = (0, 1, 2), 0.6, 0.01, 256
SHAPE = ResNetShape(stem=16, inner=((16,), (32,), (64,)), out=(16, 32, 64))


def some_clothes() -> Dataset:
    """4 % of Fashion-MNIST's training images, the first 300 to validate on and the first 2,000 held out, in 14x14."""
    data = with_fraction(fashion_mnist(), 0.04, 0)
    few = {"validation": data.validation.rows(torch.arange(300)), "held_out": data.held_out.rows(torch.arange(2000))}
    return replace(data, train=halved(data.train), **{name: halved(part) for name, part in few.items()})


def halved(part: Part) -> Part:
    """The images at half their size, as means of four pixels."""
    return replace(part, images=functional.avg_pool2d(part.images.float(), 2).round().to(torch.uint8))


DATA: dict[str, tuple[Callable[[], Dataset], int]] = {"digits": (digits, 20), "fashion-mnist": (some_clothes, 8)}
"""With the epochs."""


@dataclass(frozen=True)
class Way:
    """How a network is trained; weight: of the penalty, 0 for none; options: of `RedundancyLoss`."""

    name: str
    decay: float = 1e-2
    weight: float = 0.0
    options: dict[str, Any] = field(default_factory=dict)

    def loss_of(self, network: nn.Module, images: Tensor) -> Callable[[nn.Module, Batch, Tensor | None], Tensor]:
        """Cross entropy and the penalty; in evaluation cross entropy alone. images: two, to trace with"""
        if not self.weight:
            return cross_entropy
        inputs = {"example_inputs": images} if self.options.get("toward") == "together" else {}
        penalty = RedundancyLoss(network, **self.options, **inputs)

        def loss(model: nn.Module, batch: Batch, class_weights: Tensor | None) -> Tensor:
            entropy = cross_entropy(model, batch, class_weights)
            return entropy + self.weight * penalty() if model.training else entropy

        return loss


WAYS = (
    Way("nothing", decay=0.0),
    Way("weight decay"),
    Way("apart, t = 0.6", weight=1.0),
    Way("apart, chance, scale-free", weight=1.0, options={"threshold": "chance", "scale_free": True}),
    Way("together", weight=0.5, options={"toward": "together"}),
)


@dataclass(frozen=True)
class Row:
    """One trained network, its accuracy on held-out images.

    redundancy, scale_free: the mean of lambda^0.6 over the layers; alike: the share of pairs of signed scale-free Psi
        above 0.95; size: the share of parameters left within the tolerance, shrunk: the accuracy then; sixth: with a
        sixth of the parameters; merged: with half of the parameters, filters merged without data
    """

    data: str
    way: str
    seed: int
    redundancy: float
    scale_free: float
    alike: float
    accuracy: float
    size: float
    shrunk: float
    sixth: float
    merged: float


MEASURES = tuple(each.name for each in fields(Row))[3:]


def main() -> None:
    """Trains what is missing, and writes the files."""
    torch.set_num_threads(1)
    rows = kept()
    for name, (load, epochs) in DATA.items():
        data = load()
        for seed in SEEDS:
            for way in WAYS:
                if any((row.data, row.way, row.seed) == (name, way.name, seed) for row in rows):
                    continue
                rows.append(trained(name, data, epochs, way, seed))
                write_atomically(FILE, csv_text([each.name for each in fields(Row)], [astuple(row) for row in rows]))
                print(rows[-1], flush=True)
    write_atomically(FILE.with_suffix(".png"), png_file(drawn(rows), 150))
    print(as_table(rows))


def kept() -> list[Row]:
    """The rows of the file, if there is one."""
    if not FILE.exists():
        return []
    with FILE.open(newline="", encoding="utf-8") as file:
        return [
            Row(line["data"], line["way"], int(line["seed"]), *(float(line[name]) for name in MEASURES))
            for line in csv.DictReader(file)
        ]


def trained(name: str, data: Dataset, epochs: int, way: Way, seed: int) -> Row:
    """A network trained in that way, measured and shrunk."""
    torch.manual_seed(seed)
    network = SHAPE.build()
    images = data.train.batch(torch.arange(CALIBRATION)).images
    loss = way.loss_of(network, images[:2])
    train(network, data, TrainingConfig(epochs=epochs, weight_decay=way.decay), seed, loss=loss)
    accuracy = partial(evaluate, part=data.held_out, classes=data.classes)
    small = plan_shrink(network, images[:2], calibration=images, tolerance=TOLERANCE)
    sixth = plan_shrink(network, images[:2], calibration=images, parameters=1 / 6)
    merged = plan_shrink(network, images[:2], parameters=0.5)
    return Row(
        name,
        way.name,
        seed,
        mean_of_layers(network, THRESHOLD),
        mean_of_layers(network, THRESHOLD, scale_free=True),
        mean_of_layers(network, 0.95, scale_free=True, signed=True),
        accuracy(network).accuracy,
        small.after.parameters / small.before.parameters,
        accuracy(small.apply()).accuracy,
        accuracy(sixth.apply()).accuracy,
        accuracy(merged.apply()).accuracy,
    )


def mean_of_layers(network: nn.Module, threshold: float, **options: bool) -> float:
    """The mean redundancy of the measured layers."""
    report = measure(network, threshold, details=False, **options)
    return statistics.fmean(layer.redundancy for layer in report.measured)


def means(rows: Sequence[Row], data: str) -> Iterator[tuple[Way, dict[str, float]]]:
    """Of the seeds of each way."""
    for way in WAYS:
        own = [row for row in rows if (row.data, row.way) == (data, way.name)]
        yield way, {name: statistics.fmean(getattr(row, name) for row in own) for name in MEASURES}


def as_table(rows: Sequence[Row]) -> str:
    """Means of the seeds; as Markdown."""
    lines = []
    for data in DATA:
        names = ("lambda", "scale-free", "alike", "accuracy", "size found", "accuracy there", "a sixth", "half, merged")
        lines += [f"| {data} | {' | '.join(names)} |", f"|---|{'--:|' * len(names)}"]
        for way, mean in means(rows, data):
            cells = [f"{mean[name]:.3f}" for name in MEASURES]
            lines.append(f"| {way.name} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def drawn(rows: Sequence[Row]) -> Figure:
    """Accuracy by the share of parameters left, a mark a seed; what lies far below the others stands at the foot."""
    figure = new_figure(4.0, 9.2, layout="constrained")
    colours = [LIGHT[name] for name in ("soft", "standard", "searched", "narrower", "redundant")]
    for axes, data in zip(figure.subplots(1, len(DATA)), DATA, strict=True):
        foot = min(row.shrunk for row in rows if row.data == data) - 0.03
        for place, (way, colour) in enumerate(zip(WAYS, colours, strict=True)):
            own = [row for row in rows if (row.data, row.way) == (data, way.name)]
            aside = 0.012 * (place - 2)
            for marker, points in {
                "o": [(1 + aside, row.accuracy) for row in own],
                "^": [(row.size, row.shrunk) for row in own],
                "s": [(1 / 6 + aside, row.sixth) for row in own],
                "x": [(0.5 + aside, row.merged) for row in own],
            }.items():
                x, y = zip(*((at, max(value, foot)) for at, value in points), strict=True)
                axes.scatter(x, y, color=colour, s=20, marker=marker, label=way.name if marker == "o" else None)
        axes.set_title(data, loc="left", fontsize=10)
        axes.set_xlabel("share of the parameters left")
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("accuracy on held-out images")
    figure.axes[0].legend(fontsize=7.5, frameon=False, loc="lower right")
    named = "dots: as trained; triangles: within an error of 1 %; squares: a sixth; crosses: half, merged without data"
    figure.suptitle(named, fontsize=9)
    return figure


if __name__ == "__main__":
    main()
