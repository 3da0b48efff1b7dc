"""The widths that shrinking trained networks by reconstruction error finds."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from operator import itemgetter

from torch import Tensor, nn

from ckrm_kernels.models import Network
from ckrm_kernels.shrinking.plan import ShrinkPlan, plan_shrink
from ckrm_kernels.shrinking.trained_runs import example_inputs
from ckrm_kernels.width_search.narrowing import parameters_of

CALIBRATION = 256  # images of the training part
_TRIES = 7
_NEARLY = 1.05  # the factor within which a network is as large as wanted


def widths_by_error(
    models: Sequence[nn.Module],
    network: Network,
    images: Tensor,
    parameters: float,
    *,
    multiple: int = 1,
    minimum: int = 1,
) -> dict[str, int]:
    """How many filters of each width `plan_shrink` keeps, the median over the networks and the layers that share it.

    models: trained; network: the description of all; images: (N, C, H, W), for calibration, unlabelled
    parameters: the share of a network's that may be left; multiple, minimum: of every width
    Where a width is shared by layers that shrinking narrows apart, or inferred from others, a network of those medians
    is larger than the shrunk ones. Further budgets are tried then, until it is as large as the first one says, nearly.
    Raises ValueError where the budget can't be reached, see `plan_shrink`.
    """
    wanted, low, high, share = parameters * parameters_of(network), 0.0, parameters, parameters
    tried: list[tuple[float, dict[str, int]]] = []
    for _ in range(_TRIES):
        try:
            plans = [plan_by_error(model, images, share, multiple=multiple, minimum=minimum) for model in models]
        except ValueError:
            if not tried:
                raise
            low = share
        else:
            kept = _medians(plans, network.width_of_layer())
            size = parameters_of(network.with_widths(kept))
            tried.append((abs(size - wanted), kept))
            if size <= wanted * _NEARLY and (share == parameters or size >= wanted / _NEARLY):
                break
            low, high = (low, share) if size > wanted else (share, high)
        share = (low + high) / 2
    return min(tried, key=itemgetter(0))[1]


def _medians(plans: Sequence[ShrinkPlan], width_of_layer: Mapping[str, str]) -> dict[str, int]:
    kept: dict[str, list[int]] = {}
    for plan in plans:
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


def check_reachable(
    model: nn.Module, images: Tensor, parameters: float, *, multiple: int = 1, minimum: int = 1
) -> None:
    """Raises ValueError for a budget that is out of reach whatever the weights. model: of random ones"""
    examples = example_inputs(model, images[:2])
    plan_shrink(model, examples, choose="random", parameters=parameters, round_to=multiple, minimum=minimum)
