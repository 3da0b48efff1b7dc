"""scikit-learn's digits: 1,797 handwritten digits of 8x8 pixels that come inside the package."""

from __future__ import annotations

from functools import cache

import torch

from ckrm_kernels.data.dataset import Dataset, Normalization, Part
from ckrm_kernels.data.identity import digest_of
from ckrm_kernels.data.split import split_by_class
from ckrm_kernels.extras import require


@cache
def digits(split_seed: int = 0) -> Dataset:
    """The digits in ten classes, split 70 / 10 / 20 % by class.

    split_seed: which random split
    out: images (N, 1, 8, 8), less the mean and over the standard deviation of the training part's pixels
    Raises ImportError, naming the extra, where scikit-learn is not installed.
    """
    with require("reading the digits", "sklearn"):
        from sklearn.datasets import load_digits
    raw = load_digits()
    images = torch.from_numpy(raw.images).float().unsqueeze(1)
    labels = torch.from_numpy(raw.target).long()
    indices = split_by_class(labels, split_seed)
    mean, deviation = images[indices[0]].mean(), images[indices[0]].std(correction=0)
    train, validation, held_out = (Part((images[i] - mean) / deviation, labels[i]) for i in indices)
    names = tuple(map(str, range(10)))
    contents = {"images": digest_of(images), "labels": digest_of(labels)}
    identity = {"name": "digits", "split_seed": split_seed, "contents": contents}
    standardized = Normalization((mean.item(),), (deviation.item(),))
    return Dataset("digits", 10, train, validation, held_out, names, identity, standardized=standardized)
