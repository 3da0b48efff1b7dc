import gzip
import os
import struct

import numpy as np
import pytest
import torch

from ckrm_kernels.data import DataConfig, fashion_mnist, mnist
from ckrm_kernels.data.fashion import FOLDER
from ckrm_kernels.data.identity import differences

FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def idx(array: np.ndarray) -> bytes:
    """An IDX file: two zeros, 8 for unsigned bytes, the number of dimensions; the sizes; the numbers."""
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}i", *array.shape) + array.tobytes()


@pytest.fixture
def arrays():
    """Training images of 5x4 pixels, whose labels take turns, then test images."""
    random = np.random.default_rng(0)
    images = [random.integers(256, size=(size, 5, 4), dtype=np.uint8) for size in (100, 20)]
    labels = [(np.arange(size) % 10).astype(np.uint8) for size in (100, 20)]
    return images[0], labels[0], images[1], labels[1]


@pytest.fixture
def folder(tmp_path, arrays):
    for name, array in zip(FILES, arrays, strict=True):
        (tmp_path / name).write_bytes(idx(array))
    return tmp_path


def rows(images) -> list[bytes]:
    return sorted(image.numpy().tobytes() for image in images)


@pytest.mark.parametrize("compressed", [(), FILES[:1], FILES])
def test_the_published_files(folder, arrays, compressed):
    for name in compressed:
        (folder / f"{name}.gz").write_bytes(gzip.compress((folder / name).read_bytes()))
        (folder / name).unlink()
    data = mnist(folder)
    assert (data.name, data.classes, data.image_shape) == ("mnist", 10, (1, 5, 4))
    assert data.class_names == tuple("0123456789")
    assert [len(part) for part in (data.train, data.validation, data.held_out)] == [90, 10, 20]
    assert data.validation.labels.bincount().tolist() == [1] * 10
    assert rows([*data.train.images, *data.validation.images]) == sorted(image.tobytes() for image in arrays[0])
    assert torch.equal(data.held_out.images, torch.from_numpy(arrays[2])[:, None])
    assert torch.equal(data.held_out.labels, torch.from_numpy(arrays[3]).long())
    by_bytes = {image.tobytes(): label for image, label in zip(arrays[0], arrays[1], strict=True)}
    for part in (data.train, data.validation):
        for image, label in zip(part.images, part.labels, strict=True):
            assert by_bytes[image.numpy().tobytes()] == label
    batch = data.train.batch(torch.arange(90)).images
    assert batch.mean().abs() < 1e-5
    assert batch.std(correction=0) == pytest.approx(1, abs=1e-5)
    assert data.held_out.normalization == data.train.normalization


def test_the_identity_follows_seed_and_files(folder):
    first, same, other = mnist(folder).identity, mnist(folder).identity, mnist(folder, 1).identity
    assert first == same != other
    with open(folder / FILES[3], "r+b") as file:
        file.seek(8)
        file.write(b"\7")
    assert differences(mnist(folder).identity, first) == "labels of the test file"


def test_the_same_contents_are_the_same_data_wherever_they_lie(folder, tmp_path_factory):
    first, elsewhere = mnist(folder).identity, tmp_path_factory.mktemp("elsewhere")
    for name in FILES:
        os.utime(folder / name, ns=(1, 1))
        (elsewhere / f"{name}.gz").write_bytes(gzip.compress((folder / name).read_bytes()))
    assert mnist(folder).identity == mnist(elsewhere).identity == first


def test_a_configuration_reads_files_that_have_changed_when_asked_to(folder):
    config = DataConfig("mnist", folder=str(folder))
    first = config.load()
    with open(folder / FILES[3], "r+b") as file:
        file.seek(8)
        file.write(b"\7")
    assert config.load() is first
    assert config.reload().held_out.labels[0] == 7
    assert config.load() is config.load() is not first


def test_it_is_read_through_a_configuration(folder):
    assert len(DataConfig("mnist", folder=str(folder)).load().held_out) == 20


def test_fashion_mnist_is_found_where_its_package_puts_it_or_says_how_to_get_it(folder, monkeypatch):
    given = DataConfig("fashion-mnist", folder=str(folder)).load()
    assert (given.name, given.class_names[9], given.identity["name"]) == ("fashion-mnist", "ankle boot", given.name)
    assert differences(given.identity, mnist(folder).identity)
    monkeypatch.setattr("ckrm_kernels.data.fashion.FOLDER", folder)
    assert DataConfig("fashion-mnist").load().identity == given.identity == fashion_mnist().identity
    monkeypatch.setattr("ckrm_kernels.data.fashion.FOLDER", folder / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"nowhere: on Debian .* `apt-get install dataset-fashion-mnist`"):
        DataConfig("fashion-mnist").reload()


@pytest.mark.skipif(not FOLDER.is_dir(), reason="dataset-fashion-mnist is not installed")
def test_fashion_mnist_as_it_is_published():
    data = fashion_mnist()
    assert [len(part) for part in (data.train, data.validation, data.held_out)] == [54_000, 6_000, 10_000]
    assert data.held_out.labels.bincount().tolist() == [1_000] * 10
    assert data.image_shape == (1, 28, 28)


def test_a_missing_folder_and_a_missing_file_are_named(folder):
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder"):
        mnist(folder / "nowhere")
    (folder / FILES[1]).unlink()
    with pytest.raises(FileNotFoundError, match=f"{folder / FILES[1]} is missing, and {FILES[1]}.gz too"):
        mnist(folder)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (FILES[0], lambda content: content[:11], "a header of 16 bytes, got 11"),
        (FILES[0], lambda content: b"\0\0\x08\1" + content[4:], "magic number 2051, got 2049"),
        (FILES[1], lambda content: b"\0\0\x08\3" + content[4:], "magic number 2049, got 2051"),
        (FILES[2], lambda content: content[:-1], r"must have 416 bytes for images of shape \[20, 5, 4\], got 415"),
        (FILES[2], lambda content: content + b"\0", "got 417"),
        (FILES[3], lambda content: idx(np.zeros(0, np.uint8)), r"every dimension must be >= 1, got \[0\]"),
        (FILES[0], lambda content: content[:4] + struct.pack(">i", -1) + content[8:], r"got \[-1, 5, 4\]"),
        (FILES[1], lambda content: idx(np.zeros(99, np.uint8)), "a label for each of 100 images, got 99"),
        (FILES[3], lambda content: content[:-2] + b"\x0a\0", "labels must lie in 0 to 9, got 10 at 18"),
        (FILES[2], lambda content: idx(np.zeros((20, 4, 5), np.uint8)), "images of one size, got 5x4 and 4x5"),
    ],
)
def test_a_damaged_file_is_named(folder, name, change, message):
    path = folder / name
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ValueError, match=message) as caught:
        mnist(folder)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("change", [lambda content: content[:-9], lambda content: b"no", lambda c: c[:30] + b"x" * 30])
def test_a_damaged_compressed_file_is_named(folder, change):
    path = folder / f"{FILES[0]}.gz"
    path.write_bytes(change(gzip.compress((folder / FILES[0]).read_bytes())))
    (folder / FILES[0]).unlink()
    with pytest.raises(ValueError, match=f"{path} is not a whole gzip file"):
        mnist(folder)
