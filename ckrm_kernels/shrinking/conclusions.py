"""What an experiment shows, in sentences that hold only what was measured."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from ckrm_kernels.shrinking.comparison import Candidate, noise
from ckrm_kernels.shrinking.measured import SCALE_FREE, MeasuredLayer
from ckrm_kernels.shrinking.search import Outcome, Round
from ckrm_kernels.shrinking.tables import mean_and_spread


def conclusions(
    rounds: Sequence[Round], outcome: Outcome, candidates: Sequence[Candidate], target: float, images: int
) -> list[str]:
    """The sentences of a finished experiment.

    candidates: standard, and, where the search changed anything, shrunk and uniform
    target: of the search; images: of the held-out part
    """
    standard = candidates[0]
    if rounds[0].clean:
        return [
            f"Every layer of the standard network is clean at eps 1e-4 (lambda at most {target:g}, or no more than "
            "its scale-free chance level): there is nothing to shrink.",
            f"Its held-out accuracy is {mean_and_spread(standard.accuracies)}.",
        ]
    sentences = [_search(rounds, outcome), *_scale(standard.layers, target)]
    if len(candidates) == 1:
        return sentences
    shrunk, uniform = candidates[1:]
    seeds = len(standard.scores)
    return [
        sentences[0],
        f"The shrunk network keeps {shrunk.parameters / standard.parameters:.1%} of the parameters and "
        f"{shrunk.multiply_adds / standard.multiply_adds:.1%} of the multiply-adds.",
        f"Held-out accuracy: standard {mean_and_spread(standard.accuracies)}, "
        f"shrunk {mean_and_spread(shrunk.accuracies)}; {_difference('shrunk', shrunk, 'standard', standard, images)} "
        f"({seeds} seeds, {images} images).",
        f"Narrowed alike to {uniform.parameters:,} parameters: {mean_and_spread(uniform.accuracies)}, with "
        f"{uniform.multiply_adds / shrunk.multiply_adds:.2f} times the shrunk network's multiply-adds; "
        f"{_difference('shrunk', shrunk, 'uniform', uniform, images)}.",
        *sentences[1:],
    ]


def _search(rounds: Sequence[Round], outcome: Outcome) -> str:
    chosen = rounds[outcome.chosen]
    if rounds[-1].clean:
        return f"After {len(rounds)} rounds of training every layer is clean at eps 1e-4."
    ended = f"The search ended after {len(rounds)} rounds of training: {outcome.reason}"
    if chosen.clean:
        return f"{ended}. Every layer of round {outcome.chosen} is clean at eps 1e-4."
    return f"{ended}. Round {outcome.chosen} has the fewest redundant widths: {', '.join(chosen.redundant)}."


def _difference(name: str, first: Candidate, other_name: str, second: Candidate, images: int) -> str:
    difference = statistics.fmean(first.accuracies) - statistics.fmean(second.accuracies)
    limit = noise(first, second, images)
    if abs(difference) <= limit:
        return f"no difference that could be told from noise ({difference:+.4f}, two standard errors {limit:.4f})"
    better, worse = (name, other_name) if difference > 0 else (other_name, name)
    return f"{better} is better than {worse} ({difference:+.4f}, two standard errors {limit:.4f})"


def _scale(layers: Sequence[MeasuredLayer], target: float) -> list[str]:
    """How many of the redundant layers are so only by their scale."""
    redundant = [layer for layer in layers if not layer.is_clean(target)]
    by_scale = [layer for layer in redundant if layer.levels[SCALE_FREE].mean <= max(target, layer.allowed)]
    if not by_scale:
        return []
    return [
        f"Of the {len(redundant)} redundant layers of the standard network, {len(by_scale)} are clean when measured "
        "scale-free: at eps 1e-4 their lambda speaks of small weights, not of filters that repeat each other's shape."
    ]
