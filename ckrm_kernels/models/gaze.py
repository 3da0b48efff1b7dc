"""What losses of several tasks and of gaze maps share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from ckrm_kernels.data import Dataset

_CHUNK = 256  # maps read at once
_NAMED = 10  # rows in an error


def weighed_by_uncertainty(loss: Tensor, ln_s: Tensor) -> Tensor:
    """loss / s^2 + ln(s + 1): one task of several, whose uncertainty s = e^ln_s is trained, for any s."""
    return loss * torch.exp(-2 * ln_s) + functional.softplus(ln_s)


def resized(gaze: Tensor, size: torch.Size) -> Tensor:
    """gaze (N, H, W) -> (N, h, w), bilinear, every pixel weighed where it shrinks; as it is where the size is right."""
    if gaze.shape[1:] == size:
        return gaze
    return functional.interpolate(gaze[:, None], list(size), mode="bilinear", antialias=True)[:, 0]


def check_batch(gaze: Tensor, maps: Tensor, name: str) -> None:
    """Raises ValueError where gaze is not floating point (N, H, W) for the N maps. name: of those, in the message"""
    if gaze.dim() != 3 or gaze.shape[0] != maps.shape[0] or not gaze.is_floating_point() or not gaze.numel():
        raise ValueError(
            f"gaze must be floating point (N, H, W) for the {maps.shape[0]} images of {name}, "
            f"got {gaze.dtype} {tuple(gaze.shape)}"
        )


def gaze_distribution(gaze: Tensor, size: torch.Size) -> Tensor:
    """Each gaze map as the probabilities of the pixels: resized, and over its sum.

    gaze: (N, H, W) floating point; size: (h, w)
    out: (N, h, w), each map's sum 1
    Raises ValueError as `check_summable`.
    """
    check_summable(gaze, "gaze")
    gaze = resized(gaze, size)
    return gaze / gaze.sum((1, 2), keepdim=True)


def check_summable(gaze: Tensor, name: str) -> None:
    """Raises ValueError, naming the rows, where maps (N, H, W) can't be scaled to the sum 1. name: of the maps"""
    bad = [start + row for start in range(0, len(gaze), _CHUNK) for row in _bad_rows(gaze[start : start + _CHUNK])]
    if bad:
        raise ValueError(
            f"{name} must be >= 0, finite and of a sum above 0 in each map; it is not in {len(bad)} of {len(gaze)}, "
            f"the rows {', '.join(map(str, bad[:_NAMED]))}{', ...' if len(bad) > _NAMED else ''}"
        )


def check_gaze(data: Dataset) -> None:
    """Raises ValueError, naming part and rows, where gaze maps of the data can't be scaled to the sum 1."""
    for name in ("train", "validation", "held_out"):
        gaze = getattr(data, name).gaze
        if gaze is not None:
            check_summable(gaze, f"gaze of the part {name} of {data.name}")


def _bad_rows(gaze: Tensor) -> list[int]:
    sums, least = gaze.double().sum((1, 2)), gaze.amin((1, 2))
    return (~((sums > 0) & (sums < torch.inf) & (least >= 0))).nonzero().flatten().tolist()
