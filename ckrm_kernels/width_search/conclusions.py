"""What an experiment shows, in sentences that hold only what was measured."""

from __future__ import annotations

from collections.abc import Sequence

from ckrm_kernels.comparison.candidates import Candidate
from ckrm_kernels.comparison.measured_layers import MeasuredLayer
from ckrm_kernels.comparison.statistics import Comparison, is_above, mean_interval
from ckrm_kernels.comparison.tables import listed, mean_and_deviation
from ckrm_kernels.comparison.verdict import in_words, with_interval
from ckrm_kernels.presentation.numbers import counted
from ckrm_kernels.similarity import Similarity
from ckrm_kernels.width_search.search import Outcome, Round
from ckrm_kernels.width_search.shrunk_networks import SHRUNK, TUNED


def conclusions(
    rounds: Sequence[Round],
    outcome: Outcome,
    candidates: Sequence[Candidate],
    comparisons: Sequence[Comparison],
    target: float,
    psi: Similarity,
    most_frequent: float,
) -> list[str]:
    """The sentences of a finished experiment.

    candidates: standard, and, where there is a narrower round, searched or narrower, and its yardsticks
    comparisons: as `compare_candidates` gives them; target, psi: of the search
    most_frequent: share of the held-out images that are of the most frequent class
    """
    return [
        *_warning_of_no_learning(candidates[0], most_frequent),
        *_results(rounds, outcome, candidates, comparisons, target, psi),
    ]


def _warning_of_no_learning(standard: Candidate, most_frequent: float) -> list[str]:
    """A warning where the standard network is not shown to be better than naming the most frequent class."""
    interval, learnt = mean_interval(standard.accuracies), is_above(standard.accuracies, most_frequent)
    if learnt or (learnt is None and interval.mean > most_frequent):
        return []
    has = "has not learnt anything that shows" if learnt is None else "is not shown to have learnt anything"
    return [
        f"The standard network {has}: its accuracy is {with_interval(interval)}, that of naming the most frequent "
        f"class {most_frequent:.4f}. What follows says nothing of the search."
    ]


def _results(
    rounds: Sequence[Round],
    outcome: Outcome,
    candidates: Sequence[Candidate],
    comparisons: Sequence[Comparison],
    target: float,
    psi: Similarity,
) -> list[str]:
    """How the search ended, what the networks compared cost and how well they do, and what scale has to do with it."""
    standard = candidates[0]
    if rounds[0].within_target and not outcome.compared and not outcome.obstacle:
        return [
            f"Every layer of the standard network is within target at {psi.in_words()} (lambda at most {target:g}, or "
            "within three standard errors of its scale-free chance level): there is nothing to narrow.",
            f"Its held-out accuracy is {mean_and_deviation(standard.accuracies)}.",
        ]
    return [
        *(_nothing_shrunk(rounds, outcome, psi) if outcome.obstacle else [_ending(rounds, outcome, psi)]),
        *(_compared(rounds, outcome, candidates, comparisons) if len(candidates) > 1 else [_alone(standard)]),
        *_redundant_by_scale(standard.layers, target, psi),
    ]


def _alone(standard: Candidate) -> str:
    return (
        f"The standard network has {standard.parameters:,} parameters and a held-out accuracy of "
        f"{mean_and_deviation(standard.accuracies)}."
    )


def _compared(
    rounds: Sequence[Round], outcome: Outcome, candidates: Sequence[Candidate], comparisons: Sequence[Comparison]
) -> list[str]:
    """What the narrowed network costs and how well it does beside the standard one and the yardsticks."""
    standard, narrowed, *yardsticks = candidates
    by_accuracy = {each.second: each for each in comparisons if each.metric == "accuracy"}
    which = f"The {narrowed.name} network"
    if not outcome.chosen:
        best = "narrower round" if len(rounds) == 2 else "best of the narrower rounds"
        widths = listed(narrowed.widths)
        which = f"The {best}, round {outcome.compared}, {widths}, was not chosen, but is compared all the same: it"
    return [
        f"{which} keeps {narrowed.parameters / standard.parameters:.1%} of the parameters and "
        f"{narrowed.multiply_adds / standard.multiply_adds:.1%} of the multiply-adds.",
        f"Held-out accuracy of {counted(len(standard.scores), 'network')} each: "
        f"standard {mean_and_deviation(standard.accuracies)}, "
        f"{narrowed.name} {mean_and_deviation(narrowed.accuracies)}; {in_words(by_accuracy['standard'])}.",
        *(_beside(each, narrowed, by_accuracy[each.name]) for each in yardsticks),
    ]


def _beside(yardstick: Candidate, narrowed: Candidate, comparison: Comparison) -> str:
    """What a yardstick is, how well it does, and how the narrowed network compares with it."""
    made = {
        "uniform": f"Narrowed alike to {yardstick.parameters:,} parameters",
        "uniform-macs": f"Narrowed alike to {yardstick.multiply_adds:,} multiply-adds",
        SHRUNK: "The standard networks shrunk, their weights refitted and nothing trained",
        TUNED: "The same after one epoch of tuning",
    }[yardstick.name]
    cost = f"{yardstick.multiply_adds / narrowed.multiply_adds:.2f} times the {narrowed.name} network's multiply-adds"
    return f"{made}: {mean_and_deviation(yardstick.accuracies)}, with {cost}; {in_words(comparison)}."


def _nothing_shrunk(rounds: Sequence[Round], outcome: Outcome, psi: Similarity) -> list[str]:
    redundant = rounds[0].redundant
    return [
        f"Nothing was shrunk, because {outcome.obstacle}.",
        f"The search ended after {counted(len(rounds), 'round')} of training: {outcome.reason}.",
        f"Of the {len(rounds[0].widths)} widths of the standard network {len(redundant)} are redundant at "
        f"{psi.in_words()}: {', '.join(redundant)}.",
    ]


def _ending(rounds: Sequence[Round], outcome: Outcome, psi: Similarity) -> str:
    """How the search ended, and which round was chosen."""
    chosen = rounds[outcome.chosen]
    if outcome.by_error:
        return f"The search ended after {counted(len(rounds), 'round')} of training: {outcome.reason}."
    if rounds[-1].within_target:
        return f"After {counted(len(rounds), 'round')} of training every layer is within target at {psi.in_words()}."
    ended = f"The search ended after {counted(len(rounds), 'round')} of training: {outcome.reason}"
    if chosen.within_target:
        return f"{ended}. Every layer of round {outcome.chosen} is within target at {psi.in_words()}."
    return (
        f"{ended}. Round {outcome.chosen} was chosen: of the rounds that keep the validation accuracy it leaves the "
        f"fewest widths redundant, {len(chosen.redundant)} of {len(chosen.widths)} at {psi.in_words()}: "
        f"{', '.join(chosen.redundant)}."
    )


def _redundant_by_scale(layers: Sequence[MeasuredLayer], target: float, psi: Similarity) -> list[str]:
    """How many of the redundant layers are so only by their scale; nothing where psi is scale-free."""
    redundant = [layer for layer in layers if not layer.is_within(target)]
    by_scale = [layer for layer in redundant if layer.scale_free.mean <= max(target, layer.allowed)]
    if not by_scale:
        return []
    return [
        f"Of the {len(redundant)} redundant layers of the standard network, {len(by_scale)} are within target when "
        f"measured scale-free: at {psi.in_words()} their lambda speaks of small weights, not of filters that repeat "
        "each other's shape."
    ]
