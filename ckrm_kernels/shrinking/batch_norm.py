"""Batch norm statistics estimated anew, where what they normalise has changed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from ckrm_kernels.shrinking.forward_passes import Batches
from ckrm_kernels.shrinking.inputs import Inputs
from ckrm_kernels.shrinking.observing import evaluating


def reestimate(model: nn.Module, calibration: Batches, names: Iterable[str]) -> None:
    """Sets the running mean and variance of the named norms to those of their inputs, in place.

    names: of batch norms of the model; those without running statistics have none to set, all others keep theirs
    calibration: inputs in batches, over which statistics are averaged; those of one input are left out if any has more
    The mode, the momentum and the count of batches of every norm are left as they were.
    """
    named: list[Any] = [model.get_submodule(name) for name in names]
    norms = [norm for norm in named if norm.running_mean is not None]
    kept = [(norm, norm.momentum, norm.num_batches_tracked.clone()) for norm in norms]
    single = all(_inputs(call) == 1 for call in calibration)
    with evaluating(model):
        try:
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None  # a cumulative average
                norm.train()
            for args, kwargs in calibration:
                if single or _inputs((args, kwargs)) > 1:
                    model(*args, **kwargs)
        finally:
            for norm, momentum, count in kept:
                norm.momentum = momentum
                norm.num_batches_tracked.copy_(count)


def _inputs(call: tuple[tuple[Any, ...], dict[str, Any]]) -> int:
    return len(Inputs(*call).tensors()[0])
