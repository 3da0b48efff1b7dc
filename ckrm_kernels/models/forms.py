"""The forms of a residual network: what two networks of the same widths may still differ in."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

FormName = Literal["small", "paper", "paper-small", "torchvision"]


@dataclass(frozen=True)
class Form:
    """What surrounds the widths.

    stem_kernel, stem_stride: of the first convolution; pool: a 3x3 max-pool of stride 2 follows it
    bias: every convolution has one, although a norm follows it
    first_stage_stride: of stage 1; every later stage has stride 2
    always_project: the first block of every stage projects its shortcut, else only where stride or channels change
    stride_on_first: a bottleneck's stride sits on its first 1x1, else on its 3x3
    kaiming: convolutions start as in torchvision (normal, by fan-out), else as torch's layers do
    """

    stem_kernel: int
    stem_stride: int
    pool: bool
    bias: bool
    first_stage_stride: int
    always_project: bool
    stride_on_first: bool
    kaiming: bool


_SMALL = Form(
    stem_kernel=3,
    stem_stride=1,
    pool=False,
    bias=False,
    first_stage_stride=1,
    always_project=True,
    stride_on_first=False,
    kaiming=False,
)
_PAPER = Form(
    stem_kernel=7,
    stem_stride=2,
    pool=False,
    bias=True,
    first_stage_stride=2,
    always_project=True,
    stride_on_first=True,
    kaiming=False,
)
_PAPER_SMALL = replace(_PAPER, stem_kernel=3, stem_stride=1, first_stage_stride=1)
_TORCHVISION = Form(
    stem_kernel=7,
    stem_stride=2,
    pool=True,
    bias=False,
    first_stage_stride=1,
    always_project=False,
    stride_on_first=False,
    kaiming=True,
)
FORMS: dict[FormName, Form] = {
    "small": _SMALL,
    "paper": _PAPER,
    "paper-small": _PAPER_SMALL,
    "torchvision": _TORCHVISION,
}
