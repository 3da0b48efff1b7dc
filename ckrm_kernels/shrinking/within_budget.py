"""Which filters leave so that a network meets its budget."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from ckrm_kernels.shrinking.budget import Budget
from ckrm_kernels.shrinking.couplings import Graph
from ckrm_kernels.shrinking.elimination import Curve
from ckrm_kernels.shrinking.inputs import Inputs
from ckrm_kernels.shrinking.surgery import without
from ckrm_kernels.shrinking.totals import latencies
from ckrm_kernels.shrinking.widths import Minimum, drops, removals, together

Removed = dict[str, tuple[int, ...]]


def within_budget(
    model: nn.Module,
    graph: Graph,
    curves: Mapping[str, Curve],
    budget: Budget,
    inputs: Inputs,
    *,
    uniform: bool = False,
    round_to: int = 1,
    minimum: Minimum = 1,
) -> Removed:
    """The filters of each coupling that leave, ascending; none of those without a curve.

    curves: the order in which filters leave and the error of each step, by coupling
    inputs: of the forward passes that are timed, for a budget of latency
    uniform: the same share of every coupling, instead of what adds the least error for what it saves
    Raises ValueError for a budget that can't be met; it says what can.
    """
    if budget.kind == "latency":
        removed = _within_latency(model, graph, curves, budget.value, inputs, round_to, minimum)
    else:
        limits = {
            "parameters": budget.value if budget.kind == "parameters" else None,
            "macs": budget.value if budget.kind == "multiply-adds" else None,
            "tolerance": budget.value if budget.kind in ("tolerance", "redundant") else None,
        }
        removed = removals(model, graph, curves, uniform=uniform, round_to=round_to, minimum=minimum, **limits)
    return {name: tuple(sorted(filters)) for name, filters in removed.items() if filters}


def _within_latency(
    model: nn.Module,
    graph: Graph,
    curves: Mapping[str, Curve],
    share: float,
    inputs: Inputs,
    round_to: int,
    minimum: Minimum,
) -> Removed:
    """The fewest of the drops by multiply-adds that make the network as fast as wanted, found by halving."""
    order = list(drops(model, graph, curves, round_to=round_to, minimum=minimum))

    def reached(count: int) -> float:
        small = without(model, graph, together(order[:count]))
        seconds = latencies({"model": model, "small": small}, inputs)
        return seconds["small"] / seconds["model"]

    too_few, enough = 0, len(order)
    least = reached(enough) if order else 1.0
    if least > share:
        raise ValueError(f"latency allows {share:g} of the model's; the least that was reached here is {least:.3f}")
    while enough - too_few > max(len(order) // 64, 1):  # closer than that, times differ by chance
        middle = (too_few + enough) // 2
        too_few, enough = (too_few, middle) if reached(middle) <= share else (middle, enough)
    return together(order[:enough])
