"""The main job: a network that is too wide, trained on digits, shrunk by its redundancy, and compared."""

from __future__ import annotations

import platform
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

import ckrm_kernels
from ckrm_kernels.data import digits
from ckrm_kernels.shrinking import tables
from ckrm_kernels.shrinking.conclusions import conclusions
from ckrm_kernels.shrinking.experiment import Experiment, ExperimentConfig
from ckrm_kernels.shrinking.figure import comparison_figure, figure_png
from ckrm_kernels.training.files import write_atomically, write_json
from ckrm_kernels.training.progress import Display


def run_demo(
    output: Path = Path("runs/demo"),
    *,
    config: ExperimentConfig | None = None,
    processes: int | None = None,
    console: Any = None,
) -> Path:
    """Runs the experiment on scikit-learn's digits, or goes on with it, and writes what it shows.

    output: the run's folder; one that holds an unfinished run of the same configuration goes on from there, a
        finished one is only shown again
    config: what to run, by default a residual network of up to 128 filters a layer, from three seeds
    processes: networks trained side by side, by default one a seed as far as there are cores
    console: a rich console, by default one on standard output
    out: the folder, which then holds table.txt, report.json and figure.png
    Raises ValueError where the folder holds a run of another configuration.
    """
    config = config or ExperimentConfig()
    display = Display(console)
    experiment = Experiment(Path(output), config, partial(digits, config.split_seed), display)
    experiment.run(processes)
    _write(experiment)
    return experiment.folder


def _write(experiment: Experiment) -> None:
    """Shows the finished experiment and writes its files."""
    folder, config, rounds = experiment.folder, experiment.config, experiment.state.rounds
    candidates, outcome = experiment.state.candidates, experiment.outcome
    sentences = conclusions(rounds, outcome, candidates, config.target, len(experiment.data.held_out))
    drawn = [
        tables.compared(candidates),
        *(tables.layers_of(each, config.threshold) for each in candidates),
        tables.path(rounds),
    ]
    for table in drawn:
        experiment.display.show(table)
    for sentence in sentences:
        experiment.display.say(sentence)
    changes = [f"round {place}, {line}" for place, done in enumerate(rounds) for line in tables.told(done)]
    write_atomically(folder / "table.txt", tables.as_text([*sentences, *drawn, "\n".join(changes)]))
    write_json(folder / "report.json", _report(experiment, sentences))
    left_to_right = candidates[1::-1]
    write_atomically(
        folder / "figure.png", figure_png(comparison_figure(left_to_right, config.threshold, config.target))
    )
    experiment.display.say(f"written to {folder}: table.txt, report.json, figure.png")


def _report(experiment: Experiment, sentences: list[str]) -> dict[str, Any]:
    """Everything measured, as JSON; only `seconds` differs from one run to the next."""
    outcome, state = experiment.outcome, experiment.state
    return {
        "conclusions": sentences,
        "config": experiment.config.as_json(),
        "data": {
            "name": experiment.data.name,
            "train": len(experiment.data.train),
            "validation": len(experiment.data.validation),
            "held_out": len(experiment.data.held_out),
        },
        "search": {**asdict(outcome), "rounds": [asdict(each) for each in state.rounds]},
        "networks": [asdict(each) for each in state.candidates],
        "versions": {
            "ckrm_kernels": ckrm_kernels.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "machine": platform.machine(),
        },
        "seconds": {"training": experiment.seconds},
    }
