"""Which images are chosen, against loops over images and maps, and as data sets of their own."""

import json

import pytest
import torch
from torch.nn import functional

from ckrm_kernels.data import Dataset, Part
from ckrm_kernels.layer_elimination import Selection, strongest_activations
from ckrm_kernels.layer_elimination.chosen_data import (
    ChosenImages,
    chosen_images,
    read_selection,
    stored_selection,
    write_selection,
)
from ckrm_kernels.models import ThreeConvolutions
from ckrm_kernels.training import evaluation

SHAPE = ThreeConvolutions(width=5, image_size=(4, 4), classes=3)
# layer 1 chose 0 to 6, layer 2 chose 5 to 11, layer 3 chose 11 to 15
CHOSEN = Selection((((0, 1, 2, 3), (4, 5, 6)), ((5, 6, 7), (8, 9, 10, 11)), ((11, 12, 13), (15, 14))))


def part(count: int = 40) -> Part:
    return Part(torch.randn(count, 1, 4, 4), torch.arange(count) % 3)


def dataset(count: int = 40) -> Dataset:
    return Dataset("random", 3, part(count), part(9), part(9), identity={"name": "random"})


def mean_activation(model, image: torch.Tensor, layer: int, feature_map: int) -> float:
    weights, features = dict(model.named_parameters()), image[None]
    for each in range(1, layer + 2):
        features = functional.conv2d(features, weights[f"conv{each}.weight"], weights[f"conv{each}.bias"], padding=1)
        features = features.clamp(min=0)
    return features[0, feature_map].abs().mean().item()


def test_each_map_chooses_the_images_of_the_highest_mean_activation(monkeypatch):
    monkeypatch.setattr(evaluation, "_BATCH", 7)  # the images come in several batches, the last one smaller
    model, images = SHAPE.build().double(), part()
    images = Part(images.images.double(), images.labels)
    model.forward = None  # what is trained is not needed
    found = strongest_activations(_reading_doubles(model), images, maps=3, images_per_map=4)
    for layer in range(3):
        for feature_map in range(3):
            scores = [mean_activation(model, image, layer, feature_map) for image in images.images]
            expected = sorted(range(40), key=lambda row: (-scores[row], row))[:4]
            assert found.chosen[layer][feature_map] == tuple(row for row in expected if scores[row] > 0)


def _reading_doubles(model):
    """The model for what `Part.batch` gives, float32."""
    activations = model.activations
    model.activations = lambda images: activations(images.double())
    return model


def test_of_equal_activations_the_first_image_is_taken():
    images = part(36)
    twice = Part(images.images[:18].repeat(2, 1, 1, 1), images.labels)
    found = strongest_activations(SHAPE.build(), twice, maps=2, images_per_map=5)
    for maps in found.chosen:
        for rows in maps:
            assert all(row < 18 or row - 18 in rows[: rows.index(row)] for row in rows)


def test_a_map_that_no_image_activates_chooses_none():
    model = SHAPE.build()
    with torch.no_grad():
        model.conv2.weight[1] = 0
        model.conv2.bias[1] = -1
    found = strongest_activations(model, part(), maps=2, images_per_map=3)
    assert found.chosen[1][1] == ()
    assert len(found.chosen[2][0]) <= 3


def test_the_model_stays_as_it_was():
    model, images = SHAPE.build().train(), part()
    random = torch.get_rng_state()
    strongest_activations(model, images, maps=2, images_per_map=3)
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), random)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"maps": 6}, "maps must be at most the width of the convolutions, 5, got 6"),
        (
            {"maps": 4},
            "the training part holds 40 images, and the selection needs at least 3 layers x 4 maps x 10 images",
        ),
    ],
)
def test_selections_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        strongest_activations(SHAPE.build(), part(), **arguments)


def test_the_higher_layer_wins():
    assert CHOSEN.layer_of_row == {
        **dict.fromkeys(range(5), 0),
        **dict.fromkeys(range(5, 11), 1),
        **dict.fromkeys(range(11, 16), 2),
    }
    assert CHOSEN.rows.tolist() == list(range(16))
    assert (CHOSEN.found, CHOSEN.won) == ((7, 7, 5), (5, 6, 5))


def test_the_chosen_images_as_data():
    data = dataset()
    layers, classes, plain = (chosen_images(data, CHOSEN, task, 0) for task in ("layer", "class-by-depth", "class"))
    parts = ("train", "validation", "held_out")
    assert sum(len(getattr(layers, each)) for each in parts) == 16
    shown = torch.cat([getattr(layers, each).images for each in parts]).flatten(1)
    assert {tuple(row.tolist()) for row in shown} == {tuple(row.flatten().tolist()) for row in data.train.images[:16]}
    for each in parts:
        of_layers, of_classes = getattr(layers, each), getattr(classes, each)
        assert torch.equal(of_layers.images, of_classes.images)
        assert torch.equal(of_classes.depths, of_layers.labels + 1)
        assert torch.equal(getattr(plain, each).labels, of_classes.labels)
        assert getattr(plain, each).depths is None
        assert of_layers.labels.unique().tolist() == [0, 1, 2]
        for image, label, depth in zip(of_classes.images, of_classes.labels, of_classes.depths, strict=True):
            row = next(row for row in range(16) if torch.equal(data.train.images[row], image))
            assert label == data.train.labels[row]
            assert depth == CHOSEN.layer_of_row[row] + 1
    assert (layers.classes, layers.class_names) == (3, ("layer 1", "layer 2", "layer 3"))
    assert len({json.dumps(each.identity) for each in (layers, classes, plain, data)}) == 4


@pytest.mark.parametrize(
    ("first", "message"),
    [
        (((11, 12),), "no image is left to layer 1, which chose 2: higher layers chose the others, too"),
        (((0, 12),), "only 1 image is left to layer 1, which chose 2"),
        (((0, 1, 2, 3),), "only 4 images are left to layer 1, which chose 4: .* at least 5 of each layer; raise"),
    ],
)
def test_a_layer_with_too_few_images(first, message):
    with pytest.raises(ValueError, match=message):
        chosen_images(dataset(), Selection((first, *CHOSEN.chosen[1:])), "layer", 0)


def test_a_selection_survives_its_file(tmp_path):
    file = tmp_path / "a" / "seed-0.json"
    assert stored_selection(file, {}, 16) is None
    write_selection(file, CHOSEN, {"maps": 2})
    assert read_selection(file) == CHOSEN
    assert stored_selection(file, {"maps": 2}, 16) == CHOSEN
    assert stored_selection(file, {"maps": 3}, 16) is None
    with pytest.raises(ValueError, match=r"seed-0.json is damaged: it names images that there are not"):
        stored_selection(file, {"maps": 2}, 15)


@pytest.mark.parametrize(
    "content",
    [
        *("", "[]", "3", "{}", '{"chosen": 3, "identity": {}}', '{"chosen": [[["a"]]], "identity": {}}'),
        *('{"chosen": [[[1]]]}', '{"chosen": [], "identity": {}}', '{"chosen": [[[1.5]]], "identity": {}}'),
        '{"chosen": [[[1]]], "identity": 1}',
    ],
)
def test_a_damaged_selection_is_named(tmp_path, content):
    (tmp_path / "seed-0.json").write_text(content)
    with pytest.raises(ValueError, match=r"seed-0.json is (damaged|not valid JSON)"):
        stored_selection(tmp_path / "seed-0.json", {}, 16)


def test_what_a_worker_loads(tmp_path):
    from ckrm_kernels.data import DataConfig, digits

    write_selection(tmp_path / "a.json", CHOSEN, {})
    found = ChosenImages(DataConfig(), tmp_path / "a.json", "layer")()
    assert found.identity == chosen_images(digits(), CHOSEN, "layer", 0).identity
    assert found.standardization == digits().standardization
