"""Images read with Pillow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ckrm_kernels.data.files import BadFile
from ckrm_kernels.extras import require


def check_pillow(what: str) -> None:
    """Raises ImportError, naming what needs Pillow and the extra, where it is missing."""
    with require(what, "PIL"):
        import PIL.Image  # noqa: F401


def read_colour(path: Path, size: tuple[int, int]) -> np.ndarray:
    """The image as (3, H, W) uint8, see `fitted`. Raises `BadFile`."""
    image = _decoded(path)
    try:
        return fitted(image, size)
    except ValueError as error:
        raise BadFile(path, str(error)) from error


def fitted(image: Any, size: tuple[int, int]) -> np.ndarray:
    """A Pillow image as (3, H, W) uint8: upright, scaled to cover the size (H, W), its middle cut out.

    Raises ValueError for numbers of an unknown range.
    """
    from PIL import Image, ImageOps

    image = upright(image)
    if image.mode.startswith("I;16"):  # which convert would clip at 255
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"holds numbers of an unknown range (Pillow's mode {image.mode})")
    resized = ImageOps.fit(image.convert("RGB"), size[::-1], method=Image.Resampling.BILINEAR)
    return np.asarray(resized).transpose(2, 0, 1)


def read_mask(path: Path, size: tuple[int, int]) -> np.ndarray:
    """The mask as (H, W) bool, true where it is not black. Raises `BadFile`, also when it is of another size."""
    mask = np.asarray(upright(_decoded(path)).convert("L")) != 0
    if mask.shape != size:
        raise BadFile(path, f"must be of the size of its image {size}, got {mask.shape}")
    return mask


def upright(image: Any) -> Any:
    """The Pillow image turned as its EXIF orientation says; as it is where that can't be read."""
    from PIL import ImageOps

    try:
        return ImageOps.exif_transpose(image)
    except MemoryError:
        raise
    except Exception:  # the pixels are whole, and Pillow breaks with many on damaged EXIF data
        return image


def _decoded(path: Path) -> Any:
    from PIL import Image

    if not path.is_file():
        raise BadFile(path, "is missing")
    try:
        with Image.open(path) as image:
            image.load()
            return image
    except MemoryError:
        raise
    except Exception as error:  # Pillow breaks with many on damaged files
        raise BadFile(path, f"does not decode ({error})") from error
