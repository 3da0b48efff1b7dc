"""The graph of hand-made networks: what may leave, what may not and why, and that what leaves together is right."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import cache

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from ckrm_kernels.shrinking.couplings import Graph
from ckrm_kernels.shrinking.graph import trace
from ckrm_kernels.shrinking.plan import plan_shrink
from ckrm_kernels.shrinking.surgery import without
from tests.shrinking.small_networks import NETWORKS

_QUICK = (
    "residual",
    "dense",
    "mobile",
    "grouped",
    "grouped transposed",
    "view of constants",
    "flattened NHWC",
    "flipped",
    "option A",
    "constant split",
    "computed split",
    "strided",
    "chunked",
    "first channels",
    "channel shuffle",
    "functional convolution",
    "scales",
    "tied",
    "layer norm",
    "norms of each channel",
    "norms over channels",
    "read by .data",
    "unpooled",
    "in frequencies",
    "attention of any heads",
    "other names",
    "attention",
    "without a rule",
)
_EACH = pytest.mark.parametrize(
    "name", [name if name in _QUICK else pytest.param(name, marks=pytest.mark.exhaustive) for name in NETWORKS]
)


@cache
def _traced(name: str) -> tuple[nn.Module, Graph]:
    model = NETWORKS[name].model()
    return model, trace(model, NETWORKS[name].example())


@_EACH
def test_what_can_shrink_and_what_not(name: str) -> None:
    small, (_, graph) = NETWORKS[name], _traced(name)
    assert {coupling.name: coupling.width for coupling in graph.couplings} == small.shrinkable
    assert set(graph.fixed) == set(small.fixed)
    for layer, part in small.fixed.items():
        assert part in graph.fixed[layer]
    assert {coupling.name for coupling in graph.couplings if coupling.statistics_change} == set(small.statistics)


@_EACH
def test_a_shrunk_network_is_the_original_that_ignores_what_left(name: str) -> None:
    """In float64, each coupling for itself and all together; behind statistics over filters the shapes agree."""
    model, graph = _traced(name)
    example = NETWORKS[name].example()
    removals = [{coupling.name: _some(coupling.width)} for coupling in graph.couplings]
    for removed in [*removals, {name: filters for each in removals for name, filters in each.items()}]:
        exact = not any(graph.coupling(coupling).statistics_change for coupling in removed)
        shrunk = tree_leaves(without(model, graph, removed)(*example))
        ignoring = tree_leaves(_ignoring(model, graph, removed)(*example))
        for one, other in zip(shrunk, ignoring, strict=True):
            assert one.shape == other.shape
            if exact:
                torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_norms_without_tensors_have_the_width_that_is_left() -> None:
    model, graph = _traced("norms of each channel")
    small = without(model, graph, {"stem": [0, 3, 5], "inner": [1]})
    assert (small.instance.num_features, small.batch.num_features) == (3, 3)
    assert (small.alone.num_groups, small.alone.num_channels) == (3, 3)
    assert (small.groups.num_groups, small.groups.num_channels) == (4, 4)
    model, graph = _traced("norms over channels")
    small = without(model, graph, {"stem": [2], "second": [0, 1], "third": [4]})
    assert (small.layer.normalized_shape, small.root.normalized_shape) == ((5,), (4,))
    assert (small.groups.num_groups, small.groups.num_channels) == (2, 4)
    assert model.layer.normalized_shape == (6,)


class _Auxiliary(nn.Module):
    """A head and a parameter that training alone uses, and a head whose output is dropped in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.inner = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Conv2d(6, 5, 3)
        self.side, self.auxiliary, self.classes = nn.Conv2d(6, 4, 1), nn.Conv2d(6, 7, 1), nn.Linear(7, 3)
        self.last, self.noise = nn.Linear(5, 3), nn.Parameter(torch.randn(5, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        x = self.norm(self.stem(x)).relu()
        inner = self.inner(x) + self.noise if self.training else self.inner(x)
        y, side = self.last(inner.mean((2, 3))), self.side(x)
        return (y, side, self.classes(self.auxiliary(x).relu().mean((2, 3)))) if self.training else y


def test_layers_that_training_alone_runs_are_cut_with_what_they_read() -> None:
    torch.manual_seed(0)
    model, images = _Auxiliary().double(), torch.randn(2, 3, 8, 8, dtype=torch.float64)
    before = copy.deepcopy(model.state_dict())
    graph = trace(model, images)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert {coupling.name: coupling.width for coupling in graph.couplings} == {"stem": 6, "inner": 5}
    assert set(graph.fixed) == {"side", "last", "auxiliary", "classes"}
    assert {layer.name for layer in graph.layers} == {"stem", "inner", "side", "last"}
    removed = {"stem": [1, 4], "inner": [0]}
    small = without(model, graph, removed)
    for one, other in zip(small(images), _ignoring(model, graph, removed)(images), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)
    small = plan_shrink(model, images, calibration=images.repeat(4, 1, 1, 1), parameters=0.8).apply()
    assert [each.shape[1] for each in small.train()(images)] == [3, 4, 3]


def _some(width: int) -> list[int]:
    """The first, the last and a middle one, but never all."""
    return sorted({0, width // 2, width - 1})[: width - 1]


def _ignoring(model: nn.Module, graph: Graph, removed: Mapping[str, list[int]]) -> nn.Module:
    """A copy whose layers read nothing of these filters: the definition of their removal."""
    ignoring = copy.deepcopy(model)
    tensors = dict(ignoring.named_parameters())
    for name, filters in removed.items():
        for entry in graph.coupling(name).with_role("consumes"):
            with torch.no_grad():
                tensors[entry.tensor].index_fill_(entry.dim, torch.tensor(entry.of(filters)), 0)
    return ignoring
