"""Merging filters by the weights alone: each that leaves hands what reads it to the one it is most like."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ckrm_kernels.shrinking.couplings import Coupling, Graph
from ckrm_kernels.shrinking.elimination import Curve
from ckrm_kernels.shrinking.features import features_of, use_of
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
    merged, removed = copy.deepcopy(model), {}
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
    """In which order filters leave when they are merged, and the share of the coupling's energy that is lost by then.

    The energy of a filter is the squared norm of its weights, its batch norm folded in, times that of the weights
    which read it; of one that is merged its squared distance from its cluster's mean is lost. The last loses all.
    Clusters merge by the least loss that a merge adds (Ward 1963), so that those of a width lie in those of a smaller.
    """
    steps = _merges(model, graph, coupling)
    last = ({*range(coupling.width)} - {step.leaves for step in steps}).pop()
    energy = float((features_of(model, graph, coupling).square().sum(1) * use_of(model, coupling)).sum())
    lost = [min(cost / energy, 1.0) if energy else 0.0 for cost in accumulate(step.cost for step in steps)]
    return Curve((*(step.leaves for step in steps), last), (*lost, 1.0))


def _merges(model: nn.Module, graph: Graph, coupling: Coupling) -> list[Merge]:
    return ward(features_of(model, graph, coupling), use_of(model, coupling))


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
    means, masses, count = points.clone(), masses.clone(), len(points)
    distances = _added(means, masses, torch.arange(count))
    steps = []
    for _ in range(count - 1):
        first, second = divmod(int(distances.argmin()), count)
        cost = float(distances[first, second])
        mass = masses[first] + masses[second]
        mean = (masses[first] * means[first] + masses[second] * means[second]) / mass
        off = (points[[first, second]] - mean).square().sum(1)
        stays, leaves = (first, second) if off[0] <= off[1] else (second, first)
        means[stays], masses[stays], masses[leaves] = mean, mass, torch.inf
        added = _added(means, masses, torch.tensor([stays]))[0]
        distances[stays], distances[:, stays] = added, added
        distances[leaves], distances[:, leaves] = torch.inf, torch.inf
        steps.append(Merge(leaves, stays, cost))
    return steps


def _added(means: Tensor, masses: Tensor, of: Tensor) -> Tensor:
    """What merging each of some clusters with each cluster would add: (some, n); itself and those gone: infinite."""
    apart = torch.cdist(means[of], means, compute_mode="donot_use_mm_for_euclid_dist").square()
    added = apart / (1 / masses[of].unsqueeze(1) + 1 / masses)
    added[:, masses == torch.inf] = torch.inf
    added[torch.arange(len(of)), of] = torch.inf
    return added
