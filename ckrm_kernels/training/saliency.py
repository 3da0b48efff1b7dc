"""How near predicted saliency maps are to where people looked."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ckrm_kernels.models.gaze import gaze_distribution

SALIENCY_METRICS = {"divergence": "KL", "correlation": "CC", "similarity": "histogram similarity"}
"""The fields of a `SaliencyScore`, as the papers name them."""


@dataclass(frozen=True)
class SaliencyScore:
    """A prediction's quality, means over the images; p is the gaze map scaled to the sum 1, q the predicted one.

    divergence: KL(p || q) = sum of p ln(p / q), in nats, >= 0
    correlation: Pearson's, of p and q over the pixels, in [-1, 1]; 0 where one of them is constant
    similarity: of their histograms, sum of min(p, q), in [0, 1]
    """

    divergence: float
    correlation: float
    similarity: float


def saliency_scores(saliency: Tensor, gaze: Tensor) -> Tensor:
    """Divergence, correlation and similarity of each image, (N, 3) float64, see `SaliencyScore`.

    saliency: (N, H, W) the logarithms of q; gaze: (N, h, w) floating point, >= 0, resized to (H, W) where it differs
    Raises ValueError, naming the rows, for gaze maps that sum to 0.
    """
    log_q = saliency.double().flatten(1)
    p, q = gaze_distribution(gaze.double(), saliency.shape[1:]).flatten(1), log_q.exp()
    divergence = torch.xlogy(p, p).sum(1) - torch.where(p > 0, p * log_q, 0).sum(1)
    return torch.stack((divergence, _correlation(p, q), torch.minimum(p, q).sum(1)), 1)


def _correlation(p: Tensor, q: Tensor) -> Tensor:
    constant = (p.amax(1) == p.amin(1)) | (q.amax(1) == q.amin(1))
    p, q = (each - each.mean(1, keepdim=True) for each in (p, q))
    return torch.where(constant, 0, (p * q).sum(1) / (p.norm(dim=1) * q.norm(dim=1))).clamp(-1, 1)
