"""How the redundancy of a layer depends on eps, on its width and on training: `python docs/studies/epsilon.py`.

Residual networks in which every layer has the same width are trained on scikit-learn's digits, from three seeds, with
and without weight decay. lambda^0.6 of one of their 3x3 layers, and its chance level, are measured for eps from 1e-8 to
1e-2 and scale-free, at initialisation and after training. Writes epsilon.csv and epsilon.png beside this file; trained
networks are kept in runs/epsilon, so that it goes on where it was interrupted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from ckrm_kernels import chance_redundancy, redundancy
from ckrm_kernels.data import digits
from ckrm_kernels.models import ResNetShape
from ckrm_kernels.presentation.drawing import new_figure, png_file
from ckrm_kernels.presentation.tables import csv_text
from ckrm_kernels.presentation.theme import LIGHT
from ckrm_kernels.storage.files import write_atomically
from ckrm_kernels.training import TrainingConfig
from ckrm_kernels.training.progress import Display
from ckrm_kernels.training.workers import Job, Workers, cores

HERE = Path(__file__).parent
RUNS = Path("runs/epsilon")
THRESHOLD, SEEDS, WIDTHS = 0.6, (0, 1, 2), (16, 32, 64, 128)
WIDTHS_AT_START = (*WIDTHS, 256, 512)
LAYER = "layer3.0.conv2"  # of as many slices as filters
EPS = tuple(10 ** (exponent / 6) for exponent in range(-48, -11))
SCALE_FREE_EPS = 1e-4
DECAYS = {"trained without weight decay": 0.0, "trained with weight decay 0.01": 1e-2}
START = "at initialisation"


@dataclass(frozen=True)
class Row:
    """One measurement. eps is 0 for the scale-free one; mean_square: of the layer's weights."""

    state: str
    width: int
    seed: int
    mean_square: float
    eps: float
    redundancy: float
    chance: float


def main() -> None:
    """Measures, and writes the files."""
    rows = [*at_start(), *after_training()]
    text = csv_text([each.name for each in fields(Row)], [[_short(value) for value in astuple(row)] for row in rows])
    write_atomically(HERE / "epsilon.csv", text)
    write_atomically(HERE / "epsilon.png", png_file(drawn(rows), 150))
    print(as_table(rows))


def at_start() -> Iterator[Row]:
    """3x3 layers of as many slices as filters, as torch initialises them."""
    for width in WIDTHS_AT_START:
        for seed in SEEDS:
            torch.manual_seed(seed)
            yield from measured(START, width, seed, torch.nn.Conv2d(width, width, 3).weight.detach())


def after_training() -> Iterator[Row]:
    """The same layers within networks trained on the digits."""
    jobs = [job(decay, width, seed) for decay in DECAYS.values() for width in WIDTHS for seed in SEEDS]
    names = [f"width {each.network.stem}, decay {each.config.weight_decay:g}, seed {each.seed}" for each in jobs]
    with Workers(cores()) as workers, Display().bars(names, jobs[0].config.epochs) as bars:
        workers.run(jobs, bars.on_event)
    states = {decay: state for state, decay in DECAYS.items()}
    for each in jobs:
        weight = each.trained().get_submodule(LAYER).weight.detach()
        yield from measured(states[each.config.weight_decay], each.network.stem, each.seed, weight)


def job(decay: float, width: int, seed: int) -> Job:
    """The training of a network whose layers all have the same width."""
    shape = ResNetShape(stem=width, inner=((width,),) * 3, out=(width,) * 3)
    config = TrainingConfig(weight_decay=decay)
    folder = RUNS / f"width-{width}-decay-{decay:g}-seed-{seed}"
    return Job(shape, partial(digits, 0), digits().identity, config, seed, folder)


def measured(state: str, width: int, seed: int, weight: Tensor) -> Iterator[Row]:
    """The layer at every eps, and scale-free."""
    ways: list[tuple[float, dict[str, Any]]] = [(eps, {"eps": eps}) for eps in EPS]
    for eps, options in [*ways, (0.0, {"eps": SCALE_FREE_EPS, "scale_free": True})]:
        generator = torch.Generator().manual_seed(seed)
        value = redundancy(weight, THRESHOLD, **options).item()
        chance = chance_redundancy(weight, THRESHOLD, generator=generator, **options).item()
        yield Row(state, width, seed, weight.square().mean().item(), eps, value, chance)


def drawn(rows: Sequence[Row]) -> Figure:
    """Against eps on the left, against eps over the mean square of the layer's weights on the right."""
    states = [START, *DECAYS]
    figure = new_figure(2.6 * len(states) + 0.6, 9.2, layout="constrained")
    grid = figure.subplots(len(states), 2, sharey=True, sharex="col", squeeze=False)
    widths = sorted({row.width for row in rows})
    shades = {width: (place + 1.5) / (len(widths) + 1.5) for place, width in enumerate(widths)}
    from matplotlib import colormaps

    for line, state in zip(grid, states, strict=True):
        for row in {(row.width, row.seed): row for row in rows if row.state == state}.values():
            own = [each for each in rows if (each.state, each.width, each.seed) == (state, row.width, row.seed)]
            curve = sorted((each for each in own if each.eps), key=lambda each: each.eps)
            colour = colormaps["viridis_r"](shades[row.width])
            for axes, unit in zip(line, (1.0, row.mean_square), strict=True):
                x = [each.eps / unit for each in curve]
                label = f"{row.width} filters" if row.seed == SEEDS[0] else None
                axes.plot(x, [each.redundancy for each in curve], color=colour, linewidth=1.3, label=label)
                axes.plot(x, [each.chance for each in curve], color=colour, linewidth=1, linestyle=(0, (1, 2)))
        line[0].set_ylabel(rf"$\lambda^{{{THRESHOLD:g}}}$")
        line[0].set_title(f"A 3x3 layer {state}", loc="left", fontsize=10)
        line[0].axvline(1e-4, color=LIGHT["line"], linewidth=0.8, zorder=0)
        line[0].legend(fontsize=7.5, frameon=False)
    for axes, name in zip(grid[-1], ("eps", "eps / mean square of the layer's weights"), strict=True):
        axes.set_xlabel(name)
    for axes in grid.flat:
        axes.set_xscale("log")
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle("One line a seed; dotted: the chance level, with the positions in every slice permuted", fontsize=9)
    return figure


def as_table(rows: Sequence[Row]) -> str:
    """lambda, mean of the seeds, by state and width, at some eps; as Markdown."""
    columns = [1e-8, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.0]
    names = [*(f"{eps:.0e}" for eps in columns[:-1]), "scale-free"]
    lines = [f"| layer | filters | weights' RMS | {' | '.join(names)} |", f"|---|--:|--:|{'--:|' * len(names)}"]
    for state in (START, *DECAYS):
        for width in sorted({row.width for row in rows if row.state == state}):
            own = [row for row in rows if (row.state, row.width) == (state, width)]
            scale = (sum(row.mean_square for row in own) / len(own)) ** 0.5
            cells = []
            for eps in columns:
                here = [row for row in own if abs(row.eps - eps) <= 1e-6 * eps]
                value, chance = (
                    sum(getattr(row, what) for row in here) / len(here) for what in ("redundancy", "chance")
                )
                cells.append(f"{value:.2f} ({chance:.2f})")
            lines.append(f"| {state} | {width} | {scale:.4f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _short(value: object) -> object:
    return f"{value:.6g}" if isinstance(value, float) else value


if __name__ == "__main__":
    main()
