"""The comparison after the search: which networks, trained from all seeds, scored on held-out data and timed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ckrm_kernels.comparison.candidates import Candidate, evaluate_candidate
from ckrm_kernels.comparison.latency import Latency, measure_latencies
from ckrm_kernels.comparison.tables import listed
from ckrm_kernels.distributed import team
from ckrm_kernels.models import Network
from ckrm_kernels.presentation.numbers import counted
from ckrm_kernels.training.workers import Workers, finished_places
from ckrm_kernels.width_search.narrowing import narrowed_alike, parameters_of
from ckrm_kernels.width_search.networks import Networks
from ckrm_kernels.width_search.rounds import round_folder
from ckrm_kernels.width_search.search import Outcome, Round


@dataclass(frozen=True)
class Compared:
    """One of the networks compared: its name as a `Candidate`, the name of the folder with its runs, and its shape."""

    name: str
    folder: str
    shape: Network


def networks_compared(standard: Network, rounds: Sequence[Round], outcome: Outcome) -> list[Compared]:
    """The standard network and, where there is a narrower one to compare, that and the uniform one of its size."""
    networks = [Compared("standard", round_folder(0), standard)]
    if outcome.compared:
        narrowed = standard.with_widths(rounds[outcome.compared].widths)
        name = "searched" if outcome.chosen else "narrower"
        networks.append(Compared(name, round_folder(outcome.compared), narrowed))
        networks.append(Compared("uniform", "uniform", narrowed_alike(standard, parameters_of(narrowed))))
    return networks


def still_valid(candidates: Sequence[Candidate], compared: Sequence[Compared], seeds: int) -> list[Candidate]:
    """Of the networks evaluated, the first ones that are those to compare, trained from so many seeds.

    Other settings may have led to other networks since.
    """
    valid = []
    for candidate, wanted in zip(candidates, compared, strict=False):
        same = (candidate.name, candidate.widths) == (wanted.name, wanted.shape.widths())
        if not same or len(candidate.scores) != seeds:
            break
        valid.append(candidate)
    return valid


def done_in_words(networks: Networks, compared: Sequence[Compared], valid: int) -> str:
    """How far the comparison is. valid: of the networks compared, how many are evaluated"""
    done = f"the search is done, and {valid} of {counted(len(compared), 'network')} to compare"
    if valid == len(compared):
        return done
    jobs = networks.jobs(compared[valid].folder, compared[valid].shape)
    return f"{done}; the {compared[valid].name} one from {len(finished_places(jobs))} of {counted(len(jobs), 'seed')}"


def train_and_evaluate(networks: Networks, workers: Workers, compared: Compared) -> Candidate:
    """One of the networks from all seeds, on the held-out part."""
    shape, seeds = compared.shape, networks.config.final_seeds
    widths, size = listed(shape.widths()), f"{parameters_of(shape):,} parameters"
    networks.display.phase(f"Comparison: the {compared.name} network from {seeds} seeds, {widths}, {size}")
    jobs = networks.jobs(compared.folder, shape)
    networks.train(workers, jobs)

    def evaluated() -> Candidate:
        models = [job.trained() for job in jobs]
        return evaluate_candidate(compared.name, shape.widths(), models, networks.measure(models), networks.data)

    return team().of_first(evaluated)


def time_networks(networks: Networks, compared: Sequence[Compared]) -> list[Latency]:
    """Times the networks, one of each, and keeps where they look, if they predict it."""
    networks.display.phase("Comparison: timing the networks")

    def timed() -> list[Latency]:
        models = {each.name: networks.jobs(each.folder, each.shape)[0].trained() for each in compared}
        networks.keep_saliency_examples(models)
        return measure_latencies(models, networks.data.image_shape)

    return team().of_first(timed)
