"""Drawings in the files of EGD-CXR and MIMIC-CXR: `python docs/studies/drawn_egd_cxr.py FOLDER [RECORDS]`.

A stand-in for data that needs credentials: chests of ellipses, a third of them normal, a third with a wide heart, a
third with a bright spot in a lung, and a reader who looks at what tells them apart. `--data egd-cxr` reads FOLDER/egd
and FOLDER/mimic. It shows that training works, and says nothing of X-rays.
"""

from __future__ import annotations

import csv
import io
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pydicom
from PIL import Image
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from ckrm_kernels.storage.files import write_atomically

SIZE = (2560, 2048)  # pixels of an image: within the frame of 3200 x 2560
FLAGS = ("Normal", "CHF", "pneumonia")
_LOOKS, _WANDER = 60, 110  # points of gaze on an image, and their deviation in pixels
_GREYS = {"body": 150, "lung": 60, "heart": 190, "spot": 130, "noise": 14}


class Ellipse(NamedTuple):
    """Its middle and its half axes, in pixels."""

    y: float
    x: float
    height: float
    width: float

    @property
    def mask(self) -> np.ndarray:
        """The pixels within."""
        rows, columns = np.ogrid[: SIZE[0], : SIZE[1]]
        inside: np.ndarray = ((rows - self.y) / self.height) ** 2 + ((columns - self.x) / self.width) ** 2 <= 1
        return inside


class Chest(NamedTuple):
    """What is drawn, and where a reader looks."""

    left_lung: Ellipse
    right_lung: Ellipse
    heart: Ellipse
    spot: Ellipse | None
    looked_at: tuple[Ellipse, ...]


def main(folder: Path, records: int) -> None:
    """Writes both data sets."""
    sheet, gaze = [], []
    for index in range(records):
        name = "-".join([f"{index:08x}"] * 5)
        random, label = np.random.default_rng(index), index % len(FLAGS)
        chest = draw(label, random)
        path = f"files/p10/p{10_000_000 + index}/s{50_000_000 + index}/{name}.dcm"
        write_atomically(folder / "mimic" / path, dicom(pixels(chest, random)))
        for part, mask in masks(chest).items():
            target = folder / "egd" / "audio_segmentation_transcripts" / name / f"{part}.png"
            write_atomically(target, png(mask))
        flags = {flag: int(place == label) for place, flag in enumerate(FLAGS)}
        row = {"dicom_id": name, "path": path, "study_id": 50_000_000 + index, "patient_id": 10_000_000 + index}
        sheet.append({**row, **flags})
        gaze += [{"DICOM_ID": name, "X_ORIGINAL": x, "Y_ORIGINAL": y, "FPOGD": 0.3} for x, y in looks(chest, random)]
    write_atomically(folder / "egd" / "master_sheet.csv", table(sheet))
    for name in ("eye_gaze.csv", "fixations.csv"):
        write_atomically(folder / "egd" / name, table(gaze))


def draw(label: int, random: np.random.Generator) -> Chest:
    """A chest of a class."""
    middle, width = SIZE[1] / 2 + random.normal(0, 60), random.uniform(300, 360)
    lungs = [
        Ellipse(1200 + random.normal(0, 60), middle + side * 480, random.uniform(750, 850), width) for side in (1, -1)
    ]
    heart = Ellipse(1500.0, middle + 90, 330.0, random.uniform(470, 540) if label == 1 else random.uniform(230, 290))
    if label == 1:
        return Chest(*lungs, heart, None, (heart,))
    if label == 0:
        return Chest(*lungs, heart, None, (*lungs, heart))
    lung = lungs[random.integers(2)]
    y, x = lung.y + random.uniform(-0.5, 0.5) * lung.height, lung.x + random.uniform(-0.4, 0.4) * lung.width
    spot = Ellipse(y, x, random.uniform(140, 200), random.uniform(140, 200))
    return Chest(*lungs, heart, spot, (spot,))


def pixels(chest: Chest, random: np.random.Generator) -> np.ndarray:
    """The image (h, w) uint8."""
    image = np.where(Ellipse(1400.0, SIZE[1] / 2, 1350.0, 980.0).mask, _GREYS["body"], 5).astype(np.float32)
    parts = [(chest.left_lung, "lung"), (chest.right_lung, "lung"), (chest.heart, "heart"), (chest.spot, "spot")]
    for ellipse, grey in parts:
        if ellipse is not None:
            image[ellipse.mask] = _GREYS[grey]
    image += random.normal(0, _GREYS["noise"], SIZE).astype(np.float32)
    drawn: np.ndarray = image.clip(0, 255).astype(np.uint8)
    return drawn


def masks(chest: Chest) -> dict[str, np.ndarray]:
    """By the names of EGD-CXR's files."""
    return {
        "left_lung": chest.left_lung.mask,
        "right_lung": chest.right_lung.mask,
        "mediastanum": chest.heart.mask,
        "aortic_knob": Ellipse(900.0, chest.heart.x, 90.0, 90.0).mask,
    }


def looks(chest: Chest, random: np.random.Generator) -> list[tuple[int, int]]:
    """x and y of points around the middles of what is looked at."""
    targets = random.integers(len(chest.looked_at), size=_LOOKS)
    return [
        (round(chest.looked_at[target].x + right), round(chest.looked_at[target].y + down))
        for target, (right, down) in zip(targets, random.normal(0, _WANDER, (_LOOKS, 2)), strict=True)
    ]


def dicom(image: np.ndarray) -> bytes:
    """A DICOM file of a grey image."""
    meta = pydicom.dataset.FileMetaDataset()
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1"  # computed radiography
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[image.tobytes()[: 1 << 16].hex()])
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file = pydicom.Dataset()
    file.file_meta = meta
    file.SOPClassUID, file.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    file.Rows, file.Columns = image.shape
    file.SamplesPerPixel, file.PhotometricInterpretation, file.PixelRepresentation = 1, "MONOCHROME2", 0
    file.BitsAllocated, file.BitsStored, file.HighBit = 8, 8, 7
    file.PixelData = image.tobytes()
    content = io.BytesIO()
    file.save_as(content, enforce_file_format=True)
    return content.getvalue()


def png(mask: np.ndarray) -> bytes:
    """A PNG file, white within."""
    content = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).save(content, "png", compress_level=1)
    return content.getvalue()


def table(rows: list[dict[str, object]]) -> str:
    """A CSV file."""
    content = io.StringIO(newline="")
    writer = csv.DictWriter(content, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return content.getvalue()


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) == 3 else 90)
