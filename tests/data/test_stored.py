import pickle

import numpy as np
import pytest
import torch

from ckrm_kernels.data import stored
from ckrm_kernels.data.dataset import Normalization
from ckrm_kernels.data.stored import PartWriter, open_part

ROWS = 1234  # its digits and those of the 0 that the header starts with are not as many
NORMALIZATION = Normalization((0.5,), (2.0,))


def rows() -> dict[str, np.ndarray]:
    numbers = np.random.default_rng(0)
    return {
        "images": numbers.integers(0, 256, (ROWS, 1, 3, 5), dtype=np.uint8),
        "labels": numbers.integers(0, 9, ROWS),
        "gaze": numbers.random((ROWS, 2, 3), dtype=np.float32).astype(np.float16),
        "regions": numbers.random((ROWS, 1, 2, 3)) > 0.5,
    }


ALL = rows()


@pytest.fixture
def written(tmp_path):
    """A part of each dtype, written row by row, images as columns of memory."""
    with PartWriter(tmp_path, "train") as writer:
        for place in range(ROWS):
            row = {name: array[place] for name, array in ALL.items()}
            writer.append({**row, "images": np.asfortranarray(row["images"])})
    assert writer.arrays == ["images", "labels", "gaze", "regions"]
    return tmp_path


def open_train(folder):
    return open_part(folder, "train", list(ALL), NORMALIZATION)


def test_the_rows_come_back_bit_by_bit(written):
    part = open_train(written)
    for name, array in ALL.items():
        stored_array = getattr(part, name)
        assert stored_array.dtype == torch.from_numpy(array).dtype
        assert stored_array.numpy().tobytes() == array.tobytes()
        assert stored_array.data_ptr() % 64 == 0
    assert part.normalization == NORMALIZATION


def test_the_files_are_what_numpy_reads_and_writes(written, tmp_path):
    for name, array in ALL.items():
        loaded = np.load(written / f"train.{name}.npy")
        assert loaded.dtype == array.dtype
        assert np.array_equal(loaded, array)
    assert sorted(path.name for path in written.iterdir()) == sorted(f"train.{name}.npy" for name in ALL)


def test_nothing_written_into_a_part_reaches_the_files(written):
    before = {path: path.read_bytes() for path in written.iterdir()}
    part = open_train(written)
    for name in ALL:
        getattr(part, name).zero_()
    del part
    assert {path: path.read_bytes() for path in written.iterdir()} == before


def test_rows_are_on_disk_before_the_end(tmp_path, monkeypatch):
    """A part of many gigabytes goes through no array in memory."""
    monkeypatch.setattr(stored.npy, "open_memmap", None)
    with PartWriter(tmp_path, "train") as writer:
        for _ in range(8):
            writer.append({"images": np.ones((1, 512, 512), np.uint8)})
            assert (tmp_path / "train.images.npy").stat().st_size >= 512 * 512


def test_it_goes_to_another_process_as_the_place_of_its_files(written):
    sent = pickle.dumps(open_train(written))
    assert len(sent) < 1000
    assert torch.equal(pickle.loads(sent).images, torch.from_numpy(ALL["images"]))


def test_a_part_that_was_not_finished_is_damaged(tmp_path):
    writer = PartWriter(tmp_path, "train")
    writer.append({"images": np.ones((1, 512, 512), np.uint8)})
    with pytest.raises(ValueError, match="missing or damaged"):
        open_part(tmp_path, "train", ["images"], None)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-1],
        lambda content: content + b"1",
        lambda content: content[:20],
        lambda content: b"",
        lambda content: b"\xff" * len(content),
        lambda content: content.replace(b"'shape'", b"'shapes"),
        lambda content: content.replace(b"(1234,", b"(123, "),
        lambda content: content.replace(b"False", b"(((((", 1),
        None,
    ],
)
def test_damage_is_named_with_its_cure(written, damage):
    path = written / "train.gaze.npy"
    if damage:
        path.write_bytes(damage(path.read_bytes()))
    else:
        path.unlink()
    with pytest.raises(ValueError, match=f"{path} is missing or damaged .*; delete {written} to preprocess the images"):
        open_train(written)
