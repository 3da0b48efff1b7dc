"""Batch norm statistics estimated anew, where what they normalise has changed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from ckrm_kernels.shrinking.fold import Batches
from ckrm_kernels.shrinking.observing import evaluating


def reestimate(model: nn.Module, calibration: Batches, names: Iterable[str]) -> None:
    """Sets the running mean and variance of the named norms to those of their inputs, in place.

    names: of batch norms of the model with running statistics; all others keep theirs
    calibration: inputs in batches of more than one value a channel; statistics are averaged over batches
    The mode, the momentum and the count of batches of every norm are left as they were.
    """
    norms: list[Any] = [model.get_submodule(name) for name in names]
    kept = [(norm, norm.momentum, norm.num_batches_tracked.clone()) for norm in norms]
    with evaluating(model):
        try:
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None  # a cumulative average
                norm.train()
            for args, kwargs in calibration:
                model(*args, **kwargs)
        finally:
            for norm, momentum, batches in kept:
                norm.momentum = momentum
                norm.num_batches_tracked.copy_(batches)
