import json
import pickle
import sys
from dataclasses import asdict

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch.utils.data import DataLoader

from ckrm_kernels.data import DataConfig, Dataset, Normalization, Part, digits
from ckrm_kernels.data.identity import differences


def test_digits_are_what_scikit_learn_has():
    from sklearn.datasets import load_digits

    data = digits()
    parts = (data.train, data.validation, data.held_out)
    assert [len(part) for part in parts] == [1258, 180, 359]
    assert data.image_shape == (1, 8, 8)
    assert data.classes == 10
    counts = sum(part.labels.bincount(minlength=10) for part in parts)
    assert counts.tolist() == torch.from_numpy(load_digits().target).bincount().tolist()
    # undone, the normalisation gives the original images back, each of them once
    original = torch.from_numpy(load_digits().images).float().flatten(1)
    pixels = torch.cat([part.images for part in parts]).flatten(1)
    scale = (original.max() - original.min()) / (pixels.max() - pixels.min())
    restored = ((pixels - pixels.min()) * scale).round()
    assert sorted(map(tuple, restored.tolist())) == sorted(map(tuple, original.tolist()))


def test_digits_are_normalised_by_the_training_part_alone():
    data = digits()
    assert data.train.images.mean().abs() < 1e-5
    assert (data.train.images.std(correction=0) - 1).abs() < 1e-5
    assert data.held_out.images.mean().abs() > 1e-5


def test_another_split_of_the_digits():
    assert not torch.equal(digits(0).held_out.images, digits(1).held_out.images)


def test_without_scikit_learn_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r'pip install "ckrm-kernels\[train\]"'):
        digits.__wrapped__()


def test_the_digits_say_what_they_are():
    identity = digits(3).identity
    assert (identity["name"], identity["split_seed"]) == ("digits", 3)
    assert identity["contents"].keys() == {"images", "labels"}
    assert differences(identity, digits(0).identity) == "split_seed is 3, not 0"
    assert digits().class_names == ("0", "1", "2", "3", "4", "5", "6", "7", "8", "9")
    assert digits().skipped == ()


@given(arrays(np.uint8, st.tuples(st.integers(1, 4), st.integers(1, 3), st.just(3), st.just(2))))
def test_the_normalization_is_that_of_all_pixels(images):
    found = Normalization.of(torch.from_numpy(images))
    deviation = images.std((0, 2, 3), dtype=np.float64)
    assert found.mean == pytest.approx(images.mean((0, 2, 3), dtype=np.float64), abs=1e-9)
    assert found.deviation == pytest.approx(np.where(deviation == 0, 1, deviation), abs=1e-9)


def colourful(dtype: torch.dtype = torch.uint8) -> Part:
    """Ten images with gaze maps, of which a batch is normalised to simple numbers."""
    images = torch.randint(256, (10, 2, 4, 3)).to(dtype)
    gaze = torch.rand(10, 2, 2).half()
    return Part(images, torch.arange(10) % 3, gaze, normalization=Normalization((10.0, 20.0), (2.0, 4.0)))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.float32])
def test_a_batch_is_normalised_by_channel(dtype):
    part, indices = colourful(dtype), torch.tensor([7, 0, 7])
    images, labels, gaze, _ = part.batch(indices)
    assert images.dtype == gaze.dtype == torch.float32
    for row, index in enumerate(indices.tolist()):
        stored = part.images[index].float()
        assert torch.equal(images[row, 0], (stored[0] - 10) / 2)
        assert torch.equal(images[row, 1], (stored[1] - 20) / 4)
        assert torch.equal(gaze[row], part.gaze[index].float())
    assert labels.tolist() == [1, 0, 1]


def test_a_part_without_normalization_and_gaze_gives_its_images():
    images = torch.rand(4, 1, 2, 2)
    batch = Part(images, torch.zeros(4, dtype=torch.int64)).batch(torch.tensor([2, 1]))
    assert torch.equal(batch.images, images[[2, 1]])
    assert batch.gaze is None


def same(batch):
    return batch


@pytest.mark.parametrize("workers", [0, 2])
def test_a_data_loader_reads_whole_batches(workers):
    part = colourful()
    loader = DataLoader(part, batch_size=4, collate_fn=same, num_workers=workers)
    batches = list(loader)
    assert [len(batch.labels) for batch in batches] == [4, 4, 2]
    for name in ("images", "labels", "gaze"):
        found = torch.cat([getattr(batch, name) for batch in batches])
        assert torch.equal(found, getattr(part.batch(torch.arange(10)), name))


@pytest.mark.parametrize("name", ["images", "gaze", "regions"])
def test_rows_without_a_label_are_refused(name):
    arrays = {"images": torch.zeros(3, 1, 2, 2), name: torch.zeros(4, 1, 2, 2)}
    with pytest.raises(ValueError, match=f"{name} must have a row for each of 3 labels, got 4"):
        Part(labels=torch.zeros(3, dtype=torch.int64), **arrays)


def test_a_configuration_loads_its_data_set_once():
    assert DataConfig(split_seed=2).load() is DataConfig(split_seed=2).load()
    assert torch.equal(DataConfig(split_seed=2).load().train.images, digits(2).train.images)


def test_a_configuration_goes_through_json_and_pickle():
    config = DataConfig("folder", folder="somewhere", image_size=(4, 6), skip_bad=True)
    assert DataConfig(**json.loads(json.dumps(asdict(config)))) == config
    load = pickle.loads(pickle.dumps(DataConfig(split_seed=2).load))
    assert load().identity == digits(2).identity


def test_chest_xrays_have_a_size_by_default():
    assert DataConfig("egd-cxr", folder="a", image_folder="b").image_size == (640, 512)
    assert DataConfig("egd-cxr", folder="a", image_folder="b", image_size=[1536, 1280]).image_size == (1536, 1280)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"name": "imagenet"},
            "name must be one of digits, mnist, fashion-mnist, cifar100, folder, egd-cxr, got 'imagenet'",
        ),
        (
            {"folder": "a"},
            r"folder must be None for digits, got 'a'; .* which data set is there \(--data\): mnist, fashion-mnist,",
        ),
        ({"name": "mnist"}, r"mnist needs folder \(--data-folder\): the folder with its files"),
        ({"name": "mnist", "folder": ""}, "folder must be a folder, got ''"),
        ({"name": "fashion-mnist", "folder": ""}, "folder must be a folder, got ''"),
        ({"name": "mnist", "folder": "a", "image_folder": "b"}, "image_folder must be None for mnist, got 'b'"),
        ({"name": "egd-cxr", "folder": "a"}, "egd-cxr needs image_folder"),
        (
            {"name": "folder", "folder": "a"},
            r"image_size \(--image-size\) must be two whole numbers >= 1, height and width,",
        ),
        ({"name": "folder", "folder": "a", "image_size": (0, 3)}, r"got \(0, 3\)"),
        ({"name": "folder", "folder": "a", "image_size": [3, 2.5]}, r"got \[3, 2.5\]"),
        ({"name": "folder", "folder": "a", "image_size": 32}, "got 32"),
        (
            {"name": "cifar100", "folder": "a", "image_size": (32, 32)},
            r"image_size \(--image-size\) must be None for cifar100",
        ),
        (
            {"name": "egd-cxr", "folder": "a", "image_folder": "b", "image_size": (512, 640)},
            r"image_size \(--image-size\) must be \(640, 512\) or \(1536, 1280\) for egd-cxr, got \(512, 640\)",
        ),
        ({"gaze": "saccades"}, "gaze must be one of gaze, fixations, got 'saccades'"),
        ({"split_seed": -1}, "split_seed must be a whole number from 0 to 2\\^63 - 1, got -1"),
        ({"split_seed": True}, "got True"),
        ({"skip_bad": 1}, "skip_bad must be true or false, got 1"),
        ({"cache": 3}, "cache must be a folder or None, got 3"),
    ],
)
def test_settings_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        DataConfig(**settings)


def test_the_digits_are_standardised_as_their_standardization_says():
    from sklearn.datasets import load_digits

    raw, data = torch.from_numpy(load_digits().images).float().unsqueeze(1), digits(1)
    inputs = {image.numpy().tobytes() for image in data.standardization(raw)}
    assert {image.numpy().tobytes() for part in (data.train, data.held_out) for image in part.images} <= inputs


def of_labels(*labels: list[int], names: tuple[str, ...] = ()) -> Dataset:
    parts = (Part(torch.zeros(len(each), 1, 2, 2), torch.tensor(each, dtype=torch.int64)) for each in labels)
    return Dataset("made", 4, *parts, names)


def test_classes_that_a_part_lacks_are_named_with_their_counts():
    assert of_labels([0, 1], [1, 0], [0, 1, 1]).missing_classes == ()  # the others are in no part
    names = ("ant", "bee", "cat", "dog")
    assert of_labels([0, 1, 2], [1, 0], [0, 1, 3, 3], names=names).missing_classes == (
        "class cat has too few images, 1: 1 for training, 0 for validation, 0 held out; the validation and held-out "
        "scores say nothing of it",
        "class dog has too few images, 2: 0 for training, 0 for validation, 2 held out; the validation scores say "
        "nothing of it, and no network can learn it",
    )
    assert of_labels([0], [0, 1], [0, 1]).missing_classes[0].startswith("class 1 has too few images, 2: 0 for train")


def test_what_differs_is_named():
    identity = {"name": "mnist", "split_seed": 0, "contents": {"images": "a", "labels": "b"}}
    assert differences(identity, json.loads(json.dumps(identity))) == ""
    assert differences(identity, {**identity, "contents": {"images": "a", "labels": "c"}}) == "labels"
    other = {"name": "mnist", "split_seed": 1, "contents": {"images": "x", "labels": "y"}}
    assert differences(identity, other) == "split_seed is 0, not 1; images, labels"
    assert "an earlier version" in differences(identity, {"name": "mnist", "split_seed": 0, "files": "abc"})
