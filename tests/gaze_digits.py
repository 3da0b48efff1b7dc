"""The embedded digits as a data set that GG-CAM can be trained on."""

from __future__ import annotations

from dataclasses import replace

import torch

from ckrm_kernels.data import Dataset, Part, digits


def gaze_digits() -> Dataset:
    """The digits, with the brightness for a gaze map, and the middle for a region in which a 1 shows."""

    def with_gaze(part: Part) -> Part:
        gaze = part.images[:, 0].float()
        regions = torch.zeros(len(part), 1, 8, 8, dtype=torch.bool)
        regions[:, :, 2:6, 2:6] = True
        return Part(part.images, part.labels, (gaze - gaze.min()) / (gaze.max() - gaze.min()), regions)

    data = digits()
    parts = {name: with_gaze(getattr(data, name)) for name in ("train", "validation", "held_out")}
    return replace(data, name="gaze digits", region_of_class={1: 0}, **parts)
