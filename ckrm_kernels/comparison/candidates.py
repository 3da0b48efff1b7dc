"""Networks compared on held-out data, over the seeds that they were trained from."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from ckrm_kernels.comparison.measured_layers import MeasuredLayer
from ckrm_kernels.comparison.statistics import Comparison, compare
from ckrm_kernels.data import Dataset
from ckrm_kernels.models import count_multiply_adds, count_parameters
from ckrm_kernels.training import Score, evaluate
from ckrm_kernels.training.run_files import as_safetensors

NARROWED = ("searched", "narrower")


@dataclass(frozen=True)
class Candidate:
    """One of the networks compared.

    name: that of a group of runs, or, of a search, see `width_search.compared`
    widths: empty where the network of each seed has its own
    parameters, multiply_adds: of a network, the latter for one image; checkpoint_bytes: its weights as a file; means
        over the seeds where these differ
    scores: on the held-out part, of each seed; layers: as measured over the seeds; where widths differ, those of each
        network in turn, or none
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
    """Evaluates the trained networks of each seed on the held-out part."""
    scores = tuple(evaluate(model, data.held_out, data.classes) for model in models)
    parameters = round(statistics.fmean(map(count_parameters, models)))
    multiply_adds = round(statistics.fmean(count_multiply_adds(model, data.image_shape) for model in models))
    size = round(statistics.fmean(len(as_safetensors(model.state_dict())) for model in models))
    return Candidate(name, widths, parameters, multiply_adds, size, scores, tuple(layers))


def named(candidates: Sequence[Candidate], name: str) -> Candidate:
    """That of a name; raises ValueError where there is none."""
    found = {each.name: each for each in candidates}
    if name not in found:
        raise ValueError(f"name must be one of {', '.join(found)}, got {name!r}")
    return found[name]


def narrowed_of(candidates: Sequence[Candidate]) -> Candidate | None:
    """The network of a search's widths: "searched", or "narrower" where it chose none; None where there is neither."""
    return next((each for each in candidates if each.name in NARROWED), None)


def compare_candidates(candidates: Sequence[Candidate], margin: float) -> tuple[Comparison, ...]:
    """The narrowed one with each of the others, by accuracy and by AUC; none where there is no narrowed one.

    candidates: of a search, all from the same seeds, by which they are paired
    """
    narrowed = narrowed_of(candidates)
    if narrowed is None:
        return ()
    others = [each for each in candidates if each is not narrowed]
    return tuple(comparison for other in others for comparison in compare_scores(narrowed, other, margin, paired=True))


def compare_scores(
    first: Candidate, second: Candidate, margin: float, *, paired: bool
) -> tuple[Comparison, Comparison]:
    """The first with the second, by accuracy and by AUC. paired: whether both are from the same seeds, in that order"""
    return (
        compare("accuracy", (first.name, first.accuracies), (second.name, second.accuracies), margin, paired=paired),
        compare("auc", (first.name, first.aucs), (second.name, second.aucs), margin, paired=paired),
    )
