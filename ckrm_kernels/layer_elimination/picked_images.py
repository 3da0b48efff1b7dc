"""The images that a layer chose, drawn on one sheet."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ckrm_kernels.data import Part
from ckrm_kernels.extras import require
from ckrm_kernels.layer_elimination.strongest import Selection

_LARGEST = 48  # pixels of an image on the sheet
_FAINT = 70  # opacity of an image that a higher layer chose, too; of 255


def sheet(part: Part, selection: Selection, layer: int) -> bytes:
    """A PNG file: a row for each map of a layer, from 0, the strongest activation first.

    part: what the selection was made of
    Images that went to a higher layer are faint. One channel is drawn in grey, three in colour, of others the first.
    """
    with require("the report", "PIL"):
        from PIL import Image
    maps = selection.chosen[layer]
    height, width = _size(part)
    gap = max(height // 8, 1)
    columns = max(map(len, maps), default=0)
    drawn = Image.new("RGBA", (max(columns * (width + gap), 1), max(len(maps) * (height + gap), 1)))
    for line, rows in enumerate(maps):
        for column, row in enumerate(rows):
            tile = _tile(part.images[row], (height, width))
            tile.putalpha(255 if selection.layer_of_row[row] == layer else _FAINT)
            drawn.paste(tile, (column * (width + gap), line * (height + gap)))
    buffer = BytesIO()
    drawn.save(buffer, "png", optimize=True)
    return buffer.getvalue()


def _size(part: Part) -> tuple[int, int]:
    height, width = part.images.shape[2:]
    factor = min(_LARGEST / max(height, width), 1)
    return max(round(height * factor), 1), max(round(width * factor), 1)


def _tile(image: Tensor, size: tuple[int, int]) -> Any:
    """One of Pillow's, of (height, width), from the darkest to the brightest pixel of the image (C, H, W)."""
    from PIL import Image

    shown = image.float() if len(image) == 3 else image[:1].float().expand(3, -1, -1)
    low, high = shown.min(), shown.max()
    scaled = (shown - low) / (high - low) if high > low else torch.zeros_like(shown)
    pixels = (scaled * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    return Image.fromarray(np.ascontiguousarray(pixels)).resize((size[1], size[0]), Image.Resampling.BOX)
