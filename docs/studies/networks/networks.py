"""Networks of several kinds, trained alike: `python docs/studies/networks/networks.py COMPARISON`, see index.md.

COMPARISON is what `ckrm compare --json` wrote. Writes networks.csv, a row for each trained network, and networks.png
beside this file, and prints the tables of index.md. Without COMPARISON it goes by the networks.csv that is there.
"""

from __future__ import annotations

import csv
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ckrm_kernels.comparison.statistics import compare, mean_interval
from ckrm_kernels.comparison.tables import mean_and_deviation
from ckrm_kernels.comparison.verdict import p_value, with_interval
from ckrm_kernels.presentation.drawing import figure_file, new_figure, plain
from ckrm_kernels.presentation.tables import csv_text
from ckrm_kernels.presentation.theme import LIGHT
from ckrm_kernels.storage.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HERE = Path(__file__).parent
NAMES = {  # of the runs' folders
    "round-0": "ResNet, standard",
    "resnet": "ResNet, searched",
    "uniform": "ResNet, uniform, parameters",
    "uniform-macs": "ResNet, uniform, multiply-adds",
    "shrunk": "ResNet, shrunk",
    "tuned": "ResNet, shrunk and tuned",
    "vgnetc": "VGNetC",
    "vgnetg": "VGNetG",
    "vgnetf1": "VGNetF1",
    "vgnetf3": "VGNetF3",
}
_METRICS: tuple[Literal["accuracy", "auc"], ...] = ("accuracy", "auc")
_MARGIN = 0.01  # of `ckrm compare`
STANDARD, SEARCHED = NAMES["round-0"], NAMES["resnet"]


@dataclass(frozen=True)
class Row:
    """One trained network.

    parameters, multiply_adds, milliseconds: of its kind, the last of one image and of 64 on one thread
    redundancy, chance: lambda^0.6 of all pairs of its kind's measured layers at eps 1e-4, and of the same slices
        permuted; then both scale-free
    """

    network: str
    seed: int
    parameters: int
    multiply_adds: int
    accuracy: float
    auc: float
    redundancy: float
    chance: float
    scale_free_redundancy: float
    scale_free_chance: float
    milliseconds_of_1: float
    milliseconds_of_64: float


def rows_of(comparison: Mapping[str, Any]) -> list[Row]:
    """A row for each network and seed, in the order of `NAMES`."""
    found = {each["name"]: each for each in comparison["networks"]}
    times = {each["batch"]: each["seconds"] for each in comparison["latencies"] if each["device"].startswith("CPU")}
    return [
        Row(
            title,
            seed,
            found[name]["parameters"],
            found[name]["multiply_adds"],
            score["accuracy"],
            score["auc"],
            *(_of_all_pairs(found[name]["layers"], level) for level in _LEVELS),
            *(1000 * times[batch][name] for batch in (1, 64)),
        )
        for name, title in NAMES.items()
        for seed, score in enumerate(found[name]["scores"])
    ]


_LEVELS = (("configured", "mean"), ("configured", "chance"), ("scale_free", "mean"), ("scale_free", "chance"))


def _of_all_pairs(layers: Sequence[Mapping[str, Any]], level: tuple[str, str]) -> float:
    """The share of the pairs of all layers. level: the name of a level, and which of its numbers"""
    name, number = level
    of_layer = [each["levels"][name] for each in layers]
    shares = [each["chance"] if number == "chance" else statistics.fmean(each["per_model"]) for each in of_layer]
    pairs = [each["pairs"] for each in layers]
    return sum(count * share for count, share in zip(pairs, shares, strict=True)) / sum(pairs)


def by_network(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows of each network, in order."""
    names = dict.fromkeys(row.network for row in rows)
    return {name: [row for row in rows if row.network == name] for name in names}


def qualities(rows: Sequence[Row]) -> str:
    """Cost and quality, a line for each network."""
    lines = ["| network | parameters | multiply-adds | accuracy | macro AUC |", "|---|--:|--:|--:|--:|"]
    for name, seeds in by_network(rows).items():
        cost = f"{seeds[0].parameters:,} | {seeds[0].multiply_adds / 1e6:.2f} M"
        accuracy, auc = ([getattr(row, metric) for row in seeds] for metric in _METRICS)
        lines.append(f"| {name} | {cost} | {mean_and_deviation(accuracy)} | {mean_and_deviation(auc)} |")
    return "\n".join(lines)


def redundancies(rows: Sequence[Row]) -> str:
    """Redundancy and time, a line for each network."""
    lines = [
        "| network | lambda | chance | scale-free | chance | 1 image, ms | 64 images, ms |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for name, (row, *_) in by_network(rows).items():
        shares = (row.redundancy, row.chance, row.scale_free_redundancy, row.scale_free_chance)
        cells = [*(f"{share:.3f}" for share in shares), f"{row.milliseconds_of_1:.2f}", f"{row.milliseconds_of_64:.0f}"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def differences(rows: Sequence[Row], reference: str) -> str:
    """Accuracy and AUC of each network less those of another of the same seed."""
    networks = by_network(rows)
    lines = [f"| less {reference}, same seed | accuracy | p | AUC | p |", "|---|--:|--:|--:|--:|"]
    for name, seeds in networks.items():
        if name != reference:
            cells = [name]
            for metric in _METRICS:
                first, second = ([getattr(row, metric) for row in of] for of in (seeds, networks[reference]))
                found = compare(metric, (name, first), (reference, second), _MARGIN, paired=True)
                cells += [with_interval(found.difference, sign=True), p_value(found.difference_p)]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def drawn(rows: Sequence[Row]) -> Figure:
    """The accuracy of each network over its multiply-adds, a dot for each seed, a line for the mean's interval."""
    figure = new_figure(4.4, 7.4, layout="constrained")
    axes = figure.subplots()
    networks = by_network(rows)
    for place, (name, seeds) in enumerate(networks.items()):
        colour = LIGHT["searched" if name.startswith("ResNet") else "uniform"]
        values = [row.accuracy for row in seeds]
        interval = mean_interval(values)
        axes.plot([interval.low, interval.high], [place, place], color=colour, linewidth=2.2, alpha=0.45)
        axes.plot(values, [place] * len(values), "o", color=colour, markersize=3.2)
        axes.plot(interval.mean, place, "|", color=LIGHT["text"], markersize=11)
    labels = [f"{name}\n{of[0].parameters:,}, {of[0].multiply_adds / 1e6:.1f} M" for name, of in networks.items()]
    plain(axes)
    axes.set_yticks(range(len(networks)), labels, fontsize=8)
    axes.tick_params(axis="y", length=0)
    axes.invert_yaxis()
    axes.set_xlabel("accuracy on 10,000 held-out images", fontsize=9)
    axes.grid(axis="x", color=LIGHT["line"], linewidth=0.6)
    axes.set_axisbelow(True)
    return figure


def read_rows() -> list[Row]:
    """Those of networks.csv."""
    kinds = {"network": str, "seed": int, "parameters": int, "multiply_adds": int}
    with (HERE / "networks.csv").open(newline="") as file:
        return [
            Row(**{name: kinds.get(name, float)(value) for name, value in row.items()}) for row in csv.DictReader(file)
        ]


def main() -> None:
    """Writes and prints everything."""
    if len(sys.argv) > 1:
        rows = rows_of(json.loads(Path(sys.argv[1]).read_text()))
        text = csv_text([field.name for field in fields(Row)], [astuple(row) for row in rows])
        write_atomically(HERE / "networks.csv", text.encode())
    rows = read_rows()
    write_atomically(HERE / "networks.png", figure_file(drawn(rows), "png"))
    tables = (qualities(rows), redundancies(rows), differences(rows, STANDARD), differences(rows, SEARCHED))
    print(*tables, sep="\n\n")


if __name__ == "__main__":
    main()
