"""The whole of it: search for widths, compare, and write what was found. `ckrm search`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ckrm_kernels.comparison.candidates import compare_candidates
from ckrm_kernels.distributed import joined
from ckrm_kernels.extras import check_installed
from ckrm_kernels.storage.files import write_json
from ckrm_kernels.storage.lock import locked
from ckrm_kernels.storage.run_folders import NETWORKS
from ckrm_kernels.training import Runtime
from ckrm_kernels.training.progress import Display
from ckrm_kernels.training.run_files import load_tensors
from ckrm_kernels.training.runs import NEEDED, how_to_load
from ckrm_kernels.training.workers import processes_for
from ckrm_kernels.width_search.advice import advice
from ckrm_kernels.width_search.conclusions import conclusions
from ckrm_kernels.width_search.config import WidthSearchConfig
from ckrm_kernels.width_search.experiment import Experiment
from ckrm_kernels.width_search.findings import Findings
from ckrm_kernels.width_search.outputs import write_outputs
from ckrm_kernels.width_search.provenance import data_name, in_brief, network_name, provenance
from ckrm_kernels.width_search.state import config_of


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
    curves = ["tensorboard"] if runtime.tensorboard else []
    check_installed("a search for widths", *NEEDED, "scipy", "matplotlib", *curves)
    folder = Path(folder)
    with joined() as team, locked(folder):
        processes = processes_for(config.final_seeds, processes, runtime)
        experiment = Experiment(folder, config, runtime, Display(console, folder / "log.txt"))
        experiment.run(processes)
        findings = gather_findings(experiment)
        if team.is_first:
            _write(experiment, findings)
    return findings


def report(folder: str | Path, console: Any = None) -> Findings:
    """Writes the files of a finished experiment again; its data is not needed.

    Raises ValueError where it is not finished, or another process works in the folder.
    """
    folder = Path(folder)
    config_of(folder)
    with locked(folder):
        experiment = Experiment.stored(folder, Display(console))
        if not experiment.finished:
            raise ValueError(
                f"the experiment in {folder} is not finished; `ckrm search --resume {folder}` goes on with it"
            )
        findings = gather_findings(experiment)
        _write(experiment, findings)
    return findings


def _write(experiment: Experiment, findings: Findings) -> None:
    folder, display = experiment.folder, experiment.display
    write_json(folder / NETWORKS, dict(findings.folders))
    write_outputs(experiment, findings)
    for name, runs in findings.folders.items():
        display.print_line(f"the {name} networks: {folder / runs}")
    display.print_line(how_to_load(folder))


def gather_findings(experiment: Experiment) -> Findings:
    """What the finished experiment found."""
    config, data, state, outcome = experiment.config, experiment.summary, experiment.state, experiment.outcome
    candidates = tuple(state.candidates)
    comparisons = compare_candidates(candidates, config.margin)
    weights = {
        each.name: load_tensors(each.runs(experiment.networks)[0].folder) for each in experiment.compared if each.widths
    }
    seconds = experiment.networks.seconds_of_runs
    return Findings(
        network=network_name(config.network),
        data=data_name(config.data),
        images=data.held_out,
        threshold=config.threshold,
        similarity=config.similarity,
        target=config.target,
        rounds=tuple(state.rounds),
        outcome=outcome,
        candidates=candidates,
        comparisons=comparisons,
        latencies=tuple(state.latencies),
        weights={
            each.name: {layer.name: weights[each.name][f"{layer.name}.weight"] for layer in each.layers}
            for each in candidates
        },
        conclusions=(
            *conclusions(
                state.rounds, outcome, candidates, comparisons, config.target, config.similarity, data.most_frequent
            ),
            *data.missing_classes,
        ),
        advice=tuple(advice(experiment.search, state.rounds, outcome)),
        brief=in_brief(config, data),
        provenance=provenance(config, data, state.sessions, len(seconds), sum(seconds)),
        folders=experiment.folders,
        classes=data.classes,
        saliency=experiment.networks.saliency_examples(),
    )
