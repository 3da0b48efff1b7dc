"""The comparison after the search: its networks of all seeds, scored on held-out data and timed."""

from __future__ import annotations

from collections.abc import Sequence

from ckrm_kernels.comparison.candidates import Candidate, evaluate_candidate
from ckrm_kernels.comparison.latency import Latency, measure_latencies
from ckrm_kernels.distributed import team
from ckrm_kernels.presentation.numbers import counted
from ckrm_kernels.training.workers import Workers
from ckrm_kernels.width_search.compared import Compared
from ckrm_kernels.width_search.networks import Networks


def still_valid(candidates: Sequence[Candidate], compared: Sequence[Compared], seeds: int) -> list[Candidate]:
    """Of the networks evaluated, the first ones that are those to compare, trained from so many seeds.

    Other settings may have led to other networks since.
    """
    valid = []
    for candidate, wanted in zip(candidates, compared, strict=False):
        same = (candidate.name, candidate.widths) == (wanted.name, wanted.widths)
        if not same or len(candidate.scores) != seeds:
            break
        valid.append(candidate)
    return valid


def done_in_words(networks: Networks, compared: Sequence[Compared], valid: int) -> str:
    """How far the comparison is. valid: of the networks compared, how many are evaluated"""
    done = f"the search is done, and {valid} of {counted(len(compared), 'network')} to compare"
    if valid == len(compared):
        return done
    runs = compared[valid].runs(networks)
    finished = sum(run.finished() is not None for run in runs)
    return f"{done}; the {compared[valid].name} one from {finished} of {counted(len(runs), 'seed')}"


def make_and_evaluate(networks: Networks, workers: Workers, compared: Compared) -> Candidate:
    """One of the networks from all seeds, on the held-out part."""
    seeds = networks.config.final_seeds
    named = f"the {compared.name} network from {counted(seeds, 'seed')}"
    networks.display.phase(f"Comparison: {named}, {compared.in_words()}")
    compared.make(networks, workers)

    def evaluated() -> Candidate:
        models = [run.trained() for run in compared.runs(networks)]
        widths = dict(compared.widths)
        layers = networks.measure(models) if widths else ()
        return evaluate_candidate(compared.name, widths, models, layers, networks.data)

    return team().of_first(evaluated)


def time_networks(networks: Networks, compared: Sequence[Compared]) -> list[Latency]:
    """Times the networks, one of each, and keeps where they look, if they predict it."""
    networks.display.phase("Comparison: timing the networks")

    def timed() -> list[Latency]:
        models = {each.name: each.runs(networks)[0].trained() for each in compared}
        networks.keep_saliency_examples(models)
        return measure_latencies(models, networks.data.image_shape)

    return team().of_first(timed)
