"""Shrunk networks, in every way and with every compensation that the study compares."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from cells import BATCH_NORM, ERROR, FOLD, FOLD_BATCH_NORM, MERGED, NOTHING, UNIFORM_ERROR, UNIFORM_L1
from torch import Tensor, nn

from ckrm_kernels.shrinking.batch_norm import reestimate
from ckrm_kernels.shrinking.calibration import Calibration
from ckrm_kernels.shrinking.plan import plan_shrink

OPTIONS: dict[str, dict[str, Any]] = {
    **{name: {"choose": name} for name in (ERROR, "l1", "psi", "random", "fpgm", "bn")},
    UNIFORM_ERROR: {"choose": ERROR, "widths": "uniform"},
    UNIFORM_L1: {"choose": "l1", "widths": "uniform"},
    MERGED: {},
}


def shrunk(full: nn.Module, method: str, share: float, images: Tensor, seed: int) -> dict[str, nn.Module]:
    """The small networks of a full one by compensation; where filters are merged by weights, there is no refit."""
    example = images[:2]
    if method == MERGED:
        merged = plan_shrink(full, example, parameters=share, seed=seed).apply()
        return with_batch_norm({NOTHING: merged}, images)
    plan = plan_shrink(full, example, calibration=images, parameters=share, seed=seed, **OPTIONS[method])
    return with_batch_norm({NOTHING: plan.apply(fold=False), FOLD: plan.apply()}, images)


def with_batch_norm(found: Mapping[str, nn.Module], images: Tensor) -> dict[str, nn.Module]:
    """The networks, and each with its batch norms re-estimated."""
    again = {NOTHING: BATCH_NORM, FOLD: FOLD_BATCH_NORM}
    return {**found, **{again[name]: reestimated(network, images) for name, network in found.items()}}


def reestimated(network: nn.Module, images: Tensor) -> nn.Module:
    """A copy whose batch norms all have the statistics of these images."""
    network = copy.deepcopy(network)
    norms = [name for name, module in network.named_modules() if isinstance(module, nn.BatchNorm2d)]
    reestimate(network, Calibration(images, images[:2]), norms)
    return network
