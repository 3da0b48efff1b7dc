"""The widths that shrinking trained networks by reconstruction error finds."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from ckrm_kernels.shrinking.plan import ShrinkPlan, plan_shrink
from ckrm_kernels.shrinking.trained_runs import example_inputs

CALIBRATION = 256  # images of the training part


def widths_by_error(
    models: Sequence[nn.Module],
    width_of_layer: Mapping[str, str],
    images: Tensor,
    parameters: float,
    *,
    multiple: int = 1,
    minimum: int = 1,
) -> dict[str, int]:
    """How many filters of each width `plan_shrink` keeps, the median over the networks and the layers that share it.

    models: trained, of one shape; images: (N, C, H, W), for calibration, unlabelled
    parameters: the share of a network's that may be left; multiple, minimum: of every width
    Raises ValueError where the budget can't be reached, see `plan_shrink`.
    """
    kept: dict[str, list[int]] = {}
    for model in models:
        plan = plan_by_error(model, images, parameters, multiple=multiple, minimum=minimum)
        for layer in plan.layers:
            if layer.name in width_of_layer:
                kept.setdefault(width_of_layer[layer.name], []).append(len(layer.kept))
    return {name: statistics.median_high(widths) for name, widths in kept.items()}


def plan_by_error(
    model: nn.Module, images: Tensor, parameters: float, *, multiple: int = 1, minimum: int = 1
) -> ShrinkPlan:
    """The plan to shrink one of the networks; arguments and errors as of `widths_by_error`."""
    examples = example_inputs(model, images[:2])
    return plan_shrink(model, examples, calibration=images, parameters=parameters, round_to=multiple, minimum=minimum)
