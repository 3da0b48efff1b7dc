"""Networks compared on held-out data, over the seeds that they were trained from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import nn

from ckrm_kernels.comparison.measured_layers import MeasuredLayer
from ckrm_kernels.comparison.statistics import Comparison, PairedComparison, compare, compare_paired
from ckrm_kernels.data import Dataset
from ckrm_kernels.models import count_multiply_adds, count_parameters
from ckrm_kernels.training import Score, evaluate
from ckrm_kernels.training.run_files import as_safetensors


@dataclass(frozen=True)
class Candidate:
    """One of the networks compared.

    name: "standard", "searched" and so on; "narrower" instead of "searched" where a search chose no narrower network
    widths: empty where each seed has its own
    parameters, multiply_adds: of the network of the first seed, the latter for one image; checkpoint_bytes: its weights
        as a file
    scores: on the held-out part, of each seed
    layers: as measured over the seeds; none where each seed has its own widths
    """

    name: str
    widths: dict[str, int]
    parameters: int
    multiply_adds: int
    checkpoint_bytes: int
    scores: tuple[Score, ...]
    layers: tuple[MeasuredLayer, ...]

    @property
    def accuracies(self) -> tuple[float, ...]:
        """Of each seed."""
        return tuple(score.accuracy for score in self.scores)

    @property
    def aucs(self) -> tuple[float, ...]:
        """Of each seed."""
        return tuple(score.auc for score in self.scores)

    def saliency(self, metric: str) -> tuple[float, ...]:
        """That metric of `SaliencyScore`, of each seed; empty where the networks predict no saliency."""
        return tuple(getattr(score.saliency, metric) for score in self.scores if score.saliency is not None)


def evaluate_candidate(
    name: str,
    widths: dict[str, int],
    models: Sequence[nn.Module],
    layers: Sequence[MeasuredLayer],
    data: Dataset,
) -> Candidate:
    """Evaluates trained networks, one of each seed, on the held-out part."""
    scores = tuple(evaluate(model, data.held_out, data.classes) for model in models)
    parameters, multiply_adds = count_parameters(models[0]), count_multiply_adds(models[0], data.image_shape)
    size = len(as_safetensors(models[0].state_dict()))
    return Candidate(name, widths, parameters, multiply_adds, size, scores, tuple(layers))


def compare_candidates(candidates: Sequence[Candidate], margin: float) -> tuple[Comparison, ...]:
    """The second, narrowed, with each of the others, by accuracy and by AUC; none of a single one.

    candidates: standard, searched or narrower, and any yardsticks for it; or standard alone
    """
    if len(candidates) == 1:
        return ()
    standard, narrowed, *yardsticks = candidates
    others = (standard, *yardsticks)
    return tuple(comparison for other in others for comparison in compare_scores(narrowed, other, margin))


def compare_scores(first: Candidate, second: Candidate, margin: float) -> tuple[Comparison, Comparison]:
    """The first with the second, by accuracy and by AUC."""
    return (
        compare("accuracy", (first.name, first.accuracies), (second.name, second.accuracies), margin),
        compare("auc", (first.name, first.aucs), (second.name, second.aucs), margin),
    )


def compare_by_seed(
    first: Candidate, second: Candidate, seeds: tuple[Sequence[int], Sequence[int]]
) -> list[PairedComparison]:
    """The first with the second, by accuracy and by AUC, network by network; none where they share no seed.

    seeds: of each candidate's networks, in the order of its scores
    """

    def values(candidate: Candidate, of: Sequence[int], metric: str) -> tuple[str, dict[int, float]]:
        scores = (getattr(score, metric) for score in candidate.scores)
        return candidate.name, dict(zip(of, scores, strict=True))

    metrics: tuple[Literal["accuracy", "auc"], ...] = ("accuracy", "auc")
    pairs = (compare_paired(each, values(first, seeds[0], each), values(second, seeds[1], each)) for each in metrics)
    return [pair for pair in pairs if pair is not None]
