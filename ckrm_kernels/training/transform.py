"""From raw images, as the files of a data set have them, to what its trained networks take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ckrm_kernels.data import Normalization
from ckrm_kernels.data.pillow import fitted, upright


@dataclass(frozen=True)
class Transform:
    """Makes a network's input of raw images; as `nn.Module`s do, it is called with them.

    image_shape: (C, H, W); mean, deviation: of each channel, in the units of the raw pixels
    pixels: of the raw images: "uint8", from 0 to 255, or "float32", numbers as the data set gives them
    fits: Pillow's images and arrays (h, w, 3) uint8 of any size are scaled to cover H x W and their middle is cut out,
        as in image folders
    """

    image_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    pixels: str
    fits: bool = False

    def __call__(self, images: Any) -> Tensor:
        """The input (N, C, H, W) float32, (pixel - mean) / deviation in each channel; N is 1 for a single image.

        images: one of Pillow's, a tensor or array of any number type, (H, W) or (N, H, W) of one channel, (H, W, C),
            (C, H, W), (N, H, W, C) or (N, C, H, W), or a list of such; floating-point pixels are in the same units
        Raises TypeError for what are no real numbers; ValueError for another shape, for NaN and Inf, and for floats
        from 0 to 1 where pixels go to 255.
        """
        if isinstance(images, (list, tuple)) and images:
            return torch.cat([self(image) for image in images])
        raw = self._of_pillow(images) if hasattr(images, "convert") else self._of_numbers(images)
        return Normalization(self.mean, self.deviation)(raw)

    def _of_pillow(self, image: Any) -> Tensor:
        if self.pixels != "uint8":
            raise ValueError("images must be arrays of numbers as the data set gives them, got one of Pillow's")
        channels, *size = self.image_shape
        if self.fits:
            return torch.from_numpy(np.array(fitted(image, (size[0], size[1])))).float()[None]
        return self._of_numbers(np.asarray(upright(image).convert("L" if channels == 1 else "RGB")))

    def _of_numbers(self, images: Any) -> Tensor:
        raw = _as_tensor(images)
        if self.fits and raw.dtype == torch.uint8 and raw.dim() == 3 and raw.shape[2] == 3:
            from PIL import Image

            return self._of_pillow(Image.fromarray(raw.cpu().numpy()))
        in_rows = self._in_rows(raw).float()
        if not bool(in_rows.isfinite().all()):
            raise ValueError("images must be finite, got NaN or Inf")
        if self.pixels == "uint8" and raw.is_floating_point() and in_rows.numel() and 0 < in_rows.max() <= 1:
            raise ValueError("images must have pixels from 0 to 255, got floats from 0 to 1: multiply them by 255")
        return in_rows

    def _in_rows(self, raw: Tensor) -> Tensor:
        """(N, C, H, W)."""
        channels, height, width = self.image_shape
        shape = tuple(raw.shape)
        if shape[-3:] == (channels, height, width) and raw.dim() in (3, 4):
            return raw.reshape(-1, channels, height, width)
        if shape[-3:] == (height, width, channels) and raw.dim() in (3, 4):
            return raw.reshape(-1, height, width, channels).permute(0, 3, 1, 2)
        if channels == 1 and shape[-2:] == (height, width) and raw.dim() in (2, 3):
            return raw.reshape(-1, 1, height, width)
        of_one = f"({height}, {width}) or (N, {height}, {width}), " if channels == 1 else ""
        raise ValueError(
            f"images must be {of_one}({height}, {width}, {channels}), ({channels}, {height}, {width}) or a batch of "
            f"such, got {shape}"
        )


def _as_tensor(images: Any) -> Tensor:
    try:
        raw = images if isinstance(images, Tensor) else torch.from_numpy(np.array(images))
    except (TypeError, ValueError):
        raw = None
    if raw is None or raw.is_complex():
        what = type(images).__name__ if raw is None else str(raw.dtype)
        raise TypeError(f"images must be real numbers in a tensor or an array, or one of Pillow's, got {what}")
    return raw
