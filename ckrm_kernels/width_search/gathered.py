"""From a finished experiment to its findings."""

from __future__ import annotations

from ckrm_kernels.comparison.candidates import compare_candidates
from ckrm_kernels.training.run_files import load_tensors
from ckrm_kernels.width_search.conclusions import conclusions
from ckrm_kernels.width_search.experiment import Experiment
from ckrm_kernels.width_search.findings import Findings


def gather_findings(experiment: Experiment) -> Findings:
    """What the finished experiment found."""
    config, data, state, outcome = experiment.config, experiment.data, experiment.state, experiment.outcome
    candidates, held_out = tuple(state.candidates), data.held_out
    comparisons = compare_candidates(candidates, config.margin)
    most_frequent = held_out.labels.bincount().max().item() / len(held_out)
    weights = {
        each.name: load_tensors(experiment.networks.jobs(each.folder, each.shape)[0].folder)
        for each in experiment.compared
    }
    return Findings(
        data=data.name,
        images=len(held_out),
        threshold=config.threshold,
        psi=config.psi,
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
        conclusions=tuple(
            conclusions(state.rounds, outcome, candidates, comparisons, config.target, config.psi, most_frequent)
        ),
    )
