"""The comparison after the search: which networks, trained from all seeds, scored on held-out data and timed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from torch import nn

from ckrm_kernels.comparison.candidates import Candidate, evaluate_candidate
from ckrm_kernels.comparison.latency import Latency, measure_latencies
from ckrm_kernels.comparison.tables import listed
from ckrm_kernels.distributed import team
from ckrm_kernels.models import Network, count_parameters
from ckrm_kernels.presentation.numbers import counted
from ckrm_kernels.training.workers import Workers, finished_places
from ckrm_kernels.width_search.narrowing import multiply_adds_of, narrowed_alike, parameters_of
from ckrm_kernels.width_search.networks import Networks
from ckrm_kernels.width_search.rounds import round_folder
from ckrm_kernels.width_search.search import Outcome, Round
from ckrm_kernels.width_search.shrunk_networks import (
    SHRUNK,
    TUNED,
    finished_seeds,
    shrink_standard,
    shrunk_network,
)


@dataclass(frozen=True)
class Compared:
    """One of the networks compared.

    name: as a `Candidate`; folder: the name of the one with its runs
    shape: what is trained from every seed; None of the shrunk ones, which are made of the standard ones
    """

    name: str
    folder: str
    shape: Network | None

    @property
    def widths(self) -> dict[str, int]:
        """Those that all seeds share."""
        return self.shape.widths() if self.shape else {}


def networks_compared(
    standard: Network, rounds: Sequence[Round], outcome: Outcome, image_shape: Sequence[int]
) -> list[Compared]:
    """The standard network and, where there is a narrower one to compare, that and its yardsticks.

    The uniform one has as many parameters. Where widths were found by error, one with as many multiply-adds follows,
    and the standard networks shrunk, without and with tuning.
    """
    networks = [Compared("standard", round_folder(0), standard)]
    if not outcome.compared:
        return networks
    narrowed = standard.with_widths(rounds[outcome.compared].widths)
    name = "searched" if outcome.chosen else "narrower"
    networks.append(Compared(name, round_folder(outcome.compared), narrowed))
    networks.append(Compared("uniform", "uniform", narrowed_alike(standard, parameters_of(narrowed))))
    if outcome.by_error:
        size_of = partial(multiply_adds_of, image_shape=image_shape)
        as_costly = narrowed_alike(standard, size_of(narrowed), size_of)
        networks.append(Compared("uniform-macs", "uniform-macs", as_costly))
        networks += [Compared(SHRUNK, SHRUNK, None), Compared(TUNED, TUNED, None)]
    return networks


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
    name, shape, seeds = compared[valid].name, compared[valid].shape, networks.config.final_seeds
    finished = len(finished_places(networks.jobs(compared[valid].folder, shape))) if shape else finished_seeds(networks)
    return f"{done}; the {name} one from {finished} of {counted(seeds, 'seed')}"


def train_and_evaluate(networks: Networks, workers: Workers, compared: Compared) -> Candidate:
    """One of the networks from all seeds, on the held-out part."""
    if compared.shape is None:
        return team().of_first(lambda: _shrink_and_evaluate(networks, compared))
    shape, seeds = compared.shape, networks.config.final_seeds
    widths, size = listed(shape.widths()), f"{parameters_of(shape):,} parameters"
    networks.display.phase(f"Comparison: the {compared.name} network from {seeds} seeds, {widths}, {size}")
    jobs = networks.jobs(compared.folder, shape)
    networks.train(workers, jobs)

    def evaluated() -> Candidate:
        models = [job.trained() for job in jobs]
        return evaluate_candidate(compared.name, compared.widths, models, networks.measure(models), networks.data)

    return team().of_first(evaluated)


def _shrink_and_evaluate(networks: Networks, compared: Compared) -> Candidate:
    """The standard networks of all seeds, shrunk; each has widths of its own, so that layers are not measured."""
    seeds = networks.config.final_seeds
    networks.display.phase(f"Comparison: the {compared.name} networks, of the standard ones from {seeds} seeds")
    models = []
    for job in networks.jobs(round_folder(0), networks.config.network):
        shrink_standard(networks, job)
        models.append(shrunk_network(networks, compared.name, job))
        networks.display.print_line(f"seed {job.seed}: {count_parameters(models[-1]):,} parameters")
    return evaluate_candidate(compared.name, compared.widths, models, (), networks.data)


def time_networks(networks: Networks, compared: Sequence[Compared]) -> list[Latency]:
    """Times the networks, one of each, and keeps where they look, if they predict it."""
    networks.display.phase("Comparison: timing the networks")

    def timed() -> list[Latency]:
        models = {each.name: _of_first_seed(networks, each) for each in compared}
        networks.keep_saliency_examples(models)
        return measure_latencies(models, networks.data.image_shape)

    return team().of_first(timed)


def _of_first_seed(networks: Networks, compared: Compared) -> nn.Module:
    if compared.shape is None:
        return shrunk_network(networks, compared.name, networks.jobs(round_folder(0), networks.config.network)[0])
    return networks.jobs(compared.folder, compared.shape)[0].trained()
