"""What to change after a search that shrunk nothing, as far as its own figures support it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import replace

from ckrm_kernels.presentation.numbers import counted
from ckrm_kernels.width_search.error_search import ErrorSearch
from ckrm_kernels.width_search.rules import BracketRule, StageRule
from ckrm_kernels.width_search.search import Outcome, Round, Search, loss_of_accuracy

_FURTHER = 3  # rounds
_MOST_MARGIN, _MOST_TARGET = 0.05, 0.1  # beyond which neither is advised
_RESUME = "`ckrm search --resume RUN --set"


def advice(search: Search, rounds: Sequence[Round], outcome: Outcome) -> list[str]:
    """Sentences, none of a search that shrunk something or had nothing to shrink.

    search: as it was done; rounds, outcome: of it
    """
    if not outcome.obstacle:
        return []
    if isinstance(search, ErrorSearch):
        return [sentence] if (sentence := _more_rounds(search, rounds)) else []
    every = (
        _more_rounds(search, rounds),
        _wider_margin(search, rounds),
        _more_seeds(search, rounds),
        _higher_target(search, rounds),
        _higher_minimum(search, rounds, outcome),
        _scale_free(search, rounds[0]),
    )
    return [sentence for sentence in every if sentence]


def _more_rounds(search: Search, rounds: Sequence[Round]) -> str:
    more = len(rounds) + _FURTHER
    if replace(search, most_rounds=more).next_widths(rounds) is None:
        return ""
    return f"There are widths left to try: {_RESUME} most_rounds={more}` goes on from here."


def _wider_margin(search: Search, rounds: Sequence[Round]) -> str:
    """The least margin at which a narrower round is chosen."""
    for loss in sorted(loss_of_accuracy(each, rounds) for each in rounds[1:]):
        margin = _rounded_up(loss)
        if margin > max(_MOST_MARGIN, search.margin):
            return ""
        chosen = replace(search, margin=margin).outcome(rounds).chosen if margin > search.margin else 0
        if chosen:
            return (
                f"If a loss of {loss:.4f} in validation accuracy is acceptable, {_RESUME} margin={margin:g}` chooses "
                f"round {chosen}, and trains nothing anew."
            )
    return ""


def _more_seeds(search: Search, rounds: Sequence[Round]) -> str:
    accuracies = rounds[0].trained.validation_accuracy
    if len(rounds) == 1 or len(accuracies) < 2 or statistics.stdev(accuracies) <= search.margin:
        return ""
    return (
        f"The standard networks of a round differ among themselves by more than the margin (standard deviation "
        f"{statistics.stdev(accuracies):.4f} over {counted(len(accuracies), 'seed')}): a new run with more `seeds`, "
        "or more `training.epochs`, would tell the rounds apart."
    )


def _higher_target(search: Search, rounds: Sequence[Round]) -> str:
    """The least target at which a narrower round is within it."""
    highest = {
        place: max(layer.configured.mean for layer in each.trained.layers if not layer.is_within(search.target))
        for place, each in enumerate(rounds)
        if place > 0 and not each.within_target
    }
    if not highest or min(highest.values()) > _MOST_TARGET:
        return ""
    place = min(highest, key=highest.__getitem__)
    return (
        f"Little is left redundant in round {place}, which lost {loss_of_accuracy(rounds[place], rounds):.4f} in "
        f"validation accuracy: lambda is at most {highest[place]:.3f} in its redundant layers, so that a new run with "
        f"`target={_rounded_up(highest[place]):g}` would have ended with it."
    )


def _higher_minimum(search: Search, rounds: Sequence[Round], outcome: Outcome) -> str:
    """Where the best narrower round has redundant widths that are at the minimum: they went there at once."""
    rule = search.rule.rule if isinstance(search.rule, StageRule) else search.rule
    if outcome.narrower is None or not isinstance(rule, BracketRule):
        return ""
    best = rounds[outcome.narrower]
    lowest = [name for name in best.redundant if best.widths[name] <= rule.minimum < rounds[0].widths[name]]
    if not lowest:
        return ""
    return (
        f"In round {outcome.narrower}, {counted(len(lowest), 'width')} fell to the minimum of {rule.minimum}, where "
        "few pairs of filters are left to measure: a new run with a higher `rule.minimum` keeps more of them."
    )


def _scale_free(search: Search, standard: Round) -> str:
    redundant = [layer for layer in standard.trained.layers if not layer.is_within(search.target)]
    by_scale = [layer for layer in redundant if layer.scale_free.mean <= max(search.target, layer.allowed)]
    if not by_scale:
        return ""
    left = "nothing to shrink" if len(by_scale) == len(redundant) else f"{len(by_scale)} of them within target"
    return (
        f"A new run with `--scale-free` would go by the shape of filters alone, and find {left} among the "
        f"{counted(len(redundant), 'redundant layer')}."
    )


def _rounded_up(value: float) -> float:
    """To three decimals, the next above."""
    return math.floor(value * 1000 + 1) / 1000
