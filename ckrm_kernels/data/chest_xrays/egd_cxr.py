"""EGD-CXR: chest X-rays of MIMIC-CXR with the gaze of the radiologist who read them (Karargyris et al. 2021)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch

from ckrm_kernels.data.chest_xrays.dicom import check_pydicom, read_xray
from ckrm_kernels.data.chest_xrays.frame import Frame
from ckrm_kernels.data.chest_xrays.gaze import Points, gaze_map, read_points
from ckrm_kernels.data.chest_xrays.sheet import read_columns
from ckrm_kernels.data.dataset import Dataset
from ckrm_kernels.data.files import BadFile, Track, contents_of_files, existing_folder, untracked
from ckrm_kernels.data.pillow import check_pillow, read_mask
from ckrm_kernels.data.preprocess import Arrays, Preprocessing
from ckrm_kernels.data.split import split_by_class
from ckrm_kernels.storage.built_once import cache_folder
from ckrm_kernels.whole_numbers import as_whole

FRAMES = {frame.image_size: frame for frame in (Frame(3200, 2560, 5), Frame(3072, 2560, 2))}
STEP = 32  # pixels of the image for one cell of the regions, each way: the total stride of a ResNet
CLASSES = ("normal", "cardiomegaly", "pneumonia")
_FLAGS = ("Normal", "CHF", "pneumonia")  # the master sheet's columns for them
_TABLES = {"gaze": ("eye_gaze.csv", None), "fixations": ("fixations.csv", "FPOGD")}
# Cardiomegaly is judged on the mediastinum's mask, the only one that holds the heart. The spelling is the data set's.
_REGION_OF_CLASS = {1: 0, 2: 1}  # CHF shows in the heart, pneumonia in the lungs
_REGIONS = (("mediastanum.png",), ("left_lung.png", "right_lung.png"))


def egd_cxr(
    folder: str | Path,
    image_folder: str | Path,
    image_size: tuple[int, int] = (640, 512),
    split_seed: int = 0,
    *,
    gaze: Literal["gaze", "fixations"] = "gaze",
    gaze_step: int = STEP,
    skip_bad: bool = False,
    cache: str | None = None,
    track: Track = untracked,
) -> Dataset:
    """Normal, cardiomegaly or pneumonia, split 70 / 10 / 20 % by class, no patient on two sides.

    folder: EGD-CXR 1.0.0, with master_sheet.csv; image_folder: MIMIC-CXR's DICOM files, with files/p10 and so on
    image_size: (640, 512), MT-UNet's, or (1536, 1280), GG-CAM's
    gaze: maps from every point of eye_gaze.csv, or from fixations.csv, each fixation by its duration
    gaze_step: pixels of the image for one cell of its gaze map, each way, a divisor of both sides: GG-CAM's is 32, on
        whose grid a ResNet's maps are; MT-UNet's is 1, since it predicts the gaze at every pixel
    skip_bad: leave records out that lack an image, a gaze or a mask, or whose files do not decode; the split is that of
        all records
    cache: see `DataConfig`; track: shows progress while images are decoded
    out: images (N, 1, H, W) float16, over the largest value of each. Half precision keeps 11 bits of the 12 that the
        files have, where bytes would keep 8. Gaze maps (N, H / gaze_step, W / gaze_step) float32, over the largest
        value of each; regions (N, 2, H / 32, W / 32), heart and lungs
    Raises ImportError, naming the extra, where Pillow or pydicom is not installed; FileNotFoundError for a folder that
    is missing, ValueError for an argument that is not as above and for tables that lack something, and `BadFile` for a
    record as above, unless skip_bad.
    """
    check_pydicom()
    check_pillow("reading chest X-rays")
    if image_size not in FRAMES:
        raise ValueError(f"image_size must be {' or '.join(map(str, FRAMES))} for egd-cxr, got {image_size}")
    check_gaze_step(gaze_step, image_size)
    root, images = existing_folder(folder), existing_folder(image_folder)
    records = _read_records(root, images)
    table = root / _TABLES[gaze][0]
    cached = cache_folder(cache)
    masks = [path for record in records for path in record.all_masks]
    files = {"master_sheet.csv": [root / "master_sheet.csv"], table.name: [table], "masks": masks}
    identity = {
        "name": "egd-cxr",
        "image_size": list(image_size),
        "gaze": gaze,
        "gaze_step": gaze_step,
        "split_seed": split_seed,
        "contents": {
            **contents_of_files(root, files, cached, track),
            **contents_of_files(images, {"DICOM images": [record.image for record in records]}, cached, track),
        },
    }

    def decoder() -> Callable[[int], Arrays]:
        points = read_points(table, {record.name for record in records}, weight=_TABLES[gaze][1])
        drawn = _Drawn(FRAMES[image_size], gaze_step, table)
        return lambda index: _read(records[index], points.get(records[index].name), drawn)

    labels = [record.label for record in records]
    patients = {patient: number for number, patient in enumerate(sorted({record.patient for record in records}))}
    groups = torch.tensor([patients[record.patient] for record in records])
    indices = split_by_class(torch.tensor(labels), split_seed, groups=groups)
    preprocessing = Preprocessing(identity, (root, images), labels, indices, decoder, normalize=False)
    parts, skipped = preprocessing.parts(cached, skip_bad, track)
    return Dataset("egd-cxr", len(CLASSES), *parts, CLASSES, identity, skipped, _REGION_OF_CLASS)


def check_gaze_step(gaze_step: int, image_size: tuple[int, int]) -> None:
    """Raises ValueError where the step is no whole number >= 1 that divides both sides of the image."""
    step = as_whole(gaze_step)
    if step is None or step < 1 or any(side % step for side in image_size):
        raise ValueError(f"gaze_step must be a whole number that divides both of {image_size}, got {gaze_step!r}")


@dataclass(frozen=True)
class _Record:
    """A row of the master sheet: its DICOM's name, the patient, the class, and where image and masks are."""

    name: str
    patient: str
    label: int
    image: Path
    masks: tuple[tuple[Path, ...], ...]

    @property
    def all_masks(self) -> list[Path]:
        return [path for region in self.masks for path in region]


def _read_records(root: Path, images: Path) -> list[_Record]:
    sheet = root / "master_sheet.csv"
    columns = ("dicom_id", "path", "study_id", "patient_id", *_FLAGS)
    records = []
    for line, (name, path, study, patient, *texts) in read_columns(sheet, columns):
        flags = [text.strip() in ("1", "1.0") for text in texts]
        if sum(flags) != 1:
            raise ValueError(f"{sheet}, line {line}: exactly one of {', '.join(_FLAGS)} must be 1, got {texts}")
        image = images / path
        if not path or not image.is_file():
            image = images / f"files/p{patient[:2]}/p{patient}/s{study}/{name}.dcm"
        masks = root / "audio_segmentation_transcripts" / name
        regions = tuple(tuple(masks / file for file in files) for files in _REGIONS)
        records.append(_Record(name, patient, flags.index(True), image, regions))
    if not records:
        raise ValueError(f"{sheet} holds no record")
    return records


class _Drawn(NamedTuple):
    """How a record is drawn: on which frame, with gaze maps of which step, of which table."""

    frame: Frame
    gaze_step: int
    table: Path


def _read(record: _Record, points: Points | None, drawn: _Drawn) -> Arrays:
    """Image, gaze map and regions of a record."""
    frame, gaze_step, table = drawn
    pixels = read_xray(record.image)
    image = frame.sample(pixels)
    if not image.max() > 0:
        raise BadFile(record.image, "is black all over")
    gaze = None if points is None else gaze_map(points, pixels.shape, frame, gaze_step)
    if gaze is None:
        raise BadFile(table, f"has no gaze on the image of {record.name}")
    regions = []
    for paths in record.masks:
        masks = [frame.sample(read_mask(path, pixels.shape), STEP) for path in paths]
        regions.append(np.logical_or.reduce(masks))
    return {"images": (image / image.max()).astype(np.float16)[None], "gaze": gaze, "regions": np.stack(regions)}
