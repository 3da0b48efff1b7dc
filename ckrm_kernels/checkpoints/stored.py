"""A tensor in a checkpoint's file, and what the file says of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


class CheckpointError(ValueError):
    """A checkpoint that can't be read or holds nothing to measure; the message begins with its path."""


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of a file, read when it is asked for.

    name: in the file, such as "layer1.0.conv1.weight"
    shape: as `read` gives it
    dtype: as torch writes it without "torch.", such as "float32"; by the file's own name where torch has no such type
    read: gives the tensor, on the CPU, memory-mapped where the file allows, anew each time, so that nothing stays in
        memory of one that is done with; equal to that of another name of the same numbers; raises CheckpointError
    operator: what uses it, such as "Conv2d", "ConvTranspose2d" or "Linear"; "" where the file does not say
    groups: of that operator; None where the file does not say
    note: what is to be known of it, such as "int8, dequantised"; or why it can't be measured, where `read` is None
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], Tensor] | None
    operator: str = ""
    groups: int | None = None
    note: str = ""
