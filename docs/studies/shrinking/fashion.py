"""Fashion-MNIST as the study splits it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ckrm_kernels.data import Dataset, Part, mnist

TRAINING, VALIDATION, CALIBRATION = 16_000, 2_000, 256


def fashion(folder: Path) -> Dataset:
    """The first training and validation images of Debian's dataset-fashion-mnist, and all of its test images.

    The validation part is of the published training file; the published test file is held out.
    """
    data = mnist(folder)
    return replace(
        data, name="fashion-mnist", train=first(data.train, TRAINING), validation=first(data.validation, VALIDATION)
    )


def first(part: Part, count: int) -> Part:
    """The part's first images, normalised as the part is."""
    return replace(part, images=part.images[:count], labels=part.labels[:count])


def calibration(data: Dataset, seed: int) -> Tensor:
    """(256, 1, 28, 28) float32: images of the training part, without their labels."""
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(seed))
    return data.train.batch(order[:CALIBRATION]).images
