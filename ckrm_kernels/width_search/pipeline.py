"""The whole of it: search for widths, compare, and write what was found. `ckrm search`."""

from __future__ import annotations

import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

import ckrm_kernels
from ckrm_kernels.comparison import tables
from ckrm_kernels.distributed import joined
from ckrm_kernels.storage.files import write_atomically, write_json
from ckrm_kernels.storage.lock import locked
from ckrm_kernels.storage.settings import as_json
from ckrm_kernels.training import Runtime
from ckrm_kernels.training.progress import Display
from ckrm_kernels.training.workers import processes_for
from ckrm_kernels.width_search.config import WidthSearchConfig
from ckrm_kernels.width_search.experiment import Experiment, config_of
from ckrm_kernels.width_search.findings import Findings
from ckrm_kernels.width_search.report import write_report
from ckrm_kernels.width_search.tables import changes_in_words, rounds_table


def search_widths(
    folder: str | Path,
    config: WidthSearchConfig,
    *,
    runtime: Runtime = Runtime(),  # noqa: B008
    processes: int | None = None,
    console: Any = None,
) -> Findings:
    """Searches for widths, compares the network found, and writes report.html and what is in it into the folder.

    folder: the run's; one that holds an unfinished run of the same configuration goes on from there, a finished one
        is only reported again
    processes: networks trained side by side, by default as many as there are cores; one on a GPU. Under torchrun each
        of its processes trains its share of the networks. The result does not depend on it.
    console: a rich console, by default one on standard output
    Raises ValueError where the folder holds a run of another configuration, or another process works in it.
    """
    folder = Path(folder)
    with joined() as team, locked(folder):
        processes = processes_for(config.final_seeds, processes, runtime)
        experiment = Experiment(folder, config, runtime, Display(console))
        experiment.run(processes)
        findings = experiment.findings()
        if team.is_first:
            _write(experiment, findings)
    return findings


def report(folder: str | Path, console: Any = None) -> Findings:
    """Writes the files of a finished experiment again.

    Raises ValueError where it is not finished, or another process works in the folder.
    """
    folder = Path(folder)
    config = config_of(folder)
    with locked(folder):
        experiment = Experiment(folder, config, Runtime(), Display(console))
        if not experiment.finished:
            raise ValueError(
                f"the experiment in {folder} is not finished; `ckrm search --resume {folder}` goes on with it"
            )
        findings = experiment.findings()
        _write(experiment, findings)
    return findings


def _write(experiment: Experiment, findings: Findings) -> None:
    """Writes the finished experiment's files, then shows it: the reader of the output may be gone."""
    folder, config = experiment.folder, experiment.config
    drawn = [
        *(tables.layers_of(each, config.threshold) for each in findings.candidates),
        rounds_table(findings.rounds),
    ]
    changes = [
        f"round {place}, {line}" for place, done in enumerate(findings.rounds) for line in changes_in_words(done)
    ]
    write_atomically(
        folder / "report.txt",
        tables.as_text([*findings.conclusions, tables.compared(findings.candidates, ()), *drawn, "\n".join(changes)]),
    )
    write_json(folder / "report.json", _as_json(experiment, findings))
    write_report(findings, folder)
    for table in (tables.compared(findings.candidates, findings.latencies), *drawn):
        experiment.display.show(table)
    for sentence in findings.conclusions:
        experiment.display.say(sentence)
    experiment.display.say(f"written to {folder}: report.html, report.txt, report.json, figures, tables")


def _as_json(experiment: Experiment, findings: Findings) -> dict[str, Any]:
    """Everything measured, as JSON; only `seconds` differs from one run to the next."""
    data = experiment.data
    return {
        "conclusions": list(findings.conclusions),
        "config": as_json(experiment.config),
        "data": {
            "name": data.name,
            "identity": data.identity,
            "train": len(data.train),
            "validation": len(data.validation),
            "held_out": len(data.held_out),
            "skipped": [list(each) for each in data.skipped],
        },
        "search": {**asdict(findings.outcome), "rounds": [asdict(each) for each in findings.rounds]},
        "networks": [asdict(each) for each in findings.candidates],
        "comparisons": [asdict(each) for each in findings.comparisons],
        "versions": {
            "ckrm_kernels": ckrm_kernels.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "machine": platform.machine(),
        },
        "seconds": {
            "training": experiment.seconds,
            "forward": [asdict(each) for each in findings.latencies],
        },
    }
