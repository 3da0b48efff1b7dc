"""What RedundancyLoss refuses, by name, and warns of."""

from __future__ import annotations

import warnings

import pytest
import torch
from loss_networks import INPUT, net
from torch import nn

from ckrm_kernels import RedundancyLoss

TOGETHER = {"toward": "together", "example_inputs": torch.zeros(INPUT)}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"threshold": 1.5}, ValueError, r"threshold must lie in \[0, 1\], got 1.5"),
        ({"threshold": "chances"}, TypeError, "threshold must be a number or \"chance\", got 'chances'"),
        ({"threshold": True}, TypeError, "threshold must be a number"),
        ({"threshold": "chance", "pointwise": "slices"}, ValueError, "permutes positions"),
        ({"temperature": 0}, ValueError, "temperature must be a finite number > 0, got 0"),
        ({"temperature": float("inf")}, ValueError, "temperature must be a finite number > 0"),
        ({"temperature": "warm"}, TypeError, "temperature must be a number, got 'warm'"),
        ({"pairs_per_step": 0}, ValueError, "pairs_per_step"),
        ({"pairs_per_step": 1.5}, ValueError, "pairs_per_step"),
        ({"toward": "up"}, ValueError, 'toward must be "apart" or "together", got \'up\''),
        ({"pointwise": "all"}, ValueError, "pointwise must be"),
        ({"refresh": 0}, ValueError, "refresh"),
        ({"seed": -1}, ValueError, "seed"),
        ({"layers": "missing"}, ValueError, "no layer's name fits the pattern 'missing'; names are such as stem"),
        ({"layers": []}, ValueError, "layers must hold at least one pattern"),
        ({"layers": [3]}, TypeError, "layers must be a pattern of names or several"),
        ({"layers": 3}, TypeError, "layers must be a pattern of names or several"),
        ({"layers": "point"}, ValueError, r"it has 'point' \(pointwise\)"),
        ({"eps": -1}, ValueError, "eps must be a finite number >= 0"),
        ({"backend": "abacus"}, ValueError, "backend must be"),
        (
            {"epsilon": 1},
            TypeError,
            r"RedundancyLoss\(\) got an unexpected keyword argument 'epsilon'.* refresh, seed,",
        ),
        ({"share": 0.3}, ValueError, 'share is of toward="together"'),
        ({"example_inputs": torch.zeros(INPUT)}, ValueError, 'example_inputs is of toward="together"'),
        ({"toward": "together"}, ValueError, "needs example_inputs"),
        ({**TOGETHER, "share": 1}, ValueError, "share must lie between 0 and 1, got 1"),
        ({**TOGETHER, "share": "half"}, TypeError, "share must be a number"),
        ({**TOGETHER, "threshold": 0.5}, ValueError, 'threshold is of toward="apart"'),
        ({**TOGETHER, "temperature": 0.5}, ValueError, 'temperature is of toward="apart"'),
        ({**TOGETHER, "pairs_per_step": 5}, ValueError, 'pairs_per_step is of toward="apart"'),
        ({**TOGETHER, "eps": 1e-3}, ValueError, 'eps is of toward="apart"'),
        ({**TOGETHER, "layers": "head"}, ValueError, "its filters are the model's output"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_wrong_arguments(options, error, message):
    with pytest.raises(error, match=message):
        RedundancyLoss(net(), **options)()


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (nn.Sequential(nn.ReLU()), ValueError, "no layer with filters to compare"),
        (nn.Sequential(nn.Conv2d(3, 1, 3), nn.BatchNorm2d(1)), ValueError, r"it has '0' \(a single filter\)"),
        (nn.Linear(3, 4), ValueError, "pointwise"),
        ([], TypeError, "must be a module or a sequence of modules, got list"),
        ([nn.Conv2d(3, 4, 3), torch.zeros(2)], TypeError, "got list of Conv2d, Tensor"),
        (torch.zeros(4, 3, 3, 3), TypeError, "got Tensor"),
        (3, TypeError, "got int"),
    ],
    ids=str,
)
def test_nothing_to_measure(given, error, message):
    with pytest.raises(error, match=message):
        RedundancyLoss(given)


def test_together_needs_the_model():
    with pytest.raises(TypeError, match="must be a model"):
        RedundancyLoss([nn.Conv2d(3, 4, 3)], **TOGETHER)


def test_a_sharded_weight_is_named():
    model = net()
    penalty = RedundancyLoss(model)
    model.inner.weight.untyped_storage().resize_(0)  # as FSDP frees it
    with pytest.raises(ValueError, match="layer 'inner' is sharded"):
        penalty()
    with pytest.raises(ValueError, match="layer 'inner' is sharded"):
        RedundancyLoss(model)


def test_frozen_layers_are_warned_of_and_left_out_while_they_are():
    model = net()
    model.stem.weight.requires_grad_(False)
    model.outer.weight.requires_grad_(False)
    with pytest.warns(UserWarning, match="leaves out layers while they are frozen: stem, outer") as caught:
        penalty = RedundancyLoss(model, 0.3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        left = RedundancyLoss(model, 0.3, layers=["inner", "grouped"])
        assert penalty().item() == left().item()
        model.stem.weight.requires_grad_(True)
        assert penalty().item() != left().item()
    assert len(caught) == 1
    assert caught[0].filename == __file__


def test_a_layer_that_is_frozen_later_is_warned_of_once():
    model = net()
    penalty = RedundancyLoss(model, 0.3)
    model.inner.weight.requires_grad_(False)
    with pytest.warns(UserWarning, match="leaves out layers while they are frozen: inner$"):
        penalty()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        penalty()


@pytest.mark.parametrize("options", [{}, TOGETHER], ids=["apart", "together"])
def test_all_frozen_costs_nothing(options):
    model = net().requires_grad_(False)
    with pytest.warns(UserWarning, match="frozen"):
        penalty = RedundancyLoss(model, **options)
    assert penalty().item() == 0
    assert penalty().shape == ()
    model.bfloat16()
    assert penalty().dtype == torch.float32


def test_a_state_of_the_other_direction():
    apart, together = RedundancyLoss(net()), RedundancyLoss(net(), **TOGETHER)
    for one, other in ((apart, together), (together, apart)):
        with pytest.raises(ValueError, match="the state is of another model or toward another direction"):
            one.load_state_dict(other.state_dict())


def test_a_state_of_another_model():
    first = RedundancyLoss(net(), "chance")
    first()
    with pytest.raises(ValueError, match="the state is of another model or toward another direction"):
        RedundancyLoss(net(), "chance", layers="stem").load_state_dict(first.state_dict())
