"""Sizes that are counted without building, against networks that are built and run."""

from __future__ import annotations

import dataclasses

import torch
from hand_graphs import pair, residual
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ckrm_kernels.shrinking.counting import Counter, Size, size_of


def measured(model, images):
    """The size by torch's own counter, which counts a multiply-add as two operations."""
    with FlopCounterMode(display=False) as counter:
        model(images)
    return Size(sum(parameter.numel() for parameter in model.parameters()), counter.get_total_flops() // 2)


IMAGE = torch.zeros(1, 2, 6, 6, dtype=torch.float64)


@settings(max_examples=10)
@given(stream=st.sets(st.integers(0, 7), max_size=7), branch=st.sets(st.integers(0, 4), max_size=4))
def test_a_residual_network_without_filters(stream, branch):
    model, graph = residual(width=8, inner=5)
    small, _ = residual(width=8 - len(stream), inner=5 - len(branch))
    assert size_of(model, graph, {"stem": stream, "narrow": branch}) == measured(small, IMAGE)


def test_nothing_removed():
    model, graph = residual()
    assert size_of(model, graph) == size_of(model, graph, {}) == measured(model, IMAGE)


def test_flattened_filters_take_all_their_features():
    def network(width):
        reads = [tuple(range(9 * r, 9 * r + 9)) for r in range(width)]
        return pair(nn.Conv2d(1, width, 2), nn.Linear(9 * width, 5), nn.Flatten(), reads=reads)

    model, graph = network(4)
    layers = {layer.name: layer for layer in graph.layers}
    assert layers["second"].positions == 1
    size = size_of(model, graph, {"first": [0, 2]})
    assert size.parameters == measured(network(2)[0], torch.zeros(1, 1, 4, 4)).parameters


def test_grouped_filters_leave_every_group():
    def network(of_group):
        filters = [(r, r + of_group) for r in range(of_group)]
        first, second = nn.Conv2d(3, 2 * of_group, 1), nn.Conv2d(2 * of_group, 4, 3, groups=2, padding=1)
        return pair(first, second, nn.BatchNorm2d(2 * of_group), filters=filters, reads=of_group, positions=25)

    model, graph = network(5)
    assert size_of(model, graph, {"first": [1, 4]}) == measured(network(3)[0].eval(), torch.zeros(1, 3, 5, 5))


def test_transposed_and_linear_layers():
    def up(width):
        return pair(nn.Conv2d(1, width, 1), nn.ConvTranspose2d(width, 3, 2, stride=2), nn.ReLU(), positions=16)

    def tokens(width):
        return pair(nn.Linear(2, width), nn.Linear(width, 3), nn.ReLU(), positions=7)

    for network, example in ((up, torch.zeros(1, 1, 4, 4)), (tokens, torch.zeros(1, 7, 2))):
        model, graph = network(6)
        assert size_of(model, graph, {"first": [0, 5, 3]}) == measured(network(3)[0], example)


@settings(max_examples=30)
@given(st.permutations([("stem", r) for r in range(4)] + [("narrow", r) for r in range(3)]), st.integers(0, 7))
def test_one_by_one_is_as_at_once(order, count):
    model, graph = residual()
    counter, removed = Counter(model, graph), {"stem": set(), "narrow": set()}
    for name, filter in order[:count]:
        before, saved = counter.size, counter.removing(name, [filter])
        counter.remove(name, [filter])
        assert before - saved == counter.size
        removed[name].add(filter)
    assert counter.size == size_of(model, graph, removed)


def test_a_shared_weight_counts_once_and_works_twice():
    model, graph = pair(nn.Linear(4, 4), nn.Linear(4, 4))
    model.second.weight = model.first.weight
    first, second = graph.layers
    graph = dataclasses.replace(graph, layers=(first, dataclasses.replace(second, weight="first.weight")), couplings=())
    assert size_of(model, graph) == measured(model, torch.zeros(1, 4)) == Size(16 + 8, 32)
