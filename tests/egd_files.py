"""A small EGD-CXR beside a small MIMIC-CXR: the columns, file names and layouts of the real ones."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

GAZE_COLUMNS = (
    "SESSION_ID,MEDIA_ID,DICOM_ID,CNT,Time (in secs),TIMETICK(f=10000000),FPOGX,FPOGY,FPOGS,FPOGD,FPOGID,FPOGV,BPOGX,"
    "BPOGY,BPOGV,LPCX,LPCY,LPD,LPS,LPV,RPCX,RPCY,RPD,RPS,RPV,BKID,BKDUR,BKPMIN,LPMM,LPMMV,RPMM,RPMMV,SACCADE_MAG,"
    "SACCADE_DIR,VID_FRAME,X_ORIGINAL,Y_ORIGINAL"
)
SHEET_COLUMNS = (
    "dicom_id,path,study_id,patient_id,stay_id,gender,anchor_age,image_top_pad,image_bottom_pad,image_left_pad,"
    "image_right_pad,dx1,dx1_icd,normal_reports,Normal,CHF,pneumonia,cxr_exam_indication"
)
FLAGS = ("Normal", "CHF", "pneumonia")
RECORDS = 30


def name_of(index: int) -> str:
    """A DICOM_ID: five groups of eight hexadecimal digits, 44 characters."""
    return "-".join([f"{index:08x}"] * 5)


def size_of(index: int) -> tuple[int, int]:
    """Images of several sizes, portrait and landscape."""
    return (700 + 10 * (index % 3), 620) if index % 5 else (620, 701)


def patient_of(index: int) -> int:
    """Records 0 and 3, 1 and 4, ... up to 11 are of one patient each, and so of one class."""
    return 10_000_000 + 1000 * (index - 3 if index < 12 and index % 6 >= 3 else index)


def pixels_of(index: int) -> np.ndarray:
    random = np.random.default_rng(index)
    return random.integers(1, 4000, size=size_of(index), dtype=np.uint16)


def points_at(index: int) -> list[tuple[int, int, float]]:
    """x, y and duration of what a radiologist looked at, partly beside the image."""
    random = np.random.default_rng(100 + index)
    return [(int(random.integers(-100, 700)), int(random.integers(-100, 800)), float(d)) for d in random.random(25)]


def masks_of(index: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(200 + index)
    return {name: random.random(size_of(index)) < 0.5 for name in ("left_lung", "right_lung", "mediastanum")}


def write_dicom(path: Path, pixels: np.ndarray, photometric: str = "MONOCHROME2") -> None:
    pydicom = pytest.importorskip("pydicom", reason="pydicom is not installed")
    meta = pydicom.dataset.FileMetaDataset()
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1"  # computed radiography
    meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    file = pydicom.Dataset()
    file.file_meta = meta
    file.SOPClassUID, file.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    file.Rows, file.Columns = pixels.shape[:2]
    file.SamplesPerPixel = 1 if pixels.ndim == 2 else pixels.shape[2]
    if file.SamplesPerPixel > 1:
        file.PlanarConfiguration = 0
    file.PhotometricInterpretation = photometric
    file.BitsAllocated, file.BitsStored, file.HighBit, file.PixelRepresentation = (
        (16, 12, 11, 0) if pixels.dtype == np.uint16 else (8, 8, 7, 0)
    )
    file.PixelData = pixels.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    file.save_as(path, enforce_file_format=True)


def dicom_path(index: int) -> str:
    patient = str(patient_of(index))
    return f"files/p{patient[:2]}/p{patient}/s{50_000_000 + index}/{name_of(index)}.dcm"


def write_tables(folder: Path, records: Iterable[int]) -> None:
    with open(folder / "master_sheet.csv", "w", newline="") as file:
        sheet = csv.DictWriter(file, SHEET_COLUMNS.split(","))
        sheet.writeheader()
        for index in records:
            row = dict.fromkeys(FLAGS, "0") | {FLAGS[index % 3]: "1"}
            row |= {"dicom_id": name_of(index), "patient_id": patient_of(index), "study_id": 50_000_000 + index}
            row |= {"anchor_age": "20 - 30", "cxr_exam_indication": 'a "cough",\nfor weeks'}
            row["path"] = "" if index == 8 else dicom_path(index)
            sheet.writerow(row)
    for table in ("eye_gaze.csv", "fixations.csv"):
        with open(folder / table, "w", newline="") as file:
            gaze = csv.DictWriter(file, GAZE_COLUMNS.split(","))
            gaze.writeheader()
            gaze.writerow({"DICOM_ID": "calibration", "X_ORIGINAL": "", "Y_ORIGINAL": ""})
            for index in records:
                for x, y, duration in points_at(index):
                    gaze.writerow({"DICOM_ID": name_of(index), "FPOGD": duration, "X_ORIGINAL": x, "Y_ORIGINAL": y})


def write_egd_cxr(folder: Path) -> Path:
    """Both data sets, in folder/egd and folder/mimic."""
    for index in range(RECORDS):
        write_dicom(folder / "mimic" / dicom_path(index), pixels_of(index))
        masks = folder / "egd" / "audio_segmentation_transcripts" / name_of(index)
        masks.mkdir(parents=True)
        for name, mask in masks_of(index).items():
            Image.fromarray(mask.astype(np.uint8) * 255).save(masks / f"{name}.png", compress_level=1)
    write_tables(folder / "egd", range(RECORDS))
    return folder
