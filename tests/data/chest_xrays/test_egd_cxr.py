import shutil
import sys
from functools import cache

import numpy as np
import pytest
import torch
from egd_files import (
    RECORDS,
    dicom_path,
    masks_of,
    name_of,
    patient_of,
    pixels_of,
    points_at,
    size_of,
    write_dicom,
    write_egd_cxr,
    write_tables,
)
from gaze_definition import blurred, in_frame, points_of
from PIL import Image

from ckrm_kernels.data import BadFile, DataConfig, egd_cxr
from ckrm_kernels.data.chest_xrays.frame import Frame

FRAME = Frame(3200, 2560, 5)


@pytest.fixture(scope="session")
def written(tmp_path_factory):
    return write_egd_cxr(tmp_path_factory.mktemp("files"))


@pytest.fixture(scope="session")
def loaded(written, tmp_path_factory):
    """The data set, read once, and the folder of its cache."""
    cache = tmp_path_factory.mktemp("cache")
    return egd_cxr(written / "egd", written / "mimic", cache=str(cache)), cache


@pytest.fixture
def copy(written, tmp_path):
    """A copy of the files that a test may damage."""
    shutil.copytree(written, tmp_path / "copy")
    return tmp_path / "copy"


@pytest.fixture
def load(copy, tmp_path):
    def load(**options):
        return egd_cxr(copy / "egd", copy / "mimic", cache=str(tmp_path / "cache"), **options)

    return load


def expected_image(pixels: np.ndarray, frame: Frame = FRAME) -> np.ndarray:
    image = in_frame(pixels.astype(np.float32), frame)[:: frame.stride, :: frame.stride]
    return image / image.max()


def middle(image: np.ndarray) -> np.ndarray:
    """Part of an image by which records are told from each other."""
    height, width = image.shape
    return image[height // 2 - 4 : height // 2 + 4, width // 2 - 4 : width // 2 + 4].astype(np.float64)


@cache
def middles(frame: Frame) -> list[np.ndarray]:
    return [middle(expected_image(pixels_of(index), frame)) for index in range(RECORDS)]


def index_of(image: torch.Tensor, frame: Frame = FRAME) -> int:
    """Which record an image is."""
    errors = [np.abs(middle(image[0].numpy()) - expected).max() for expected in middles(frame)]
    assert min(errors) <= 2**-12  # half a step of half precision
    return int(np.argmin(errors))


@pytest.fixture(scope="session")
def found(loaded):
    """(part, row) of every record."""
    data, _ = loaded
    parts = (data.train, data.validation, data.held_out)
    return {index_of(image): (part, row) for part in parts for row, image in enumerate(part.images)}


def test_every_record_is_read_once(loaded, found):
    data, _ = loaded
    assert (data.name, data.classes) == ("egd-cxr", 3)
    assert data.class_names == ("normal", "cardiomegaly", "pneumonia")
    assert data.image_shape == (1, 640, 512)
    assert data.train.images.dtype == torch.float16
    assert data.train.images.max() == 1
    assert data.train.normalization is None
    assert sorted(found) == list(range(RECORDS))
    for index, (part, row) in found.items():
        assert part.labels[row] == index % 3
        error = part.images[row, 0].float().numpy() - expected_image(pixels_of(index))
        assert np.abs(error).max() <= 2**-12


def test_the_split_is_by_class_and_by_patient(loaded, found):
    data, _ = loaded
    for part, share in ((data.train, 7), (data.validation, 1), (data.held_out, 2)):
        assert part.labels.bincount(minlength=3).tolist() == [share] * 3
    for index in (0, 1, 2, 6, 7, 8):
        assert patient_of(index) == patient_of(index + 3)
        assert found[index][0] is found[index + 3][0]


def test_the_gaze_maps_are_the_authors(found):
    for index in (0, 4, 11, 29):
        part, row = found[index]
        points = points_of(*[(x, y, 1.0) for x, y, _ in points_at(index)])
        expected = in_frame(blurred(points, size_of(index)), FRAME)[::160, ::160]
        assert part.gaze.shape[1:] == (20, 16)
        assert np.abs(part.gaze[row].numpy() - expected / expected.max()).max() < 1e-6


def test_the_regions_are_heart_and_lungs(found):
    for index in (0, 4, 29):
        part, row = found[index]
        masks = masks_of(index)
        heart, lungs = part.regions[row].numpy()
        assert part.regions.dtype == torch.bool
        assert np.array_equal(heart, in_frame(masks["mediastanum"], FRAME)[::160, ::160])
        assert np.array_equal(lungs, in_frame(masks["left_lung"] | masks["right_lung"], FRAME)[::160, ::160])


def test_a_batch_holds_image_label_and_gaze(loaded):
    part = loaded[0].train
    images, labels, gaze, _ = part.batch(torch.tensor([3, 1]))
    assert torch.equal(images, part.images[[3, 1]].float())
    assert torch.equal(labels, part.labels[[3, 1]])
    assert torch.equal(gaze, part.gaze[[3, 1]])


def test_a_second_run_decodes_nothing(written, loaded, monkeypatch):
    data, cache = loaded
    module = sys.modules[egd_cxr.__module__]
    monkeypatch.setattr(module, "read_xray", None)
    monkeypatch.setattr(module, "read_points", None)
    config = DataConfig("egd-cxr", str(written / "egd"), str(written / "mimic"), cache=str(cache))
    again = config.load()
    for name in ("images", "labels", "gaze", "regions"):
        assert torch.equal(getattr(again.train, name), getattr(data.train, name))
    assert again.identity == data.identity


def test_images_for_gg_cam(copy, load):
    frame = Frame(3072, 2560, 2)
    write_tables(copy / "egd", range(12, RECORDS))
    data = load(image_size=(1536, 1280))
    assert data.image_shape == (1, 1536, 1280)
    assert data.train.gaze.shape[1:] == data.train.regions.shape[2:] == (48, 40)
    index = index_of(data.held_out.images[0], frame)
    expected = in_frame(blurred(points_of(*[(x, y, 1.0) for x, y, _ in points_at(index)]), size_of(index)), frame)
    expected = expected[::64, ::64]
    assert np.abs(data.held_out.gaze[0].numpy() - expected / expected.max()).max() < 1e-6
    heart = in_frame(masks_of(index)["mediastanum"], frame)[::64, ::64]
    assert np.array_equal(data.held_out.regions[0, 0].numpy(), heart)


def test_fixations_count_by_their_duration(written, loaded, tmp_path):
    data = egd_cxr(written / "egd", written / "mimic", gaze="fixations", cache=str(tmp_path))
    index = index_of(data.validation.images[0])
    expected = in_frame(blurred(points_of(*points_at(index)), size_of(index)), FRAME)[::160, ::160]
    assert np.abs(data.validation.gaze[0].numpy() - expected / expected.max()).max() < 1e-6
    assert data.identity != loaded[0].identity


def test_black_and_white_may_be_exchanged(copy, load):
    """MONOCHROME1: the lowest number is white."""
    for index in range(RECORDS):
        pixels = pixels_of(index)
        write_dicom(copy / "mimic" / dicom_path(index), pixels.max() - pixels, "MONOCHROME1")
    image = load().train.images[0]
    exchanged = [pixels_of(index).max() - pixels_of(index) for index in range(RECORDS)]
    errors = [
        np.abs(middle(image[0].numpy()) - middle(expected_image(pixels.max() - pixels))).max() for pixels in exchanged
    ]
    assert min(errors) <= 2**-12


def break_dicom(path):
    path.write_bytes(path.read_bytes()[:5000])


def not_dicom(path):
    path.write_text("not a DICOM file")


def colour_dicom(path):
    write_dicom(path, np.zeros((60, 60, 3), np.uint8), "RGB")


def black_dicom(path):
    write_dicom(path, np.zeros((700, 620), np.uint16))


def small_mask(path):
    Image.new("L", (5, 6)).save(path)


IMAGE = ("mimic", dicom_path(7))
LUNG = ("egd", f"audio_segmentation_transcripts/{name_of(7)}/left_lung.png")


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        (IMAGE, lambda path: path.unlink(), "is missing"),
        (IMAGE, break_dicom, r"does not decode \("),
        (IMAGE, not_dicom, r"does not decode \("),
        (IMAGE, colour_dicom, r"must be one grey image, got RGB \(60, 60, 3\)"),
        (IMAGE, black_dicom, "is black all over"),
        (LUNG, lambda path: path.unlink(), "is missing"),
        (LUNG, lambda path: path.write_bytes(b"no image"), r"does not decode \("),
        (LUNG, small_mask, r"must be of the size of its image \(710, 620\), got \(6, 5\)"),
    ],
)
def test_a_bad_record_is_named_or_left_out(copy, load, file, damage, message):
    path = copy / file[0] / file[1]
    damage(path)
    with pytest.raises(BadFile, match=f"{path} {message}.*; skip_bad leaves such images out"):
        load()
    data = load(skip_bad=True)
    assert [skipped.path for skipped in data.skipped] == [str(path)]
    images = [image for part in (data.train, data.validation, data.held_out) for image in part.images]
    assert sorted(map(index_of, images)) == [index for index in range(RECORDS) if index != 7]


def test_a_record_without_gaze_is_named_or_left_out(copy, load):
    path = copy / "egd" / "eye_gaze.csv"
    path.write_text("".join(line for line in path.open(newline="") if name_of(7) not in line))
    with pytest.raises(BadFile, match=f"{path} has no gaze on the image of {name_of(7)}"):
        load()
    data = load(skip_bad=True)
    assert len(data.train) + len(data.validation) + len(data.held_out) == RECORDS - 1
    assert data.skipped[0].reason == f"has no gaze on the image of {name_of(7)}"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: "", "must have the columns dicom_id, path, study_id, patient_id, Normal, CHF, pneumonia"),
        (lambda text: text.replace("CHF", "chf"), "without CHF"),
        (lambda text: text.split("\r\n")[0], "holds no record"),
        (
            lambda text: text.replace(",1,0,0,", ",1,0,1,", 1),
            r"line 3: exactly one of Normal, CHF, pneumonia must be 1",
        ),
        (lambda text: text.replace(",0,1,0,", ",0,0,0,", 1), r"line 5: exactly one of .* got \['0', '0', '0'\]"),
    ],
)
def test_a_damaged_sheet_is_always_an_error(copy, load, change, message):
    path = copy / "egd" / "master_sheet.csv"
    path.write_bytes(change(path.read_bytes().decode()).encode())
    with pytest.raises(ValueError, match=message) as caught:
        load(skip_bad=True)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", ["master_sheet.csv", "eye_gaze.csv"])
def test_a_missing_table_is_named(copy, load, name):
    (copy / "egd" / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"{copy / 'egd' / name} is missing"):
        load(skip_bad=True)


def test_missing_folders_are_named(written, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder"):
        egd_cxr(tmp_path / "nowhere", written / "mimic")
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder"):
        egd_cxr(written / "egd", tmp_path / "nowhere")


def test_a_size_of_its_own_is_refused(written):
    with pytest.raises(
        ValueError, match=r"image_size must be \(640, 512\) or \(1536, 1280\) for egd-cxr, got \(9, 9\)"
    ):
        egd_cxr(written / "egd", written / "mimic", (9, 9))


@pytest.mark.parametrize(("module", "extra"), [("pydicom", "pydicom: .*cxr"), ("PIL", "Pillow: .*train")])
def test_without_a_reader_the_error_names_the_extra(written, monkeypatch, module, extra):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=f"reading chest X-rays needs {extra}"):
        egd_cxr(written / "egd", written / "mimic")
