"""RedundancyLoss with toward="together": its formula, the pairs that it pulls, and that they then merge."""

from __future__ import annotations

import copy

import pytest
import torch
from loss_networks import INPUT, Net, net
from torch import nn

from ckrm_kernels import RedundancyLoss, pairwise_psi, plan_shrink
from ckrm_kernels.redundancy_loss.together import paired


def loss_of(model, **options):
    return RedundancyLoss(model, toward="together", example_inputs=torch.randn(INPUT), **options)


def test_the_squared_distances_of_all_that_makes_a_filter():
    model = net().double()
    model.inner_norm.weight.data.uniform_(0.5, 1.5)
    model.inner_norm.bias.data.normal_()
    penalty = RedundancyLoss(model, toward="together", example_inputs=torch.randn(INPUT).double(), layers="inner")
    found = penalty()
    of_conv = model.inner.weight.flatten(1)
    of_norm = torch.stack([model.inner_norm.weight, model.inner_norm.bias], 1)
    (pairs,) = penalty.pairs.values()
    assert len(pairs) == 5
    expected = sum(
        (v[i] - v[j]).square().sum() / v.detach().square().sum(1).mean() for v in (of_conv, of_norm) for i, j in pairs
    ) / len(pairs)
    assert found.item() == pytest.approx(expected.item(), rel=1e-12)
    parameters = [model.inner.weight, model.inner_norm.weight, model.inner_norm.bias]
    for of_found, of_expected in zip(
        torch.autograd.grad(found, parameters), torch.autograd.grad(expected, parameters), strict=True
    ):
        torch.testing.assert_close(of_found, of_expected)


def test_a_sum_couples_its_layers():
    """stem and outer are added: their filters merge together or not at all; grouped follows with 4 a group."""
    parts = loss_of(net())._term.parts
    assert {"stem", "outer", "norm"} <= set(parts["stem"])
    assert set(parts["inner"]) == {"inner", "inner_norm"}


def test_the_most_alike_by_sign_are_paired():
    model = net()
    with torch.no_grad():
        model.inner.weight[7] = model.inner.weight[2] * 1.5  # the weaker leaves
        model.inner.weight[1] = -model.inner.weight[4]  # Psi 1 without the sign
    penalty = loss_of(model, layers="inner", share=0.15)
    penalty()
    assert penalty.pairs == {"inner": [(2, 7)]}


def test_who_leaves_goes_to_the_most_similar_that_stays():
    similarity = torch.tensor([[1, 0.9, 0.2, -0.1], [0.9, 1, 0.3, -0.2], [0.2, 0.3, 1, -0.3], [-0.1, -0.2, -0.3, 1.0]])
    assert paired(similarity, [1]).tolist() == [[1, 0]]
    assert paired(similarity, [1, 0]).tolist() == [[0, 2], [1, 2]]
    assert paired(similarity, [3]).tolist() == []  # it is like none
    assert paired(similarity, []).tolist() == []


def test_pairs_are_pulled_together_and_merge_without_loss():
    model = net()
    penalty = loss_of(model, layers="inner", share=0.4)
    optimizer = torch.optim.SGD(model.parameters(), 0.3)
    for _ in range(150):
        optimizer.zero_grad()
        penalty().backward()
        optimizer.step()
    assert penalty().item() < 1e-6
    pairs = penalty.pairs["inner"]
    packed = pairwise_psi(model.inner.weight.detach(), layout="square", signed=True, scale_free=True)
    assert all(packed[pair] > 0.999 for pair in pairs)
    images = torch.randn(64, *INPUT[1:])
    with torch.no_grad():
        model(images)  # running statistics follow
    model.eval()
    whole = sum(each.numel() for each in model.parameters())
    saved = len(pairs) * (8 * 9 + 2 + 8 * 9)  # of a filter: its weights, norm and what reads it
    plan = plan_shrink(
        model, images[:2], parameters=whole - saved, ignore=["stem", "outer", "grouped", "point", "head"]
    )
    assert len(plan.removed["inner"]) == len(pairs)
    small = plan.apply()
    torch.testing.assert_close(small(images), model(images), rtol=0, atol=1e-4)


def test_what_leaves_with_a_frozen_layer_is_left_out():
    """stem and outer are added: no filter of theirs can become equal while one of them is frozen."""
    model = net()
    both, inner = loss_of(model, layers=["inner", "outer"]), loss_of(model, layers="inner")
    assert both().item() != inner().item()
    model.stem.weight.requires_grad_(False)
    assert both().item() == inner().item()
    with torch.no_grad():
        assert both().item() == inner().item()


def test_pairs_stay_between_refreshes():
    model = net()
    penalty = loss_of(model, refresh=2)
    penalty()
    first = penalty.pairs
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    with torch.no_grad():
        penalty()  # counts for nothing
    penalty()
    assert penalty.pairs == first
    penalty()
    assert penalty.pairs != first


def test_a_resumed_training_has_the_same_pairs():
    model = net()
    first, second = loss_of(model), loss_of(model)
    first()
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    second.load_state_dict(first.state_dict())
    assert second().item() == first().item()
    assert second.pairs == first.pairs


def test_the_model_stays_as_it_was():
    model = net().train()
    kept = copy.deepcopy(model.state_dict())
    state = torch.random.get_rng_state()
    loss_of_model = RedundancyLoss(model, toward="together", example_inputs=torch.zeros(INPUT))
    loss_of_model()
    assert torch.equal(state, torch.random.get_rng_state())
    assert model.training
    assert all(torch.equal(tensor, kept[name]) for name, tensor in model.state_dict().items())
    assert all(each.grad is None for each in model.parameters())
    assert not list(loss_of_model.parameters())
    assert isinstance(model, Net)
