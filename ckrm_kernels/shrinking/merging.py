"""Merging filters by the weights alone: each that leaves hands what reads it to the one it is most like."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ckrm_kernels.shrinking.copying import copied
from ckrm_kernels.shrinking.couplings import Coupling, Graph
from ckrm_kernels.shrinking.elimination import Curve
from ckrm_kernels.shrinking.features import features_of, uses_of
from ckrm_kernels.shrinking.moments import tensor_of
from ckrm_kernels.shrinking.surgery import without


class Merged(NamedTuple):
    """A network whose filters are merged.

    removed: of each coupling the filters that left, ascending
    small: the network without them
    """

    removed: dict[str, tuple[int, ...]]
    small: nn.Module


class Merge(NamedTuple):
    """One step: the filter `leaves` and those merged into it are from now on `stays`; cost: what the step adds."""

    leaves: int
    stays: int
    cost: float


def merge(model: nn.Module, graph: Graph, widths: Mapping[str, int]) -> Merged:
    """Merges the filters of the couplings until they have the widths; needs no data.

    Of each cluster one filter stays as it is, and the weights that read the others are added to those that read it:
    lossless where the filters of a cluster give the same outputs. Clusters are those of `costs`.
    widths: by coupling; others keep theirs
    Raises ValueError for a width outside 1 to the coupling's.
    Source: model folding (Wang et al., ICLR 2025, arXiv:2502.10216), which clusters by k-means and puts the mean of a
    cluster in its place: averages have less variance than what they average, which costs more than it saves.
    """
    merged, removed = copied(model), {}
    for name, width in widths.items():
        coupling = graph.coupling(name)
        if not 1 <= width <= coupling.width:
            raise ValueError(f"width of {name!r} must lie in 1 to {coupling.width}, got {width}")
        steps = _merges(model, graph, coupling)[: coupling.width - width]
        removed[name] = tuple(sorted(step.leaves for step in steps))
        for step in steps:
            _hand_over(merged, coupling, step)
    return Merged(removed, without(merged, graph, removed))


def costs(model: nn.Module, graph: Graph, coupling: Coupling) -> Curve:
    """In which order filters leave when they are merged, and what has been lost by then over what is left, by energy.

    To a consumer a filter's energy is the squared norm of its weights, its batch norm folded in, times that of the
    weights which read it; of a filter that is merged the part is lost in which it is off its cluster's mean. Of the
    shares of energy lost the mean over consumers, over what it leaves of 1, is counted once for each; the last filter
    loses all. Clusters merge by the least loss that a merge adds (Ward 1963): those of a width lie in those of a
    smaller one.
    """
    steps = _merges(model, graph, coupling)
    last = ({*range(coupling.width)} - {step.leaves for step in steps}).pop()
    consumers = len(coupling.with_role("consumes"))
    shares = [min(cost / consumers, 1.0) for cost in accumulate(step.cost for step in steps)]
    ratios = [consumers * share / (1 - share) if share < 1 else math.inf for share in shares]
    return Curve((*(step.leaves for step in steps), last), (*ratios, math.inf))


def _merges(model: nn.Module, graph: Graph, coupling: Coupling) -> list[Merge]:
    """Their costs are shares of energy, summed over consumers."""
    features, uses = features_of(model, graph, coupling), uses_of(model, coupling)
    energy = uses @ features.square().sum(1, keepdim=True)
    masses = (uses / energy.where(energy > 0, 1)).sum(0)
    return ward(features, masses.clamp_min(1e-9 * float(masses.max()) or 1.0))


def _hand_over(model: nn.Module, coupling: Coupling, step: Merge) -> None:
    """Adds the weights that read the filter that leaves to those that read the one that stays."""
    for entry in coupling.with_role("consumes"):
        weight = tensor_of(model, entry.tensor)
        leaves, stays = (torch.tensor(entry.positions[r], device=weight.device) for r in (step.leaves, step.stays))
        weight.index_add_(entry.dim, stays, weight.index_select(entry.dim, leaves))


def ward(points: Tensor, masses: Tensor) -> list[Merge]:
    """Merges points until one is left, always the two clusters whose merge adds the least to the distances from means.

    points: (n, numbers) float64; masses: (n,) > 0, the weight of each point's squared distance
    A cluster is named by one of its points: of the two merged that nearer to the common mean, the first if equal.
    Source: Ward 1963, "Hierarchical grouping to optimize an objective function".
    """
    means, masses = points.clone(), masses.clone()
    added = _added(points, masses)
    least, nearest = added.min(1)
    steps = []
    for _ in range(len(points) - 1):
        first = int(least.argmin())
        second = int(nearest[first])
        cost = float(added[first, second])
        mass = masses[first] + masses[second]
        mean = (masses[first] * means[first] + masses[second] * means[second]) / mass
        off = (points[[first, second]] - mean).square().sum(1)
        stays, leaves = (first, second) if off[0] <= off[1] else (second, first)
        joined = (masses[first] + masses) * added[first] + (masses[second] + masses) * added[second] - masses * cost
        joined = (joined / (mass + masses)).clamp_min(0)  # the recurrence of Lance and Williams 1967
        joined[[first, second]] = torch.inf
        added[stays], added[:, stays], added[leaves], added[:, leaves] = joined, joined, torch.inf, torch.inf
        means[stays], masses[stays] = mean, mass
        stale = (nearest == first) | (nearest == second)
        stale[[first, second]] = True
        closer = (joined < least) & ~stale
        least[closer], nearest[closer] = joined[closer], stays
        least[stale], nearest[stale] = added[stale].min(1)
        steps.append(Merge(leaves, stays, cost))
    return steps


def _added(points: Tensor, masses: Tensor) -> Tensor:
    """What merging two of the points would add: (n, n), infinite on the diagonal."""
    products = points @ points.T
    squares = products.diagonal()
    apart = (squares.unsqueeze(1) + squares - 2 * products).clamp_min(0)
    return (apart / (1 / masses.unsqueeze(1) + 1 / masses)).fill_diagonal_(torch.inf)
