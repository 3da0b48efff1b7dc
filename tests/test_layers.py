"""The filter banks of a model's layers keep their graph: gradients reach the parameters that each weight is made of."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from ckrm_kernels.layers import model_layers
from ckrm_kernels.reference import pairwise_psi
from ckrm_kernels.similarity import Similarity

PSI = Similarity()


def penalty(banks) -> torch.Tensor:
    """Something differentiable of every bank: the mean of its Psi by the definition."""
    return sum(pairwise_psi(bank, PSI).mean() for bank in banks)


def conv(**options) -> nn.Conv2d:
    return nn.Conv2d(4, 6, 3, **options).double()


def gradients_of_layers(model: nn.Module) -> dict[str, torch.Tensor | None]:
    """By the name of its parameter, of the penalty on everything that `model_layers` finds."""
    model.zero_grad()
    penalty(bank for layer in model_layers(model) for bank in layer.banks).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize(
    ("module", "banks"),
    [
        (conv(), lambda weight: [weight]),
        (conv(groups=2), lambda weight: [weight[:3], weight[3:]]),
        (nn.Conv2d(6, 6, 3, groups=6).double(), lambda weight: [weight]),
        (nn.ConvTranspose2d(4, 6, 3).double(), lambda weight: [weight.transpose(0, 1)]),
        (nn.Linear(5, 4).double(), lambda weight: [weight]),
    ],
    ids=["conv", "grouped", "depthwise", "transposed", "linear"],
)
def test_of_a_plain_weight(module, banks):
    weight = module.weight.detach().clone().requires_grad_()
    (expected,) = torch.autograd.grad(penalty(banks(weight)), weight)
    found = gradients_of_layers(nn.Sequential(module))
    torch.testing.assert_close(found["0.weight"], expected)
    assert found["0.bias"] is None


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    ("norm", "names"),
    [
        (weight_norm, ("0.weight_g", "0.weight_v")),
        (parametrizations.weight_norm, ("0.parametrizations.weight.original0", "0.parametrizations.weight.original1")),
    ],
    ids=["hook", "parametrisation"],
)
def test_through_weight_norm(norm, names):
    model = nn.Sequential(norm(conv()))
    found = gradients_of_layers(model)
    parameters = dict(model.named_parameters())
    scale, direction = (parameters[name].detach().clone().requires_grad_() for name in names)
    weight = scale * direction / direction.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    for name, expected in zip(names, torch.autograd.grad(penalty([weight]), (scale, direction)), strict=True):
        torch.testing.assert_close(found[name], expected)


def test_through_a_pruning_mask():
    model = nn.Sequential(prune.random_unstructured(conv(), "weight", 0.5))
    mask, original = model[0].weight_mask, model[0].weight_orig.detach().clone().requires_grad_()
    (expected,) = torch.autograd.grad(penalty([mask * original]), original)
    torch.testing.assert_close(gradients_of_layers(model)["0.weight_orig"], expected)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    ("norm", "name"),
    [(spectral_norm, "0.weight_orig"), (parametrizations.spectral_norm, "0.parametrizations.weight.original")],
    ids=["hook", "parametrisation"],
)
def test_through_spectral_norm_whose_vectors_stay(norm, name):
    model = nn.Sequential(norm(conv()))
    before = {key: value.clone() for key, value in model.named_buffers()}
    found = gradients_of_layers(model)
    for key, value in model.named_buffers():
        assert torch.equal(value, before[key])
    u, v = (value for value in before.values() if value.dim() == 1)
    original = dict(model.named_parameters())[name].detach().clone().requires_grad_()
    weight = original / (u @ original.flatten(1) @ v)
    (expected,) = torch.autograd.grad(penalty([weight]), original)
    torch.testing.assert_close(found[name], expected)


def test_a_weight_that_another_network_computes():
    generator = nn.Linear(3, 6 * 4 * 9).double()
    module = conv()
    del module.weight
    module.weight = generator(torch.ones(3, dtype=torch.float64)).view(6, 4, 3, 3)
    penalty(model_layers(module)[0].banks).backward()
    weight = module.weight.detach().clone().requires_grad_()
    (expected,) = torch.autograd.grad(penalty([weight]), weight)
    torch.testing.assert_close(generator.bias.grad, expected.flatten())


def test_a_shared_weight_gives_its_gradient_once():
    first, second = conv(), conv()
    second.weight = first.weight
    alone = gradients_of_layers(nn.Sequential(first))["0.weight"].clone()
    torch.testing.assert_close(gradients_of_layers(nn.Sequential(first, second))["0.weight"], alone)


def test_without_gradients_there_is_no_graph():
    with torch.no_grad():
        (layer,) = model_layers(prune.random_unstructured(conv(), "weight", 0.5))
    assert not layer.banks[0].requires_grad
