"""Gaze maps: where a radiologist looked, as the author of MT-UNet and GG-CAM draws it."""

from __future__ import annotations

import math
from array import array
from collections.abc import Collection
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ckrm_kernels.data.chest_xrays.frame import Frame
from ckrm_kernels.data.chest_xrays.sheet import read_columns

RADIUS = 250  # of the author's kernel of 501 pixels
SIGMA = 75.5  # which OpenCV takes for that kernel: 0.3 (250 - 1) + 0.8


class Points(NamedTuple):
    """Where one image was looked at: coordinates in its pixels, and the weight of each."""

    x: array[int]
    y: array[int]
    weight: array[float]


def read_points(path: Path, images: Collection[str], weight: str | None = None) -> dict[str, Points]:
    """The points of each of the images in eye_gaze.csv or fixations.csv, read row by row.

    images: their DICOM_IDs; rows of others, such as calibration screens, are passed over
    weight: the column with each point's weight; None counts every point once
    """
    columns = ["DICOM_ID", "X_ORIGINAL", "Y_ORIGINAL", *([weight] if weight else [])]
    points: dict[str, Points] = {}
    wanted = set(images)
    for line, (image, *texts) in read_columns(path, columns):
        if image not in wanted:
            continue
        of_image = points.setdefault(image, Points(array("q"), array("q"), array("d")))
        try:
            x, y, *weights = map(float, texts)
            of_image.x.append(math.floor(x))
            of_image.y.append(math.floor(y))
        except (ValueError, OverflowError):
            raise ValueError(f"{path}, line {line}: {columns[1:]} must be finite numbers, got {texts}") from None
        if not all(0 <= value < math.inf for value in weights):
            raise ValueError(f"{path}, line {line}: {weight} must be a finite number >= 0, got {texts[-1]}")
        of_image.weight.append(weights[0] if weights else 1.0)
    return points


def gaze_map(points: Points, size: tuple[int, int], frame: Frame, step: int) -> np.ndarray | None:
    """The points' weights, blurred at full size by the Gaussian, at one kept pixel of the frame in `step`.

    size: (height, width) of the image; points outside of it do not count
    out: (H / step, W / step) float32 over its largest value; None where no point is inside
    The blur is separable, and only the sampled pixels are computed: for each axis a matrix from the image's pixels to
    them, of which each point takes one column.
    """
    x, y, weight = (np.asarray(values) for values in points)
    inside = (y >= 0) & (y < size[0]) & (x >= 0) & (x < size[1])
    down, across = (_blur(extent, at.tobytes()) for extent, at in zip(size, frame.positions(size, step), strict=True))
    gaze = (down[:, y[inside]] * weight[inside]) @ across[:, x[inside]].T
    return (gaze / gaze.max()).astype(np.float32) if gaze.max() > 0 else None


@lru_cache(maxsize=16)
def _blur(extent: int, positions: bytes) -> np.ndarray:
    """(P, extent): what each pixel of an axis adds to the blurred pixel at each of P int64 positions.

    Beyond its borders the image is mirrored about its first and last pixel, as OpenCV does. A position outside of the
    image gets nothing, since the frame is padded after the blur.
    """
    offsets = np.arange(-RADIUS, RADIUS + 1)
    weights = np.exp(-(offsets**2) / (2 * SIGMA**2))
    weights /= weights.sum()
    matrix = np.zeros((len(positions) // 8, extent))
    period = max(2 * (extent - 1), 1)
    for row, position in zip(matrix, np.frombuffer(positions, np.int64), strict=True):
        if 0 <= position < extent:
            mirrored = (position + offsets) % period
            np.add.at(row, np.minimum(mirrored, period - mirrored), weights)
    return matrix
