"""What a finished experiment leaves in its folder, and shows."""

from __future__ import annotations

import platform
from dataclasses import asdict
from typing import Any

import torch

from ckrm_kernels.comparison import tables
from ckrm_kernels.storage.files import write_atomically, write_json
from ckrm_kernels.storage.settings import as_json
from ckrm_kernels.version import __version__
from ckrm_kernels.width_search.experiment import Experiment
from ckrm_kernels.width_search.findings import Findings
from ckrm_kernels.width_search.report import write_report
from ckrm_kernels.width_search.tables import changes_in_words, never_trained, rounds_table


def write_outputs(experiment: Experiment, findings: Findings) -> None:
    """Writes the finished experiment's files, then shows it: the reader of the output may be gone."""
    folder, display = experiment.folder, experiment.display
    drawn = [
        *(
            tables.layers_of(each, findings.threshold, findings.similarity)
            for each in findings.candidates
            if each.layers
        ),
        rounds_table(findings.rounds, findings.similarity),
    ]
    write_atomically(
        folder / "report.txt",
        tables.as_text(
            [
                *findings.conclusions,
                *findings.advice,
                tables.compared(findings.candidates, ()),
                *drawn,
                "\n".join(_changes(findings)),
            ]
        ),
    )
    write_json(folder / "report.json", _as_json(experiment, findings))
    write_report(findings, folder)
    for table in (tables.compared(findings.candidates, findings.latencies), *drawn):
        display.show(table)
    for sentence in (*findings.conclusions, *findings.advice):
        display.print_line(sentence)
    display.print_line(f"written to {folder}: report.html, report.txt, report.json, figures, tables")


def _changes(findings: Findings) -> list[str]:
    """The changes that the rule asked for after each round, and which of them were never trained."""
    lines = []
    for place, done in enumerate(findings.rounds):
        if done is findings.rounds[-1] and done.changed:
            lines.append(f"round {place}, {never_trained(findings.outcome)}:")
        lines += [f"round {place}, {line}" for line in changes_in_words(done)]
    return lines


def _as_json(experiment: Experiment, findings: Findings) -> dict[str, Any]:
    """Everything measured, as JSON; only `seconds` differs from one run to the next."""
    data = experiment.summary
    return {
        "conclusions": list(findings.conclusions),
        "advice": list(findings.advice),
        "config": as_json(experiment.config),
        "data": {
            "name": data.name,
            "identity": data.identity,
            "train": data.train,
            "validation": data.validation,
            "held_out": data.held_out,
            "image_shape": list(data.image_shape),
            "classes": list(data.classes),
            "skipped": [list(each) for each in data.skipped],
        },
        "search": {**asdict(findings.outcome), "rounds": [asdict(each) for each in findings.rounds]},
        "networks": [asdict(each) for each in findings.candidates],
        "comparisons": [asdict(each) for each in findings.comparisons],
        "versions": {
            "ckrm_kernels": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "machine": platform.machine(),
        },
        "seconds": {
            "training": experiment.networks.seconds,
            "forward": [asdict(each) for each in findings.latencies],
        },
    }
