"""Three convolutions, of which images may skip the last ones."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from ckrm_kernels.data import Batch, Dataset, Part
from ckrm_kernels.models import ThreeConvolutions, count_multiply_adds, count_parameters, network_shape, without_memory
from ckrm_kernels.models.network import cross_entropy
from ckrm_kernels.shrinking.plan import plan_shrink
from ckrm_kernels.training import TrainingConfig, train
from ckrm_kernels.training.evaluation import loss_and_accuracy
from ckrm_kernels.training.state import TrainingState
from ckrm_kernels.width_search import WidthSearchConfig

SMALL = ThreeConvolutions(width=4, image_size=(5, 6), in_channels=2, classes=3)
TRAININGS = {
    "sgd": TrainingConfig(optimizer="sgd", momentum=0.9, weight_decay=0.1, epochs=9, batch_size=8),
    "adamw": TrainingConfig(optimizer="adamw", weight_decay=0.1, learning_rate=0.01, epochs=9, batch_size=8),
    "rmsprop": TrainingConfig(
        optimizer="rmsprop", momentum=0.9, weight_decay=0.1, learning_rate=0.01, epochs=9, batch_size=8
    ),
}


def logits_of_one(weights: dict[str, torch.Tensor], image: torch.Tensor, depth: int) -> torch.Tensor:
    """From the definition: `depth` convolutions with ReLU, then the dense layer, for one image (C, H, W)."""
    features = image[None]
    for layer in range(1, depth + 1):
        features = functional.conv2d(
            features, weights[f"conv{layer}.weight"], weights[f"conv{layer}.bias"], padding=1
        ).clamp(min=0)
    return weights["dense.weight"] @ features.flatten() + weights["dense.bias"]


def images(count: int) -> torch.Tensor:
    return torch.randn(count, 2, 5, 6)


def batch(depths: list[int]) -> Batch:
    return Batch(images(len(depths)), torch.arange(len(depths)) % 3, None, torch.tensor(depths))


def data(depths: list[int]) -> Dataset:
    rows = len(depths)
    part = Part(images(rows), torch.arange(rows) % 3, depths=torch.tensor(depths))
    return Dataset("random", 3, part, part, part)


@pytest.mark.parametrize(
    ("network", "parameters"),
    [
        # 1*16*9 + 16, twice 16*16*9 + 16, 16*28*28*10 + 10
        (network_shape("three-convolutions"), 160 + 2 * 2320 + 125_450),
        # 2*4*9 + 4, twice 4*4*9 + 4, 4*5*6*3 + 3
        (SMALL, 76 + 2 * 148 + 363),
    ],
)
def test_parameters(network, parameters):
    assert count_parameters(without_memory(network)) == parameters


def test_multiply_adds():
    assert count_multiply_adds(SMALL.build(), (2, 5, 6)) == 30 * (2 * 4 * 9 + 2 * 4 * 4 * 9) + 4 * 30 * 3


@settings(max_examples=25)
@given(st.lists(st.integers(1, 3), max_size=9))
def test_each_image_passes_the_first_layers_up_to_its_depth(depths):
    model, shown = SMALL.build().double(), images(len(depths)).double()
    weights = dict(model.named_parameters())
    found = model(shown, torch.tensor(depths, dtype=torch.int64))
    assert found.shape == (len(depths), 3)
    for row, image, depth in zip(found, shown, depths, strict=True):
        torch.testing.assert_close(row, logits_of_one(weights, image, depth))


def test_without_depths_every_image_passes_all_layers():
    model, shown = SMALL.build(), images(4)
    weights = dict(model.named_parameters())
    expected = torch.stack([logits_of_one(weights, image, 3) for image in shown])
    torch.testing.assert_close(model(shown), expected)
    torch.testing.assert_close(model.to_depth(shown, 3), expected)


def test_a_skipped_image_adds_nothing_to_a_gradient():
    """In a mixed batch a convolution's gradient is that of the images that pass it, each of them as one of all."""
    model, mixed = SMALL.build().double(), batch([3, 1, 2, 3, 1])._replace(images=images(5).double())
    cross_entropy(model, mixed, None).backward()
    found = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    for layer, passing in ((2, [0, 2, 3]), (3, [0, 3])):
        model.zero_grad()
        weights = dict(model.named_parameters())
        losses = [
            functional.cross_entropy(
                logits_of_one(weights, mixed.images[row], int(mixed.depths[row])), mixed.labels[row]
            )
            for row in passing
        ]
        (sum(losses) / 5).backward()
        for name in (f"conv{layer}.weight", f"conv{layer}.bias"):
            torch.testing.assert_close(found[name], weights[name].grad)


@pytest.mark.parametrize("optimizer", TRAININGS)
def test_a_step_without_images_that_pass_a_layer_leaves_it_bitwise(optimizer):
    """Neither weight decay nor the momentum of earlier steps moves it, and the optimiser's memory of it stays, too."""
    model = SMALL.build()
    state = TrainingState(model, data([1, 2, 3] * 4), TRAININGS[optimizer], seed=0)
    for depths in ([3, 2, 1, 3], [1, 3]):
        state.step(state.objective(batch(depths)), len(depths))
    for depths, still in (([1, 1, 1], {"conv2", "conv3"}), ([2, 1], {"conv3"}), ([3], set())):
        before = everything(model, state.optimizer)
        state.step(state.objective(batch(depths)), len(depths))
        after = everything(model, state.optimizer)
        unchanged = {
            name
            for name, tensors in after.items()
            if all(torch.equal(*pair) for pair in zip(tensors, before[name], strict=True))
        }
        assert unchanged == {f"{layer}.{which}" for layer in still for which in ("weight", "bias")}


def test_a_training_without_images_of_a_layer_leaves_its_first_weights():
    model = SMALL.build()
    before = copied(model)
    train(model, data([1, 2] * 12), TRAININGS["rmsprop"], seed=0)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) == name.startswith("conv3")


def copied(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def everything(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, list[torch.Tensor]]:
    """Of each parameter a copy, and of what the optimiser remembers of it."""
    return {
        name: [
            parameter.detach().clone(),
            *(torch.as_tensor(each).clone() for each in optimizer.state[parameter].values()),
        ]
        for name, parameter in model.named_parameters()
    }


def test_scores_are_of_each_image_at_its_depth():
    model, part = SMALL.build(), data([1, 3, 2, 2, 1]).train
    weights = dict(model.named_parameters())
    rows = zip(part.images, part.depths.tolist(), strict=True)
    expected = torch.stack([logits_of_one(weights, image, depth) for image, depth in rows])
    loss, accuracy = loss_and_accuracy(model, part)
    assert loss == pytest.approx(functional.cross_entropy(expected, part.labels).item(), rel=1e-5)
    assert accuracy == pytest.approx((expected.argmax(1) == part.labels).double().mean().item())


def test_rows_of_a_part_keep_their_depths():
    part = data([1, 3, 2]).train
    assert part.rows(torch.tensor([2, 0])).depths.tolist() == [2, 1]
    with pytest.raises(ValueError, match="depths must have a row for each of 3 labels, got 2"):
        replace(part, depths=torch.tensor([1, 2]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(2, 2, 5, 5),), r"images must be \(N, 2, 5, 6\), got \(2, 2, 5, 5\)"),
        ((torch.zeros(2, 1, 5, 6),), r"images must be \(N, 2, 5, 6\), got \(2, 1, 5, 6\)"),
        ((torch.zeros(2, 2, 5, 5), torch.ones(2).long()), r"images must be \(N, 2, 5, 6\)"),
        (
            (torch.zeros(2, 2, 5, 6), torch.ones(3).long()),
            r"depths must be int64 \(2,\), one .*, got torch.int64 \(3,\)",
        ),
        ((torch.zeros(2, 2, 5, 6), torch.ones(2)), r"depths must be int64 \(2,\), one .* got torch.float32 \(2,\)"),
        ((torch.zeros(2, 2, 5, 6), torch.tensor([0, 1])), "depths must lie from 1 to 3, got 0 to 1"),
        (
            (torch.zeros(2, 2, 5, 6), torch.tensor([2, 2**60])),
            "depths must lie from 1 to 3, got 2 to 1152921504606846976",
        ),
    ],
)
def test_inputs_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        SMALL.build()(*arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"width": 0}, "width must be a whole number >= 1, got 0"),
        ({"classes": 2.5}, "classes must be a whole number >= 1, got 2.5"),
        ({"image_size": (8, 0)}, "image_size must be a whole number >= 1, got 0"),
        ({"image_size": 8}, "image_size must be two whole numbers, height and width, got 8"),
    ],
)
def test_shapes_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ThreeConvolutions(**arguments)


def test_its_one_width():
    assert SMALL.with_widths({"width": 7}) == replace(SMALL, width=7)
    assert SMALL.with_widths(SMALL.widths()) == SMALL
    with pytest.raises(ValueError, match=r"widths has unknown names \['conv1'\]; accepted are \['width'\]"):
        SMALL.with_widths({"conv1": 7})
    layers = dict(SMALL.build().named_modules())
    assert {layers[name].out_channels for name in SMALL.width_of_layer()} == {4}
    assert SMALL.width_of_layer().keys() == {name for name, m in layers.items() if isinstance(m, nn.Conv2d)}
    assert set(SMALL.width_of_layer().values()) == set(SMALL.widths()) == set(SMALL.stage_of_width())
    WidthSearchConfig(network=SMALL)


def test_it_is_adapted_to_images_of_any_size():
    part = Part(torch.zeros(4, 3, 7, 9), torch.arange(4))
    assert SMALL.adapted_to(Dataset("any", 4, part, part, part)) == ThreeConvolutions(4, (7, 9), 3, 4)


def test_it_is_exported_for_any_number_of_images():
    model, shown = SMALL.build().eval(), images(5)
    program = torch.export.export(model, (images(2),), dynamic_shapes=({0: torch.export.Dim("N")},))
    torch.testing.assert_close(program.module()(shown), model(shown))


@pytest.mark.exhaustive
def test_it_is_shrunk():
    model = ThreeConvolutions(width=12, image_size=(8, 8)).build().eval()
    shown = torch.randn(64, 1, 8, 8)
    plan = plan_shrink(model, shown[:2], calibration=shown, parameters=0.5)
    small = plan.apply()
    assert count_parameters(small) <= count_parameters(model) / 2
    assert small(shown).shape == (64, 10)
