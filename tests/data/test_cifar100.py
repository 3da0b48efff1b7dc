import io
import os
import pickle
import struct
from typing import ClassVar

import numpy as np
import pytest
import torch

from ckrm_kernels.data import DataConfig, cifar100


class Python2Pickler(pickle._Pickler):
    """Writes what Python 2 wrote: every string is one of bytes."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def save_string(self, value):
        data = value if isinstance(value, bytes) else value.encode("latin1")
        self.write(pickle.BINSTRING + struct.pack("<i", len(data)) + data)
        self.memoize(value)

    dispatch[bytes] = dispatch[str] = save_string


def python2(value) -> bytes:
    file = io.BytesIO()
    Python2Pickler(file, protocol=2).dump(value)
    return file.getvalue().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")


def images_and_labels(size: int, seed: int):
    random = np.random.default_rng(seed)
    data = random.integers(256, size=(size, 3072), dtype=np.uint8)
    return {
        "filenames": [f"{index}.png" for index in range(size)],
        "batch_label": "training batch 1 of 1",
        "fine_labels": [index % 100 for index in range(size)],
        "coarse_labels": [index % 20 for index in range(size)],
        "data": data,
    }


TRAIN, TEST = images_and_labels(1000, 0), images_and_labels(100, 1)
META = {"fine_label_names": [f"kind {n}" for n in range(100)], "coarse_label_names": [f"group {n}" for n in range(20)]}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "cifar-100-python").mkdir()
    for name, content in (("train", TRAIN), ("test", TEST), ("meta", META)):
        (tmp_path / "cifar-100-python" / name).write_bytes(python2(content))
    return tmp_path / "cifar-100-python"


def test_the_published_files(folder):
    data = cifar100(folder.parent)
    assert (data.name, data.classes, data.image_shape) == ("cifar100", 100, (3, 32, 32))
    assert data.class_names[17] == "kind 17"
    assert [len(part) for part in (data.train, data.validation, data.held_out)] == [900, 100, 100]
    assert data.validation.labels.bincount().tolist() == [1] * 100
    # a row holds the red plane, then the green, then the blue one, each row by row
    assert data.held_out.images[7, 1, 3, 5] == TEST["data"][7, 1024 + 3 * 32 + 5]
    assert torch.equal(data.held_out.images.flatten(1), torch.from_numpy(TEST["data"]))
    assert data.held_out.labels.tolist() == TEST["fine_labels"]
    labels = {row.tobytes(): label for row, label in zip(TRAIN["data"], TRAIN["fine_labels"], strict=True)}
    seen = [
        (image.numpy().tobytes(), int(label))
        for part in (data.train, data.validation)
        for image, label in zip(part.images, part.labels, strict=True)
    ]
    assert dict(seen) == labels
    batch = data.train.batch(torch.arange(900)).images.double()
    assert batch.mean((0, 2, 3)).abs().max() < 1e-5
    assert (batch.std((0, 2, 3), correction=0) - 1).abs().max() < 1e-5


def test_the_folder_itself_will_do(folder):
    assert cifar100(folder).identity == cifar100(folder.parent).identity
    assert DataConfig("cifar100", folder=str(folder)).load().identity == cifar100(folder).identity


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_made_anew_with_keys_of_bytes_is_read(folder, protocol):
    content = {key.encode(): value for key, value in TEST.items()}
    (folder / "test").write_bytes(pickle.dumps(content, protocol))
    assert torch.equal(cifar100(folder).held_out.images.flatten(1), torch.from_numpy(TEST["data"]))


@pytest.mark.parametrize("protocol", [1, 2, 5])
@pytest.mark.parametrize("labels", [np.array, lambda labels: list(map(np.int64, labels))], ids=["array", "scalars"])
def test_labels_of_numpy_and_arrays_by_columns_are_read(folder, protocol, labels):
    content = {**TEST, "fine_labels": labels(TEST["fine_labels"]), "data": np.asfortranarray(TEST["data"])}
    (folder / "test").write_bytes(pickle.dumps(content, protocol))
    data = cifar100(folder)
    assert torch.equal(data.held_out.images.flatten(1), torch.from_numpy(TEST["data"]))
    assert data.held_out.labels.tolist() == TEST["fine_labels"]


def test_no_other_encoding_is_asked_for(folder):
    (folder / "test").write_bytes(b"c_codecs\nencode\n(Vabc\nVrot13\ntR.")
    with pytest.raises(ValueError, match="it asks for the encoding 'rot13', and only latin1 is allowed"):
        cifar100(folder)


class Evil:
    def __reduce__(self):
        return os.system, ("touch evil",)


@pytest.mark.parametrize("name", ["train", "test", "meta"])
def test_a_pickle_that_asks_for_more_than_arrays_is_not_run(folder, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (folder / name).write_bytes(pickle.dumps({"data": Evil()}))
    with pytest.raises(ValueError, match=r"it asks for (posix|nt).system, and only NumPy arrays are allowed") as caught:
        cifar100(folder)
    assert str(folder / name) in str(caught.value)
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("value", [bytearray(b"a"), {1}, np.array([Evil()], object), np.load, getattr])
def test_other_globals_are_refused(folder, value):
    (folder / "test").write_bytes(pickle.dumps({"data": value}, 2))
    with pytest.raises(ValueError, match=r"it asks for .*, and only NumPy arrays are allowed"):
        cifar100(folder)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train", b"", "is not a pickle of CIFAR-100: Ran out of input"),
        ("train", python2(TEST)[:5000], "is not a pickle of CIFAR-100"),
        ("test", b"\x80\x02not a pickle", "is not a pickle of CIFAR-100"),
        ("test", python2([1]), "must hold a dictionary, got list"),
        ("test", python2({"labels": [1]}), "must hold data, got labels"),
        ("test", python2({"data": TEST["data"]}), "must hold fine_labels, got data"),
        ("test", python2({**TEST, "data": [1]}), r"data must be an array \(N, 3072\) of uint8, got list"),
        ("test", python2({**TEST, "data": TEST["data"][:, :9]}), r"of uint8, got uint8 \(100, 9\)"),
        ("test", python2({**TEST, "data": TEST["data"].astype(np.int32)}), r"of uint8, got int32 \(100, 3072\)"),
        ("test", python2({**TEST, "fine_labels": [0] * 99}), "a label for each of 100 images, got 99 labels"),
        ("test", python2({**TEST, "fine_labels": 3}), "a label for each of 100 images, got int"),
        ("test", python2({**TEST, "fine_labels": [0] * 99 + [100]}), "must lie in 0 to 99, got 100 at 99"),
        ("test", python2({**TEST, "fine_labels": [-1] * 100}), "must lie in 0 to 99, got -1 at 0"),
        ("meta", python2({"fine_label_names": ["a"]}), "must be a list of 100 names, got 1 names"),
        ("meta", python2({"fine_label_names": "a"}), "must be a list of 100 names, got str"),
    ],
)
def test_a_damaged_file_is_named(folder, name, content, message):
    (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        cifar100(folder)
    assert str(folder / name) in str(caught.value)


@pytest.mark.parametrize("name", ["train", "test", "meta"])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"{folder / name} is missing"):
        cifar100(folder)
