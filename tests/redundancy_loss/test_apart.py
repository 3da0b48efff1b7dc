"""RedundancyLoss with toward="apart": its formula, what it reads, and a sample of the pairs."""

from __future__ import annotations

import itertools
import statistics

import pytest
import torch
from definition import Psi, omega
from hypothesis import given
from hypothesis import strategies as st
from loss_networks import SPATIAL, net
from torch import nn
from torch.nn.utils import parametrizations

from ckrm_kernels import RedundancyLoss, measure, pairwise_psi
from ckrm_kernels.sampling import packed_to_pairs


def value_of(weights, threshold, temperature, **options):
    """The formula, a layer a list of banks."""
    layers = []
    for banks in weights:
        psi = torch.cat([pairwise_psi(bank, backend="reference", **options) for bank in banks])
        layers.append(torch.sigmoid((psi - threshold) / temperature).mean())
    return torch.stack(layers).mean()


def weights_of(model):
    return [
        [model.stem.weight],
        [model.inner.weight],
        [model.outer.weight],
        [model.grouped.weight[:4], model.grouped.weight[4:]],
    ]


@pytest.mark.parametrize("options", [{}, {"similarity": "cosine", "signed": True}], ids=str)
def test_the_mean_over_layers_of_the_smooth_lambda(options):
    model = net().double()
    found = RedundancyLoss(model, 0.3, temperature=0.2, **options)()
    exact = value_of(weights_of(model), 0.3, 0.2, **options)
    assert found.item() == pytest.approx(exact.item(), abs=1e-12)
    parameters = [getattr(model, name).weight for name in SPATIAL]
    expected = torch.autograd.grad(exact, parameters)
    for of_weight, each in zip(torch.autograd.grad(found, parameters), expected, strict=True):
        torch.testing.assert_close(of_weight, each, rtol=0, atol=1e-9 * float(each.abs().max()))


def test_one_layer_by_the_definition():
    """Loops in 40 digits."""
    layer = nn.Conv2d(2, 4, 3)
    psi = omega(layer.weight.detach(), Psi())
    expected = torch.sigmoid((psi - 0.4) / 0.1).mean().item()
    assert RedundancyLoss([layer], 0.4)().item() == pytest.approx(expected, abs=1e-5)


def test_it_goes_to_lambda():
    model = net().double()
    expected = statistics.fmean(row.redundancy for row in measure(model, 0.3, details=False).measured)
    assert RedundancyLoss(model, 0.3, temperature=1e-9)().item() == pytest.approx(expected, abs=1e-9)


def test_scale_free_does_not_see_scale():
    model, larger = net(), net()
    larger.stem.weight.data *= 16.0
    penalties = [RedundancyLoss(each, 0.3, layers="stem", scale_free=True) for each in (model, larger)]
    assert penalties[0]().item() == pytest.approx(penalties[1]().item(), abs=1e-6)
    (gradient,) = torch.autograd.grad(penalties[0](), model.stem.weight)
    assert (gradient * model.stem.weight).sum().item() == pytest.approx(0, abs=1e-6)  # none along the weight


def test_a_step_down_the_gradient_pushes_apart():
    model = net()
    with torch.no_grad():
        model.stem.weight[4:] = model.stem.weight[:4] + 0.03 * torch.randn_like(model.stem.weight[:4])
    penalty = RedundancyLoss(model, 0.6, layers="stem", scale_free=True)
    before = measure(model, 0.6, scale_free=True).measured[0].redundancy
    optimizer = torch.optim.SGD([model.stem.weight], 1.0)
    for _ in range(30):
        optimizer.zero_grad()
        penalty().backward()
        optimizer.step()
    assert measure(model, 0.6, scale_free=True).measured[0].redundancy < before


@pytest.mark.parametrize(("pointwise", "layers"), [("skip", 4), ("slices", 6), ("vector", 6)])
def test_pointwise_layers(pointwise, layers):
    model = net()
    banks = weights_of(model)
    if pointwise != "skip":
        for weight in (model.point.weight, model.head.weight):
            banks.append([weight.flatten(1).unsqueeze(1) if pointwise == "vector" else weight])
    assert len(banks) == layers
    found = RedundancyLoss(model, 0.3, pointwise=pointwise)()
    assert found.item() == pytest.approx(value_of(banks, 0.3, 0.1).item(), abs=1e-6)


@pytest.mark.parametrize(
    ("patterns", "names"),
    [("stem", ["stem"]), (["inn*", "group"], ["inner", "grouped"]), ("er", ["inner", "outer"])],
)
def test_layers_by_patterns(patterns, names):
    model = net()
    weights = dict(zip(SPATIAL, weights_of(model), strict=True))
    found = RedundancyLoss(model, 0.3, layers=patterns)()
    assert found.item() == pytest.approx(value_of([weights[name] for name in names], 0.3, 0.1).item(), abs=1e-6)


def test_the_weight_that_the_forward_pass_uses():
    model = net()
    parametrizations.weight_norm(model.stem)
    penalty = RedundancyLoss(model, 0.3, layers="stem")
    with torch.no_grad():
        model.stem.parametrizations.weight.original1.mul_(torch.linspace(0.5, 2, 8).view(-1, 1, 1, 1))
    assert penalty().item() == pytest.approx(value_of([[model.stem.weight]], 0.3, 0.1).item(), abs=1e-6)
    penalty().backward()
    assert model.stem.parametrizations.weight.original1.grad.abs().sum() > 0


def test_a_shared_weight_counts_once():
    model = nn.Sequential(nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3))
    model[1].weight = model[0].weight
    assert RedundancyLoss(model, 0.3)().item() == pytest.approx(RedundancyLoss([model[0]], 0.3)().item())


# ---- chance ----------------------------------------------------------------------------------------------------------


def test_one_in_a_hundred_pairs_by_chance_lies_above_the_chance_threshold():
    layer = nn.Conv2d(16, 48, 3)
    penalty = RedundancyLoss([layer], "chance", temperature=1e-9)
    with torch.no_grad():  # filters that chance made: 1 % of 1,128 pairs, 4 standard errors
        assert penalty().item() == pytest.approx(0.01, abs=0.012)
    with torch.no_grad():
        layer.weight[24:] = layer.weight[:24]  # 24 repeats
    assert penalty().item() > 24 / (48 * 47 / 2) - 1e-6


def test_chance_has_a_gradient_where_a_threshold_far_above_has_none():
    layer = nn.Conv2d(16, 24, 3)
    far, chance = (RedundancyLoss([layer], t, temperature=0.01) for t in (0.99, "chance"))
    (of_far,), (of_chance,) = (torch.autograd.grad(each(), layer.weight) for each in (far, chance))
    assert of_chance.abs().max() > 1e3 * of_far.abs().max()


def test_chance_thresholds_are_taken_anew():
    layer = nn.Conv2d(8, 12, 3)
    penalty = RedundancyLoss([layer], "chance", refresh=2)
    first = penalty().item()
    with torch.no_grad():
        layer.weight.mul_(0.05)  # at an absolute eps all are alike now, by chance too
    kept, anew = penalty().item(), penalty().item()
    assert kept == pytest.approx(1, abs=1e-2)
    assert anew < 0.9
    assert first < 0.9


# ---- a sample of the pairs -------------------------------------------------------------------------------------------


def test_draws_average_to_the_full_value_and_gradient():
    model = net().double()
    full, sampled = (RedundancyLoss(model, 0.3, pairs_per_step=count) for count in (None, 7))
    parameters = [getattr(model, name).weight for name in SPATIAL]
    values, gradients = [], []
    for _ in range(200):
        value = sampled()
        values.append(value.item())
        gradients.append(torch.cat([each.flatten() for each in torch.autograd.grad(value, parameters)]))
    error = statistics.stdev(values) / 200**0.5
    assert statistics.fmean(values) == pytest.approx(full().item(), abs=4 * error)
    mean, spread = torch.stack(gradients).mean(0), torch.stack(gradients).std(0) / 200**0.5
    expected = torch.cat([each.flatten() for each in torch.autograd.grad(full(), parameters)])
    off = (mean - expected).abs() / spread.clamp_min(1e-12)
    assert off.square().mean() < 1.5  # that of a normal deviate is 1


def test_every_sample_once_gives_the_full_value(monkeypatch):
    """Exact: the mean over all sets of 2 of the 6 pairs."""
    from ckrm_kernels.redundancy_loss import apart

    layer = nn.Conv2d(2, 4, 3).double()
    sets = [torch.tensor(chosen) for chosen in itertools.combinations(range(6), 2)]
    drawn = iter(sets)
    monkeypatch.setattr(apart, "uniform_sample", lambda *_: next(drawn))
    sampled = RedundancyLoss([layer], 0.3, pairs_per_step=2)
    values = [sampled().item() for _ in sets]
    assert statistics.fmean(values) == pytest.approx(RedundancyLoss([layer], 0.3)().item(), abs=1e-12)


@given(st.integers(1, 14))
def test_a_sample_has_so_many_different_pairs(count):
    layer = nn.Conv2d(2, 12, 3, groups=2)  # two groups of 15 pairs
    penalty = RedundancyLoss([layer], pairs_per_step=count)
    drawn = penalty._term._drawn([layer.weight[:6], layer.weight[6:]])
    pairs = [(bank, *pair) for bank, each in enumerate(drawn) for pair in each.tolist()]
    assert len(set(pairs)) == len(pairs) == count
    assert {pair[1:] for pair in pairs} <= {tuple(pair) for pair in packed_to_pairs(torch.arange(15), 6).tolist()}


def test_layers_with_few_pairs_are_taken_whole():
    model = net()
    assert RedundancyLoss(model, 0.3, pairs_per_step=45)().item() == RedundancyLoss(model, 0.3)().item()


def test_a_resumed_training_draws_the_same_pairs():
    model = net()
    first, second = (RedundancyLoss(model, 0.3, pairs_per_step=5, seed=seed) for seed in (0, 1))
    for _ in range(3):
        first()
    state = torch.random.get_rng_state()
    second.load_state_dict(first.state_dict())
    assert [first().item() for _ in range(3)] == [second().item() for _ in range(3)]
    assert torch.equal(state, torch.random.get_rng_state())  # the process-wide one is not touched
