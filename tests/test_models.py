import copy

import pytest
import torch
from torch import nn

from ckrm_kernels.models import ResNet, ResNetShape, count_multiply_adds, count_parameters

UNEVEN = ResNetShape(stem=3, inner=((4, 5), (6,)), out=(7, 8), in_channels=2, classes=4)


def test_widths_are_named_in_the_order_of_the_layers():
    assert UNEVEN.widths() == {
        "conv1": 3,
        "layer1.0.conv1": 4,
        "layer1.1.conv1": 5,
        "layer1": 7,
        "layer2.0.conv1": 6,
        "layer2": 8,
    }


def test_with_widths_changes_only_what_is_named():
    changed = UNEVEN.with_widths({"layer1": 9, "layer1.1.conv1": 1})
    assert changed == ResNetShape(stem=3, inner=((4, 1), (6,)), out=(9, 8), in_channels=2, classes=4)
    assert UNEVEN.with_widths(UNEVEN.widths()) == UNEVEN


def test_unknown_width():
    with pytest.raises(ValueError, match=r"unknown names \['layer9'\]; accepted are \['conv1', "):
        UNEVEN.with_widths({"layer9": 3})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"stem": 0}, "conv1 must be a whole number >= 1, got 0"),
        ({"out": (4, 4.0, 4)}, "layer2 must be a whole number"),
        ({"inner": ((4,), (4,))}, "one width for each block of each stage"),
        ({"inner": ((4,), (), (4,))}, "one width for each block of each stage"),
        ({"inner": (), "out": ()}, "one width for each block of each stage"),
        ({"classes": -1}, "classes must be a whole number"),
    ],
)
def test_shapes_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ResNetShape(**arguments)


def test_every_convolution_has_the_width_that_it_is_said_to_have():
    widths, names = UNEVEN.widths(), UNEVEN.width_of_layer()
    convolutions = {name: m for name, m in UNEVEN.build().named_modules() if isinstance(m, nn.Conv2d)}
    assert set(names) == set(convolutions)
    assert {name: widths[names[name]] for name in names} == {n: m.out_channels for n, m in convolutions.items()}


def test_layers_that_are_added_are_tied_and_no_others():
    names = UNEVEN.width_of_layer()
    assert names["layer1.0.conv2"] == names["layer1.1.conv2"] == names["layer1.0.downsample.0"] == "layer1"
    three_by_three = [name for name in names if "downsample" not in name]
    assert len({names[name] for name in three_by_three}) == len(three_by_three) - 1


@pytest.mark.parametrize("size", [8, 7, 1])
def test_logits(size):
    model = UNEVEN.build()
    assert isinstance(model, ResNet)
    assert model(torch.rand(3, 2, size, size)).shape == (3, 4)


def test_parameters_counted_by_hand():
    # stem 1 -> 32; stages of one block; a convolution a -> b has 9ab weights and 2b of its norm, a projection ab and 2b
    def stage(a, b):
        return 9 * a * b + 2 * b + 9 * b * b + 2 * b + a * b + 2 * b

    by_hand = 9 * 32 + 64 + stage(32, 32) + stage(32, 64) + stage(64, 128) + 128 * 10 + 10
    assert count_parameters(ResNetShape().build()) == by_hand == 309_162


def test_shared_and_frozen_parameters():
    shared = nn.Linear(3, 4, bias=False)
    frozen = nn.Linear(5, 5)
    frozen.requires_grad_(False)
    assert count_parameters(nn.Sequential(shared, shared, frozen)) == 12


def test_multiply_adds_counted_by_hand():
    def stage(a, b, positions):
        return (9 * a * b + 9 * b * b + a * b) * positions

    by_hand = 9 * 32 * 64 + stage(32, 32, 64) + stage(32, 64, 16) + stage(64, 128, 4) + 128 * 10
    assert count_multiply_adds(ResNetShape().build(), (1, 8, 8)) == by_hand == 3_099_904


def test_counting_leaves_the_model_alone():
    model = UNEVEN.build().train()
    before = copy.deepcopy(model.state_dict())
    count_multiply_adds(model, (2, 8, 8))
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
