"""What an experiment shows, in sentences that hold only what was measured."""

from __future__ import annotations

from collections.abc import Sequence

from ckrm_kernels.comparison.candidates import Candidate, named, narrowed_of
from ckrm_kernels.comparison.measured_layers import MeasuredLayer
from ckrm_kernels.comparison.statistics import Comparison, is_above, mean_interval
from ckrm_kernels.comparison.tables import listed, mean_and_deviation
from ckrm_kernels.comparison.verdict import in_words, with_interval
from ckrm_kernels.presentation.numbers import counted
from ckrm_kernels.similarity import Similarity
from ckrm_kernels.width_search.search import Outcome, Round
from ckrm_kernels.width_search.shrunk_runs import TUNING_EPOCHS


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
        *_warning_of_no_learning(named(candidates, "standard"), most_frequent),
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
    standard, narrowed = named(candidates, "standard"), narrowed_of(candidates)
    if rounds[0].within_target and not outcome.compared and not outcome.obstacle:
        return [
            f"Every layer of the standard network is within target at {psi.in_words()} (lambda at most {target:g}, or "
            "within three standard errors of its scale-free chance level): there is nothing to narrow.",
            f"Its held-out accuracy is {mean_and_deviation(standard.accuracies)}.",
        ]
    return [
        *(_nothing_shrunk(rounds, outcome, psi) if outcome.obstacle else [_ending(rounds, outcome, psi)]),
        *(_compared(rounds, outcome, candidates, narrowed, comparisons) if narrowed else [_alone(standard)]),
        *_redundant_by_scale(standard.layers, target, psi),
    ]


def _alone(standard: Candidate) -> str:
    return (
        f"The standard network has {standard.parameters:,} parameters and a held-out accuracy of "
        f"{mean_and_deviation(standard.accuracies)}."
    )


def _compared(
    rounds: Sequence[Round],
    outcome: Outcome,
    candidates: Sequence[Candidate],
    narrowed: Candidate,
    comparisons: Sequence[Comparison],
) -> list[str]:
    """What the narrowed network costs and how well it does beside each of the others."""
    standard = named(candidates, "standard")
    by_accuracy = {each.second: in_words(each) for each in comparisons if each.metric == "accuracy"}
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
        f"{narrowed.name} {mean_and_deviation(narrowed.accuracies)}; {by_accuracy[standard.name]}.",
        *(
            f"{_beside(each, narrowed)}; {by_accuracy[each.name]}."
            for each in candidates
            if each not in (standard, narrowed)
        ),
    ]


def _beside(other: Candidate, narrowed: Candidate) -> str:
    """How a yardstick came about, how well it does, and what it costs beside the narrowed network."""
    accuracy = mean_and_deviation(other.accuracies)
    more = f"{other.multiply_adds / narrowed.multiply_adds:.2f} times the {narrowed.name} network's multiply-adds"
    if other.name == "uniform-macs":
        more = f"{other.parameters / narrowed.parameters:.2f} times the {narrowed.name} network's parameters"
        return f"Narrowed alike to {other.multiply_adds:,} multiply-adds: {accuracy}, with {more}"
    if other.name == "shrunk":
        cut = f"The standard networks cut to {other.parameters:,} parameters and refitted, without training"
        return f"{cut}: {accuracy}, with {more}"
    if other.name == "tuned":
        return f"The same, trained for {counted(TUNING_EPOCHS, 'epoch')} more: {accuracy}"
    return f"Narrowed alike to {other.parameters:,} parameters: {accuracy}, with {more}"


def _nothing_shrunk(rounds: Sequence[Round], outcome: Outcome, psi: Similarity) -> list[str]:
    redundant = rounds[0].redundant
    return [
        f"Nothing was shrunk, because {outcome.obstacle}.",
        f"The search ended after {counted(len(rounds), 'round')} of training: {outcome.reason}.",
        f"Of the standard network's {counted(len(rounds[0].widths), 'width')} {len(redundant)} "
        f"{'is' if len(redundant) == 1 else 'are'} redundant at {psi.in_words()}: {', '.join(redundant)}.",
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
        f"Of the standard network's {counted(len(redundant), 'redundant layer')}, {len(by_scale)} "
        f"{'is' if len(by_scale) == 1 else 'are'} within target when measured scale-free: at {psi.in_words()} lambda "
        "speaks there of small weights, not of filters that repeat each other's shape."
    ]
