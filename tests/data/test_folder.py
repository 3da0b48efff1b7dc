import dataclasses
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from ckrm_kernels.data import BadFile, DataConfig, Skipped, image_folder
from ckrm_kernels.data import folder as folder_module
from ckrm_kernels.data.identity import differences
from ckrm_kernels.data.pillow import read_colour

SIZE = (6, 8)
CLASSES = ("ant", "bee")


def colour(index: int) -> tuple[int, int, int]:
    """A colour for each image, by which it is known again."""
    return 10 + index, 200 - index, 5 * index


@pytest.fixture
def folder(tmp_path):
    """Twenty images of one colour each in two classes, some of them deeper, and files that are no images."""
    root = tmp_path / "images"
    for index in range(20):
        parent = root / CLASSES[index % 2] / ("deeper" if index < 4 else "")
        parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8 + index, 6 + index), colour(index)).save(
            parent / f"{index}.{'PNG' if index < 9 else 'bmp'}"
        )
    (root / "ant" / "notes.txt").write_text("no image")
    (root / "ant" / ".hidden.png").write_text("no image")
    (root / ".thumbnails").mkdir()
    (root / "README").write_text("no class")
    return root


@pytest.fixture
def load(folder, tmp_path):
    def load(seed: int = 0, **options):
        return image_folder(folder, SIZE, seed, cache=str(tmp_path / "cache"), **options)

    return load


def contents(data) -> dict[tuple[int, ...], int]:
    """The label of each image, by its colour."""
    found = {}
    for part in (data.train, data.validation, data.held_out):
        for image, label in zip(part.images, part.labels, strict=True):
            assert image.dtype == torch.uint8
            assert (image == image[:, :1, :1]).all()
            found[tuple(image[:, 0, 0].tolist())] = int(label)
    return found


def test_the_classes_are_the_folders(load):
    data = load()
    assert (data.name, data.classes, data.class_names) == ("folder", 2, CLASSES)
    assert data.image_shape == (3, *SIZE)
    assert [len(part) for part in (data.train, data.validation, data.held_out)] == [14, 2, 4]
    assert [part.labels.bincount().tolist() for part in (data.train, data.held_out)] == [[7, 7], [2, 2]]
    assert contents(data) == {colour(index): index % 2 for index in range(20)}
    assert data.skipped == ()


def test_the_images_are_normalised_by_those_of_the_training_part(load):
    data = load()
    batch = data.train.batch(torch.arange(14)).images.double()
    assert batch.mean((0, 2, 3)).abs().max() < 1e-5
    assert (batch.std((0, 2, 3), correction=0) - 1).abs().max() < 1e-5
    assert data.held_out.normalization == data.train.normalization


@pytest.mark.parametrize("extension", ["jpg", "JPEG", "png", "ppm", "bmp", "pgm", "tif", "TIFF", "webp"])
def test_every_format_is_read(folder, load, extension):
    mode = "L" if extension == "pgm" else "RGB"
    Image.new(mode, (30, 30), 77 if mode == "L" else (77, 77, 77)).save(folder / "bee" / f"another.{extension}")
    new = [pixel for pixel in contents(load()) if pixel not in map(colour, range(20))]
    assert len(new) == 1
    assert all(abs(value - 77) <= 1 for value in new[0])


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.new("1", (9, 9), 1), (255, 255, 255)),
        (Image.new("RGBA", (9, 9), (9, 8, 7, 0)), (9, 8, 7)),
        (Image.new("P", (9, 9)), (0, 0, 0)),
        (Image.fromarray(np.full((9, 9), 0x9ABC, np.uint16)), (0x9A, 0x9A, 0x9A)),
    ],
)
def test_every_mode_becomes_colour(folder, load, image, expected):
    image.save(folder / "bee" / "another.png")
    assert expected in contents(load())


def test_numbers_of_an_unknown_range_are_refused(folder, load):
    Image.fromarray(np.full((9, 9), 0.5, np.float32)).save(folder / "bee" / "another.tif")
    with pytest.raises(BadFile, match=r"another.tif holds numbers of an unknown range \(Pillow's mode F\)"):
        load()


def test_the_middle_is_cut_out_of_an_image_that_covers_the_size(tmp_path):
    """A 12 x 20 image for 6 x 8: halved to 6 x 10, whose middle eight columns are columns 2 to 18."""
    stripes = np.zeros((12, 20, 3), np.uint8)
    stripes[:, 2:4], stripes[:, 10:12], stripes[:, 16:18] = 255, 128, 64
    for name in CLASSES:
        (tmp_path / name).mkdir()
        for index in range(5):
            Image.fromarray(stripes).save(tmp_path / name / f"{index}.png")
    image = image_folder(tmp_path, SIZE, cache=str(tmp_path / "cache")).train.images[0].int()
    assert (image == image[:1, :1]).all()
    row = image[0, 0].tolist()
    # a smooth filter spreads each stripe over its neighbours, and keeps its sum and its place
    assert row[0] == max(row[:3])
    assert row[4] == max(row[3:6])
    assert row[7] == max(row[6:])
    assert sum(row[3:6]) == pytest.approx(128, abs=3)


def test_a_second_run_decodes_nothing(load, monkeypatch):
    first = load()
    monkeypatch.setattr(folder_module, "read_colour", None)
    second = load()
    for name in ("train", "validation", "held_out"):
        assert torch.equal(getattr(first, name).images, getattr(second, name).images)
        assert torch.equal(getattr(first, name).labels, getattr(second, name).labels)
        assert getattr(first, name).normalization == getattr(second, name).normalization
    assert first.identity == second.identity
    with pytest.raises(TypeError):
        load(seed=1)


def test_what_is_written_into_a_part_stays_out_of_the_cache(load):
    before = contents(load())
    load().train.images.zero_()
    assert contents(load()) == before


def test_a_part_goes_to_another_process_without_its_images(load):
    part = load().train
    assert len(pickle.dumps(part)) < part.images.numel() / 2
    assert torch.equal(pickle.loads(pickle.dumps(part)).images, part.images)
    bare = dataclasses.replace(part, images=part.images + 1, normalization=None)
    assert torch.equal(pickle.loads(pickle.dumps(bare)).images, part.images + 1)
    loader = DataLoader(part, 14, collate_fn=nothing, num_workers=1, multiprocessing_context="spawn")
    (batch,) = loader
    assert torch.equal(batch.images, part.batch(torch.arange(14)).images)


def nothing(batch):
    return batch


def test_a_changed_file_is_decoded_anew(folder, load):
    first = load()
    Image.new("RGB", (30, 30), (1, 2, 3)).save(folder / "ant" / "deeper" / "0.PNG")
    assert (1, 2, 3) in contents(load())
    assert load().identity != first.identity


def test_a_copied_or_touched_folder_is_the_same_data_and_decodes_nothing(folder, load, tmp_path, monkeypatch):
    (folder / "bee" / "13.bmp").write_bytes(b"")
    first = load(skip_bad=True)
    monkeypatch.setattr(folder_module, "read_colour", None)
    for path in folder.rglob("*.bmp"):
        os.utime(path, ns=(1, 1))
    assert load(skip_bad=True).identity == first.identity
    elsewhere = folder.rename(tmp_path / "moved")
    moved = image_folder(elsewhere, SIZE, cache=str(tmp_path / "cache"), skip_bad=True)
    assert moved.identity == first.identity
    assert [skipped.path for skipped in moved.skipped] == [str(elsewhere / "bee" / "13.bmp")]


def test_other_pixels_of_the_same_size_and_time_of_change_are_other_data(folder, load):
    path, first = folder / "bee" / "19.bmp", load()
    before, content = path.stat(), bytearray(path.read_bytes())
    content[-1] ^= 255
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert differences(load().identity, first.identity) == "images of bee"


def test_files_are_read_once_for_their_digests(folder, load, monkeypatch):
    first = load()
    monkeypatch.setattr("ckrm_kernels.data.files.sha256_of", None)
    assert load().identity == first.identity


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("extension", ["png", "jpg", "tif", "webp"])
def test_an_image_is_turned_as_its_exif_orientation_says(tmp_path, orientation, extension):
    """Upright: the left half bright, the upper rows red; stored so that the orientation's turn brings it back."""
    upright = Image.new("RGB", (40, 24))
    upright.paste((255, 255, 255), (0, 0, 20, 24))
    upright.paste((255, 0, 0), (0, 0, 40, 6))
    turn = Image.Transpose
    stored = [
        [],
        [turn.FLIP_LEFT_RIGHT],
        [turn.ROTATE_180],
        [turn.FLIP_TOP_BOTTOM],
        [turn.TRANSPOSE],
        [turn.ROTATE_90],
        [turn.TRANSVERSE],
        [turn.ROTATE_270],
    ][orientation - 1]
    image = upright
    for each in stored:
        image = image.transpose(each)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"image.{extension}"
    options = {"jpg": {"quality": 100, "subsampling": 0}, "webp": {"lossless": True}}.get(extension, {})
    image.save(path, exif=exif, **options)
    found = read_colour(path, (24, 40)).transpose(1, 2, 0).astype(int)
    assert np.abs(found - np.asarray(upright).astype(int)).max() <= 8


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_an_image_whose_exif_data_is_damaged_is_read_as_it_is_stored(tmp_path):
    Image.new("RGB", (8, 6), (9, 8, 7)).save(tmp_path / "image.png", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert read_colour(tmp_path / "image.png", (6, 8))[:, 0, 0].tolist() == [9, 8, 7]


def test_an_image_that_does_not_decode_is_named(folder, load, tmp_path):
    path = folder / "bee" / "13.bmp"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(BadFile, match=f"{path} does not decode .*; skip_bad leaves such images out") as caught:
        load()
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)  # as out of a worker process
    assert not [entry for entry in (tmp_path / "cache").iterdir() if entry.is_dir()]
    data = load(skip_bad=True)
    assert [skipped.path for skipped in data.skipped] == [str(path)]
    assert isinstance(data.skipped[0], Skipped)
    assert data.skipped[0].reason.startswith("does not decode (")
    assert contents(data) == {colour(index): index % 2 for index in range(20) if index != 13}
    # the cache that lacks it serves no run that wants every image
    with pytest.raises(BadFile, match=f"{path} does not decode"):
        load()
    assert load(skip_bad=True).skipped == data.skipped


def test_a_part_without_images_is_refused(folder, load):
    for path in [*folder.glob("*/*.*"), *folder.glob("*/deeper/*")][:19]:
        path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"the \w+ part is empty: 20 images, of which \d+ were left out"):
        load(skip_bad=True)


@pytest.mark.parametrize("damage", ["record.json", "train.images.npy", "held_out.labels.npy"])
def test_a_damaged_cache_is_named(load, tmp_path, damage):
    load()
    (path,) = (tmp_path / "cache").glob(f"folder-*/{damage}")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=f"{path} .*; delete {path.parent} to preprocess the images anew"):
        load()


def test_progress_is_tracked(load):
    calls = []

    def track(sequence, description, total):
        calls.append((description, total))
        return sequence

    load(track=track)
    load(track=track)
    assert calls == [("Reading the files", 20), ("Preprocessing images", 20)]


def test_it_is_read_through_a_configuration(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("CKRM_CACHE", str(tmp_path / "elsewhere"))
    data = DataConfig("folder", folder=str(folder), image_size=SIZE).load()
    assert contents(data) == {colour(index): index % 2 for index in range(20)}
    assert len(list((tmp_path / "elsewhere").glob("folder-*"))) == 1


def test_folders_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder"):
        image_folder(tmp_path / "nowhere", SIZE)
    (tmp_path / "ant").mkdir()
    with pytest.raises(ValueError, match=f"{tmp_path} must hold a folder for each of at least 2 classes, got 1"):
        image_folder(tmp_path, SIZE)
    (tmp_path / "bee").mkdir()
    with pytest.raises(ValueError, match=f"{tmp_path / 'ant'} holds no image"):
        image_folder(tmp_path, SIZE)


def test_without_pillow_the_error_names_the_extra(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match=r'reading image folders needs Pillow: pip install "ckrm-kernels\[train\]"'):
        image_folder(folder, SIZE)


# Decodes a few images, says so, and would then take forever.
SLOW = """
import sys, time
from pathlib import Path
from ckrm_kernels.data import folder, image_folder
read = folder.read_colour
def slow(path, size):
    if path.stem == "19":
        Path(sys.argv[3]).touch()
        time.sleep(600)
    return read(path, size)
folder.read_colour = slow
image_folder(sys.argv[1], (6, 8), cache=sys.argv[2])
"""


def test_a_build_that_is_killed_leaves_nothing_half_written(folder, load, tmp_path):
    started = tmp_path / "started"
    arguments = [sys.executable, "-c", SLOW, str(folder), str(tmp_path / "cache"), str(started)]
    environment = {**os.environ, "PYTHONPATH": str(Path(folder_module.__file__).parents[2])}
    with subprocess.Popen(arguments, env=environment) as process:
        while not started.exists() and process.poll() is None:
            time.sleep(0.01)
        process.kill()
    entries = [entry.name for entry in (tmp_path / "cache").iterdir() if entry.is_dir()]
    assert len(entries) == 1
    assert entries[0].startswith(".folder-")
    assert contents(load()) == {colour(index): index % 2 for index in range(20)}
    (entry,) = [entry.name for entry in (tmp_path / "cache").iterdir() if entry.is_dir()]
    assert entry.startswith("folder-")
