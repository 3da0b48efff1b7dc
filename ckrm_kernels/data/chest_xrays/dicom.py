"""Chest X-rays from DICOM files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ckrm_kernels.data.files import BadFile
from ckrm_kernels.extras import require


def check_pydicom() -> None:
    """Raises ImportError, naming the extra, where pydicom is missing."""
    with require("reading chest X-rays", "pydicom"):
        import pydicom  # noqa: F401


def read_xray(path: Path) -> np.ndarray:
    """Pixels (h, w) float32 as they are stored, from 0 for black; raises `BadFile`.

    Where the file says that its lowest number is white (MONOCHROME1), they are taken from the highest one.
    """
    import pydicom

    if not path.is_file():
        raise BadFile(path, "is missing")
    try:
        file = pydicom.dcmread(path)
        photometric, pixels = str(file.PhotometricInterpretation), file.pixel_array
    except MemoryError:
        raise
    except Exception as error:  # pydicom breaks with many on damaged files
        raise BadFile(path, f"does not decode ({error})") from error
    if pixels.ndim != 2 or photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise BadFile(path, f"must be one grey image, got {photometric} {pixels.shape}")
    pixels = pixels.astype(np.float32)
    return pixels.max() - pixels if photometric == "MONOCHROME1" else pixels
