"""Merging filters by the weights alone: what repeats another merges without loss."""

from __future__ import annotations

import copy
import math
from itertools import combinations

import pytest
import torch
from chains import chain, coupling_of
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ckrm_kernels.shrinking.couplings import Coupling, Entries, Graph
from ckrm_kernels.shrinking.features import features_of
from ckrm_kernels.shrinking.merging import costs, merge, ward

OF_A_NORM = ("weight", "bias", "running_mean", "running_var")


def drawn(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64) + 0.5


def settled(norm: nn.Module) -> nn.Module:
    with torch.no_grad():
        for place, name in enumerate(OF_A_NORM):
            getattr(norm, name).copy_(drawn(len(norm.weight) + place)[: len(norm.weight)])
    return norm


def rescaled(layer: nn.Module, norm: nn.Module, of: int, filter: int, scale: float) -> None:
    """Makes a filter give the same after its norm as another, by other weights."""
    with torch.no_grad():
        layer.weight[filter] = layer.weight[of] * scale
        norm.running_mean[filter] = norm.running_mean[of] * scale
        norm.running_var[filter] = (norm.running_var[of] + norm.eps) * scale**2 - norm.eps
        norm.weight[filter], norm.bias[filter] = norm.weight[of], norm.bias[of]


def plain() -> tuple[nn.Module, Graph]:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 6, 3, bias=False), settled(nn.BatchNorm2d(6)), nn.ReLU(), nn.Flatten(), nn.Linear(24, 3)
    )
    model = model.double().eval()
    for filter, scale in ((3, 2.0), (5, 0.5)):
        rescaled(model[0], model[1], 1, filter, scale)
    return model, chain(model, "0", "4", norms={"0": "1"})


class Residual(nn.Module):
    """A stream of two layers' filters, a norm of their sum, a depthwise layer, a layer that reads it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inner = nn.Conv2d(2, 6, 3), nn.Conv2d(2, 6, 3, bias=False)
        self.norm = settled(nn.BatchNorm2d(6))
        self.depthwise = nn.Conv2d(6, 6, 3, groups=6)
        self.reads = nn.Conv2d(6, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.reads(torch.relu(self.depthwise(torch.relu(self.norm(self.stem(x) + self.inner(x))))))


def residual() -> tuple[nn.Module, Graph]:
    torch.manual_seed(0)
    model = Residual().double().eval()
    with torch.no_grad():
        for filter, scale in ((3, 2.0), (5, 0.5)):
            model.inner.weight[filter] = model.inner.weight[1] * scale
            model.stem.bias[filter] = model.stem.bias[1] * scale
            model.depthwise.weight[filter], model.depthwise.bias[filter] = (
                model.depthwise.weight[1],
                model.depthwise.bias[1],
            )
            rescaled(model.stem, model.norm, 1, filter, scale)
    graph = chain(model, "stem", "inner", "depthwise", "reads")
    places = tuple((r,) for r in range(6))
    made = [Entries(name, 0, places, "produces") for name in ("stem.weight", "stem.bias", "inner.weight")]
    made += [Entries(f"norm.{name}", 0, places, "follows") for name in OF_A_NORM]
    made += [Entries(f"depthwise.{name}", 0, places, "follows") for name in ("weight", "bias")]
    stream = Coupling("stem", 6, (*made, Entries("reads.weight", 1, places, "consumes")))
    return model, Graph(graph.layers, (stream,), {})


@pytest.mark.parametrize("made", [plain, residual])
def test_filters_of_the_same_outputs_merge_without_loss(made: object) -> None:
    model, graph = made()
    before = copy.deepcopy(model.state_dict())
    name = graph.couplings[0].name
    found = merge(model, graph, {name: 4})
    x = torch.randn(4, 2, 6 if made is residual else 4, 6 if made is residual else 4, dtype=torch.float64)
    assert len(set(found.removed[name]) & {1, 3, 5}) == 2
    torch.testing.assert_close(found.small(x), model(x), atol=1e-9, rtol=1e-9)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


@pytest.mark.parametrize("made", [plain, residual])
def test_features_agree_where_outputs_do(made: object) -> None:
    model, graph = made()
    features = features_of(model, graph, graph.couplings[0])
    assert features.dtype == torch.float64
    equal = [(i, j) for i, j in combinations(range(6), 2) if torch.allclose(features[i], features[j])]
    assert equal == [(1, 3), (1, 5), (3, 5)]


def test_the_filters_of_transposed_and_grouped_layers() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.ConvTranspose2d(4, 8, 2, groups=2), nn.ReLU(), nn.Conv2d(8, 3, 1)).double()
    with torch.no_grad():  # filter 3 of both groups repeats filter 0
        model[0].weight[:, 3] = model[0].weight[:, 0]
        model[0].bias[3::4] = model[0].bias[::4]
    graph = chain(model, "0", "2")
    reads = tuple((r, r + 4) for r in range(4))
    first, second = graph.layers
    made = coupling_of(model, first, second)
    made_of_bias = Entries("0.bias", 0, reads, "produces")
    weight = Entries("0.weight", 1, tuple((r,) for r in range(4)), "produces")
    coupling = Coupling("0", 4, (weight, made_of_bias, Entries("2.weight", 1, reads, "consumes")))
    assert made.width == 2  # what the chain makes of it, which does not know of transposed groups
    graph = Graph(graph.layers, (coupling,), {})
    found = merge(model, graph, {"0": 3})
    assert found.removed == {"0": (3,)}
    x = torch.randn(2, 4, 3, 3, dtype=torch.float64)
    torch.testing.assert_close(found.small(x), model(x), atol=1e-9, rtol=1e-9)


def test_costs_are_of_nested_clusters_that_merge_uses() -> None:
    model, graph = plain()
    curve = costs(model, graph, graph.couplings[0])
    assert sorted(curve.order) == list(range(6))
    assert list(curve.error) == sorted(curve.error)
    assert curve.error[1] == pytest.approx(0.0, abs=1e-12)
    assert curve.error[2] > 1e-4
    assert curve.error[-1] == math.inf
    for width in range(1, 7):
        assert merge(model, graph, {"0": width}).removed == {"0": tuple(sorted(curve.order[: 6 - width]))}


def test_costs_are_of_energy_lost_over_energy_left() -> None:
    model = nn.Sequential(nn.Linear(2, 3, bias=False), nn.Linear(3, 1)).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[3.0, 0.0], [2.0, 0.0], [0.0, 4.0]]))
        model[1].weight.copy_(torch.tensor([[2.0, 1.0, 2.0]]))
    graph = chain(model, "0", "1")
    curve = costs(model, graph, graph.couplings[0])
    assert curve.order == (1, 2, 0) or curve.order == (1, 0, 2)
    energy, lost = 4 * 9 + 4 + 4 * 16, 4 * 0.2**2 + 0.8**2  # of the first two, about their mean of 2.8
    assert curve.error[0] == pytest.approx(lost / (energy - lost))
    left = 9 * float(torch.tensor([14 / 9, 16 / 9]).square().sum())  # points have the energy of and about their mean
    assert curve.error[1] == pytest.approx((energy - left) / left)


def test_a_width_that_none_can_have() -> None:
    model, graph = plain()
    for width in (0, 7):
        with pytest.raises(ValueError, match="width of '0' must lie in 1 to 6"):
            merge(model, graph, {"0": width})


def off_the_means(points: Tensor, masses: Tensor, clusters: list[set[int]]) -> float:
    total = 0.0
    for cluster in clusters:
        of, mass = points[sorted(cluster)], masses[sorted(cluster)].unsqueeze(1)
        total += float((mass * (of - (mass * of).sum(0) / mass.sum()).square()).sum())
    return total


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 7), st.integers(0, 1000))
def test_each_merge_adds_the_least_to_the_squared_distances(count: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    masses = torch.rand(count, generator=generator, dtype=torch.float64) + 0.1
    clusters = {point: {point} for point in range(count)}
    for step in ward(points, masses):
        now = off_the_means(points, masses, list(clusters.values()))
        added = [
            off_the_means(points, masses, [one | two]) - off_the_means(points, masses, [one, two])
            for one, two in combinations(clusters.values(), 2)
        ]
        assert step.cost == pytest.approx(min(added), rel=1e-9)
        clusters[step.stays] |= clusters.pop(step.leaves)
        assert off_the_means(points, masses, list(clusters.values())) == pytest.approx(now + step.cost, rel=1e-9)
        assert step.stays in clusters[step.stays]
    assert len(clusters) == 1
