"""Real images for networks that were trained on ImageNet: parts of two photographs."""

from __future__ import annotations

import torch
from sklearn.datasets import load_sample_images
from torch import Tensor, nn


def crops(size: int, mean: tuple[float, ...], deviation: tuple[float, ...]) -> Tensor:
    """Parts of scikit-learn's two photographs, at two scales: (8, 3, size, size) float32.

    mean, deviation: of the pixels in [0, 1], by channel, which become 0 and 1
    """
    parts = []
    for photograph in load_sample_images().images:
        whole = torch.from_numpy(photograph.copy()).permute(2, 0, 1).float() / 255
        for side in (427, 280):
            top = (whole.shape[1] - side) // 2
            for left in (0, whole.shape[2] - side):
                part = whole[None, :, top : top + side, left : left + side]
                parts.append(nn.functional.interpolate(part, size=(size, size), mode="bilinear", antialias=True))
    shift, scale = (torch.tensor(each).view(3, 1, 1) for each in (mean, deviation))
    return (torch.cat(parts) - shift) / scale
