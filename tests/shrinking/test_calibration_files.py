"""Calibration read from files: a folder of images, or a tensor, of which nothing is run."""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from ckrm_kernels.shrinking.calibration_files import read_calibration


@pytest.fixture
def pictures(tmp_path):
    """Ten images of one grey each, 0 to 225 in steps of 25, in two folders, and what is no image."""
    for index in range(10):
        folder = tmp_path / ("cats" if index < 5 else "dogs/small")
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (6, 9), (25 * index,) * 3).save(folder / f"{index}.png")
    (tmp_path / "notes.txt").write_text("no image")
    return tmp_path


def test_images_are_spread_over_the_folder_and_cut_to_the_shape(pictures):
    images = read_calibration(pictures, 4, input_shape=(3, 4, 4))
    assert images.shape == (4, 3, 4, 4)
    # places 0, 3, 6 and 9 of ten
    assert torch.allclose(images[:, 0, 0, 0], torch.tensor([0.0, 75, 150, 225]) / 255)
    assert len(read_calibration(pictures, 256, input_shape=(3, 4, 4))) == 10


def test_images_are_standardised_channel_by_channel(pictures):
    images = read_calibration(pictures, 2, input_shape=(3, 4, 4), mean=(0.1, 0.2, 0.3), deviation=(0.5, 0.25, 1.0))
    assert torch.allclose(images[0, :, 0, 0], torch.tensor([-0.2, -0.8, -0.3]))


def test_grey_images_are_their_luminance(tmp_path):
    colours = np.random.default_rng(0).integers(0, 256, (4, 4, 3), np.uint8)
    Image.fromarray(colours).save(tmp_path / "a.png")
    Image.fromarray(colours).save(tmp_path / "b.png")
    images = read_calibration(tmp_path, 2, input_shape=(1, 4, 4))
    wanted = torch.from_numpy(np.array(Image.fromarray(colours).convert("L"))) / 255
    assert torch.allclose(images[0, 0], wanted, atol=1.01 / 255)


VALUES = torch.randn(7, 3, 5, 5, generator=torch.Generator().manual_seed(0))


def written(folder, kind):
    path = folder / f"x.{kind}"
    if kind == "npy":
        np.save(path, VALUES.numpy())
    elif kind == "safetensors":
        save_file({"images": VALUES}, path)
    else:
        torch.save({"x": VALUES} if kind == "pth" else VALUES, path, _use_new_zipfile_serialization=kind == "pt")
    return path


@pytest.mark.parametrize("kind", ["npy", "pt", "pth", "safetensors"])
def test_a_tensor_in_a_file_is_taken_as_it_is(tmp_path, kind):
    assert torch.equal(read_calibration(written(tmp_path, kind), 256), VALUES)
    assert torch.equal(read_calibration(written(tmp_path, kind), 3), VALUES[[0, 3, 6]])


def test_pixels_of_8_bits_are_scaled_and_floats_are_not(tmp_path):
    np.save(tmp_path / "x.npy", np.full((2, 3, 4, 4), 255, np.uint8))
    assert torch.equal(read_calibration(tmp_path / "x.npy", 2), torch.ones(2, 3, 4, 4))
    np.save(tmp_path / "x.npy", np.full((2, 3, 4, 4), 255, ">f8"))
    read = read_calibration(tmp_path / "x.npy", 2, mean=(5.0,), deviation=(2.0,))
    assert torch.equal(read, torch.full((2, 3, 4, 4), 125.0, dtype=torch.float64))


class Ends:
    """Would end the process if it were unpickled."""

    def __reduce__(self):
        return exit, (3,)


def test_nothing_in_a_file_is_run(tmp_path):
    (tmp_path / "x.pt").write_bytes(pickle.dumps(Ends(), 2))
    np.save(tmp_path / "x.npy", np.array([Ends()], object))
    for name in ("x.pt", "x.npy"):
        with pytest.raises(ValueError, match=rf"{name}: is a .* file of one tensor, truncated or damaged"):
            read_calibration(tmp_path / name, 2)


def array(values):
    return lambda path: np.save(path, values)


@pytest.mark.parametrize(
    ("name", "write", "options", "message"),
    [
        ("x.npy", array(np.zeros(3, np.float32)), {}, r"must hold inputs \(N, \.\.\.\), got a tensor of shape \(3,\)"),
        ("x.npy", array(np.zeros((0, 3), np.float32)), {}, r"got a tensor of shape \(0, 3\)"),
        ("x.npy", array(np.zeros((2, 3), np.int64)), {}, "must hold floating-point numbers or 8-bit pixels"),
        ("x.npy", array(np.zeros((2, 3))), {"input_shape": (4,)}, r"holds inputs of shape \(3,\), not \(4,\)"),
        ("x.npy", array(np.zeros((2, 3))), {"mean": (1.0, 2.0)}, r"one for each channel of inputs \(3,\), got 2 and 1"),
        ("x.npy", array(np.zeros((2, 3))), {"deviation": (0.0,)}, "deviation must be above 0, got 0"),
        ("x.npy", lambda path: path.write_bytes(b""), {}, "x.npy: is a .npy file of one tensor, truncated or damaged"),
        ("x.pt", lambda path: torch.save([1], path), {}, "x.pt: must hold one tensor, got an object of the type list"),
        ("x.pt", lambda path: torch.save({"a": VALUES, "b": VALUES}, path), {}, "must hold one tensor, got 2 of them"),
        ("x.tfrecord", lambda path: path.write_bytes(b"x"), {}, "must be a folder of images, or a tensor in a file"),
        ("folder", lambda path: path.mkdir(), {}, "needs an input shape of 1 or 3 channels, such as 3x224x224"),
        ("folder", lambda path: path.mkdir(), {"input_shape": (4, 8, 8)}, "of 1 or 3 channels"),
        ("folder", lambda path: path.mkdir(), {"input_shape": (3, 8, 8)}, "folder: holds no image"),
    ],
)
def test_what_can_not_be_used_is_named(tmp_path, name, write, options, message):
    write(tmp_path / name)
    with pytest.raises(ValueError, match=message):
        read_calibration(tmp_path / name, 2, **options)


def test_what_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: no such file or folder"):
        read_calibration(tmp_path / "nowhere", 2)


def test_an_image_that_does_not_decode_is_named(pictures):
    (pictures / "cats" / "0.png").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"0\.png: does not decode .*; take it out of the folder"):
        read_calibration(pictures, 2, input_shape=(3, 4, 4))
