"""Networks compared on held-out data, over the seeds that they were trained from."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from ckrm_kernels.data import Dataset
from ckrm_kernels.models import count_multiply_adds, count_parameters
from ckrm_kernels.shrinking.measured import MeasuredLayer
from ckrm_kernels.training import Score, evaluate
from ckrm_kernels.training.checkpoint import as_safetensors


@dataclass(frozen=True)
class Candidate:
    """One of the networks compared.

    name: "standard", "shrunk" or "uniform"
    parameters, multiply_adds: of the network, the latter for one image; checkpoint_bytes: its weights as a file
    scores: on the held-out part, of each seed; layers: as measured over the seeds
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

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Candidate:
        """The candidate that `dataclasses.asdict` and JSON made the value of."""
        scores = tuple(Score(**score) for score in value["scores"])
        layers = tuple(MeasuredLayer.from_json(layer) for layer in value["layers"])
        return cls(**{**value, "scores": scores, "layers": layers})


def candidate(
    name: str,
    widths: dict[str, int],
    models: Sequence[nn.Module],
    layers: Sequence[MeasuredLayer],
    data: Dataset,
) -> Candidate:
    """Evaluates the trained networks of one shape on the held-out part."""
    scores = tuple(evaluate(model, data.held_out, data.classes) for model in models)
    parameters, multiply_adds = count_parameters(models[0]), count_multiply_adds(models[0], data.image_shape)
    size = len(as_safetensors(models[0].state_dict()))
    return Candidate(name, widths, parameters, multiply_adds, size, scores, tuple(layers))


def spread(values: Sequence[float]) -> float:
    """Standard deviation over the seeds, 0 of a single one."""
    return statistics.stdev(values) if len(values) > 1 else 0.0


def noise(first: Candidate, second: Candidate, images: int) -> float:
    """Two standard errors of the difference of two mean accuracies.

    The variance is that of the seeds plus that of so many held-out images, as if each network had its own images.
    """
    variance = 0.0
    for each in (first, second):
        mean = statistics.fmean(each.accuracies)
        variance += spread(each.accuracies) ** 2 / len(each.accuracies) + mean * (1 - mean) / images
    return 2 * math.sqrt(variance)
