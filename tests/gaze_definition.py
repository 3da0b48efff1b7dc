"""The gaze map's definition, at full size with whole arrays; independent of the package."""

from __future__ import annotations

from array import array

import numpy as np
import torch
from scipy.ndimage import correlate1d
from torch.nn import functional

from ckrm_kernels.data.chest_xrays.frame import Frame
from ckrm_kernels.data.chest_xrays.gaze import Points


def in_frame(image: np.ndarray, frame: Frame) -> np.ndarray:
    """The image padded and cropped to the frame as the author does it, at full size."""
    left, top = int((frame.width - image.shape[1]) / 2), int((frame.height - image.shape[0]) / 2)
    sides = (left, frame.width - image.shape[1] - left, top, frame.height - image.shape[0] - top)
    return functional.pad(torch.from_numpy(image.copy()), sides).numpy()


def blurred(points: Points, size: tuple[int, int]) -> np.ndarray:
    """The weights at full size, then two whole passes of the Gaussian, its borders mirrored without the last pixel."""
    counts = np.zeros(size)
    for x, y, weight in zip(*points, strict=True):
        if 0 <= x < size[1] and 0 <= y < size[0]:
            counts[y, x] += weight
    kernel = np.exp(-(np.arange(-250, 251) ** 2) / (2 * (0.3 * ((501 - 1) * 0.5 - 1) + 0.8) ** 2))
    kernel /= kernel.sum()
    return correlate1d(correlate1d(counts, kernel, 0, mode="mirror"), kernel, 1, mode="mirror")


def points_of(*rows: tuple[int, int, float]) -> Points:
    x, y, weight = zip(*rows, strict=True) if rows else ((), (), ())
    return Points(array("q", x), array("q", y), array("d", weight))
