"""How far a search is, and how long the rest of it takes."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ckrm_kernels.presentation.numbers import counted, roughly
from ckrm_kernels.width_search.config import WidthSearchConfig
from ckrm_kernels.width_search.shrunk_runs import TUNING_EPOCHS


@dataclass(frozen=True)
class Forecast:
    """Networks still to train, and the seconds that takes: at least, and at most.

    by_error: of the most networks those that only a search by error compares, see `compared`
    """

    least_networks: int
    most_networks: int
    least_seconds: float
    most_seconds: float
    by_error: int = 0


def forecast(
    config: WidthSearchConfig, rounds: int, finished: int, seconds: float, side_by_side: int, standard: float
) -> Forecast:
    """What is left of a search in one of its rounds, if every network to come takes as long as one of this round.

    The least is left where this round ends the search, the most where it goes on to its limit; from the first round,
    where the standard network may have nothing to shrink, the least is that network alone. Where widths are found by
    error, the standard networks are then shrunk and tuned, one after the other, which is left out: it is an epoch each.

    rounds: that are done; finished: networks of the current one that are
    seconds: that one network of the current round takes; standard: that one of the standard network takes
    side_by_side: networks trained at a time
    """
    more = config.final_seeds - config.seeds

    def waves(networks: int) -> int:
        return math.ceil(networks / side_by_side)

    current, rest = config.seeds - finished, max(config.search().most_rounds - rounds - 1, 0)
    # the narrowed network, of whose runs some are there, and what is compared with it, with epochs of the others' share
    beside = {"uniform": 1.0}
    if config.rule.by == "error":
        beside = {**beside, "uniform-macs": 1.0, "tuned": TUNING_EPOCHS / config.training.epochs}
    least = 0 if rounds == 0 else 1
    most = 0 if rounds == 0 and rest == 0 else 1
    of_standard = waves(more) * standard

    def total(comparisons: int, further: int) -> tuple[int, float]:
        networks = current + further * config.seeds + more + comparisons * (more + len(beside) * config.final_seeds)
        compared = waves(more) + sum(beside.values()) * waves(config.final_seeds)
        of_others = waves(current) + further * waves(config.seeds) + comparisons * compared
        return networks, of_others * seconds + of_standard

    (least_networks, least_seconds), (most_networks, most_seconds) = total(least, 0), total(most, rest)
    by_error = most * (len(beside) - 1) * config.final_seeds
    return Forecast(least_networks, most_networks, least_seconds, most_seconds, by_error)


def in_words(of: Forecast, seconds: float, side_by_side: int) -> str:
    """The forecast, and what would shorten it. seconds: of one network"""
    low, high = roughly(of.least_seconds), roughly(of.most_seconds)
    time_left = low if low == high else f"{low} to {high}"
    networks = counted(of.most_networks, "network")
    if of.least_networks < of.most_networks:
        networks = f"{of.least_networks} to {networks}"
    beside = (
        f"; {of.by_error} of them to compare the searched one with: uniform ones of equal multiply-adds, and shrunk "
        f"ones tuned for {counted(TUNING_EPOCHS, 'epoch')}"
        if of.by_error
        else ""
    )
    return (
        f"The search needs about {time_left} more: {networks} of {roughly(seconds)} each or less, {side_by_side} at a "
        f"time{beside}. Shorter: a smaller data.fraction, fewer --epochs, --seeds, --final-seeds or most_rounds; it "
        "can be interrupted at any moment"
    )
