"""Which filter leaves first, against each choice written out in loops."""

from __future__ import annotations

import pytest
import torch
from hand_graphs import entry, pair, residual
from torch import nn

from ckrm_kernels import pairwise_psi
from ckrm_kernels.shrinking.choices import order, signed_psi
from ckrm_kernels.shrinking.couplings import Coupling

MODEL, GRAPH = residual(width=6, inner=5)
STREAM, BRANCH = GRAPH.couplings
MADE = [MODEL.stem.weight.detach(), MODEL.widen.weight.detach()]  # by which the stream's filters are made


def ascending(scores):
    return sorted(range(len(scores)), key=scores.__getitem__)


def test_l1_sums_over_all_that_produce_a_filter():
    scores = [sum(weight[r].abs().sum().item() for weight in MADE) for r in range(6)]
    assert order("l1", MODEL, GRAPH, STREAM) == ascending(scores)


def test_fpgm_is_of_distances_not_of_distances_of_magnitudes():
    scores = [sum((w[r] - w[s]).square().sum().sqrt().item() for w in MADE for s in range(6)) for r in range(6)]
    assert order("fpgm", MODEL, GRAPH, STREAM) == ascending(scores)
    model, graph = pair(nn.Conv2d(1, 3, 2, bias=False), nn.Conv2d(3, 1, 1))
    with torch.no_grad():
        model.first.weight[:] = torch.tensor([1.0, -1.0, 0.9]).view(3, 1, 1, 1)
    assert order("fpgm", model, graph, graph.couplings[0]) == [2, 0, 1]  # by |w| all would be near each other


def test_bn_is_by_the_norms_that_follow():
    with torch.no_grad():
        MODEL.norm.weight[:] = torch.tensor([0.5, -0.1, -2.0, 0.3, 0.1])
    assert order("bn", MODEL, GRAPH, BRANCH) == [1, 4, 3, 0, 2]
    with pytest.raises(ValueError, match="a norm with weights behind the filters of 'stem'; there is none"):
        order("bn", MODEL, GRAPH, STREAM)


def test_random_is_by_its_generator():
    first, second = (order("random", MODEL, GRAPH, STREAM, generator=torch.Generator().manual_seed(3)) for _ in "ab")
    assert first == second
    assert sorted(first) == list(range(6))
    state = torch.get_rng_state()
    order("random", MODEL, GRAPH, STREAM, generator=torch.Generator())
    assert torch.equal(state, torch.get_rng_state())


def test_signed_psi_is_the_mean_over_the_layers():
    options = {"layout": "square", "signed": True, "scale_free": True}
    vectors = MADE[1].flatten(1).unsqueeze(1)  # a pointwise filter is one slice
    expected = (pairwise_psi(MADE[0], **options) + pairwise_psi(vectors, **options)) / 2
    torch.testing.assert_close(signed_psi(MODEL, GRAPH, STREAM), expected)


def test_psi_takes_the_weaker_of_the_most_similar_pair_again_and_again():
    psi = signed_psi(MODEL, GRAPH, STREAM)
    norms = [sum(w[r].square().sum().item() for w in MADE) for r in range(6)]
    left, expected = list(range(6)), []
    while len(left) > 1:
        _, i, j = max((psi[i, j].item(), i, j) for i in left for j in left if i < j)
        left.remove(i if norms[i] < norms[j] else j)
        expected.append(({i, j} - set(left)).pop())
    assert order("psi", MODEL, GRAPH, STREAM) == expected + left


def test_by_psi_a_filter_and_its_negative_are_not_alike():
    torch.manual_seed(0)
    model, graph = pair(nn.Conv2d(2, 4, 3, bias=False), nn.Conv2d(4, 1, 1))
    with torch.no_grad():
        model.first.weight[1] = -0.9 * model.first.weight[0]
        model.first.weight[3] = 0.9 * model.first.weight[2]
    psi = signed_psi(model, graph, graph.couplings[0])
    assert psi[2, 3] > 0.95
    assert psi[0, 1] < -0.95
    assert order("psi", model, graph, graph.couplings[0])[0] == 3


def test_the_filters_of_different_groups_are_not_compared():
    model, graph = pair(nn.Conv2d(4, 4, 3, groups=2, bias=False), nn.Conv2d(4, 1, 1))
    with torch.no_grad():
        model.first.weight[:] = model.first.weight[:1]
    psi = signed_psi(model, graph, graph.couplings[0])
    assert torch.equal(psi > 0.99, torch.block_diag(torch.ones(2, 2), torch.ones(2, 2)).bool())
    assert (psi[:2, 2:] == 0).all()


def test_a_filter_of_several_indices_has_all_their_weights():
    model, graph = pair(nn.Conv2d(1, 6, 2), nn.Conv2d(6, 1, 1), filters=[(r, r + 3) for r in range(3)])
    weight = model.first.weight.detach()
    scores = [(weight[r].abs().sum() + weight[r + 3].abs().sum()).item() for r in range(3)]
    assert order("l1", model, graph, graph.couplings[0]) == ascending(scores)
    stacked = torch.stack([weight[:3, 0], weight[3:, 0]], 1)
    expected = pairwise_psi(stacked, layout="square", signed=True, scale_free=True)
    torch.testing.assert_close(signed_psi(model, graph, graph.couplings[0]), expected)


def test_a_transposed_convolutions_filters_are_its_outputs():
    model, graph = pair(nn.ConvTranspose2d(3, 4, 2), nn.Conv2d(4, 1, 1))
    scores = [model.first.weight[:, r].abs().sum().item() for r in range(4)]
    assert order("l1", model, graph, graph.couplings[0]) == ascending(scores)


def test_a_function_of_the_weights():
    given = []

    def scores(weight):
        given.append(weight)
        return -weight.amax(1)

    found = order(scores, MODEL, GRAPH, STREAM)
    assert torch.equal(given[0], torch.cat([weight.flatten(1) for weight in MADE], 1))
    assert found == ascending([-max(w[r].max().item() for w in MADE) for r in range(6)])


def test_of_equal_scores_the_first_leaves_first():
    assert order(lambda weight: torch.zeros(len(weight)), MODEL, GRAPH, STREAM) == list(range(6))


@pytest.mark.parametrize(
    ("choose", "message"),
    [
        ("taylor", "choose must be one of psi, l1, fpgm, bn, random, or a function of weights, got 'taylor'"),
        (None, "or a function of weights, got None"),
        (lambda weight: weight, r"a tensor \(6,\), a score of each filter, got \(6, 23\)"),
        (lambda weight: 1.0, r"a tensor \(6,\), a score of each filter, got float"),
        (lambda weight: weight.sum(1) * torch.nan, "choose gives NaN"),
    ],
)
def test_bad_choices(choose, message):
    with pytest.raises(ValueError, match=message):
        order(choose, MODEL, GRAPH, STREAM)


def test_the_only_filter():
    coupling = Coupling("stem", 1, (entry("stem.weight", 0, 1, "produces"),))
    for choose in ("psi", "l1", "fpgm", "random"):
        assert order(choose, MODEL, GRAPH, coupling) == [0]
