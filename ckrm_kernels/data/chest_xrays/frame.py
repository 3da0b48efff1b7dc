"""The frame into which the author of MT-UNet and GG-CAM puts every chest X-ray, and how it is sampled."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Frame:
    """A rectangle of pixels at full size, onto whose middle an image is padded with zeros or cropped.

    height, width: of the frame; stride: one pixel in so many is kept, each way
    """

    height: int
    width: int
    stride: int

    @property
    def image_size(self) -> tuple[int, int]:
        """(H, W) of what is kept."""
        return self.height // self.stride, self.width // self.stride

    def positions(self, size: tuple[int, int], step: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """The image's rows and columns under one kept pixel in `step`; outside of the image where it is padded.

        size: (height, width) of the image
        """
        stride = self.stride * step
        # of an odd number of pixels that are padded or cropped, one more lies below or to the right
        rows = np.arange(0, self.height, stride) - int((self.height - size[0]) / 2)
        columns = np.arange(0, self.width, stride) - int((self.width - size[1]) / 2)
        return rows, columns

    def sample(self, image: np.ndarray, step: int = 1) -> np.ndarray:
        """One kept pixel in `step` of an image (h, w): (H / step, W / step), zero where the frame is padded."""
        height, width = image.shape
        rows, columns = self.positions((height, width), step)
        result = np.zeros((len(rows), len(columns)), image.dtype)
        down, across = (rows >= 0) & (rows < height), (columns >= 0) & (columns < width)
        result[np.ix_(down, across)] = image[np.ix_(rows[down], columns[across])]
        return result
