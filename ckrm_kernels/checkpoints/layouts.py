"""Weights of other libraries' layouts in torch's, (O, I, *K)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from ckrm_kernels.checkpoints.stored import StoredTensor

NOT_A_KERNEL = "not a kernel by its name"
_ATTENTION = {"query", "key", "value", "out"}  # of Flax and Keras, whose kernels hold heads


def kernel_in_torch_layout(tensor: StoredTensor, keras: bool = True) -> StoredTensor:
    """A kernel of Flax, Keras or TensorFlow by its name, (*K, I, O), as (O, I, *K); any other tensor as it is.

    keras: whether it may be of Keras or TensorFlow, whose transposed kernels are (*K, O, I); Flax's are as the others
    What holds no filters loses its `read`, with the reason.
    """
    *path, last = tensor.name.replace(".", "/").removesuffix(":0").split("/")
    dims = len(tensor.shape)
    if not last.endswith("kernel") or dims < 2:
        return tensor
    if last == "recurrent_kernel":
        return refused(tensor, "recurrent, no filters")
    if dims == 3 and path and path[-1] in _ATTENTION:
        return refused(tensor, "attention, a projection to heads")
    if last == "depthwise_kernel":  # (*K, I, filters of each channel)
        return _changed(tensor, _depthwise, "depthwise (*K, I, M), as Keras writes")
    if keras and any("_transpose" in part for part in path):
        return _changed(tensor, _transposed, "transposed (*K, O, I), as Keras writes")
    return _changed(tensor, _plain, "(*K, I, O), as Flax and Keras write")


def from_flax(tensor: StoredTensor) -> StoredTensor:
    """A tensor of a file that declares Flax's layout: kernels by their names, and what is a weight."""
    return _declared(tensor, keras=False)


def from_tensorflow(tensor: StoredTensor) -> StoredTensor:
    """A tensor of a file that declares TensorFlow's layout, likewise."""
    return _declared(tensor, keras=True)


def _declared(tensor: StoredTensor, keras: bool) -> StoredTensor:
    kernel = kernel_in_torch_layout(tensor, keras)
    if kernel is not tensor:
        return kernel if kernel.read is None else replace(kernel, note="")  # the heading says it of the whole file
    if len(tensor.shape) < 2:
        return tensor
    is_weight = len(tensor.shape) > 2 and tensor.name.replace("/", ".").split(".")[-1] in ("weight", "w")
    return _changed(tensor, _plain, "") if is_weight else refused(tensor, NOT_A_KERNEL)


def from_mlx(tensor: StoredTensor) -> StoredTensor:
    """A weight (O, *K, I) as (O, I, *K); any other tensor as it is."""
    is_weight = len(tensor.shape) > 2 and tensor.name.split(".")[-1] == "weight"
    return _changed(tensor, lambda weight: weight.movedim(-1, 1), "") if is_weight else tensor


def refused(tensor: StoredTensor, reason: str) -> StoredTensor:
    """The tensor with the reason why it can't be measured."""
    return replace(tensor, read=None, note=reason)


def _plain(kernel: Tensor) -> Tensor:
    return kernel.movedim((-1, -2), (0, 1))


def _transposed(kernel: Tensor) -> Tensor:
    return kernel.movedim((-2, -1), (0, 1))


def _depthwise(kernel: Tensor) -> Tensor:
    return kernel.movedim((-2, -1), (0, 1)).flatten(0, 1).unsqueeze(1)


def _changed(tensor: StoredTensor, change: Callable[[Tensor], Tensor], note: str) -> StoredTensor:
    shape = tuple(change(torch.empty(tensor.shape, device="meta")).shape)
    read = tensor.read
    return replace(tensor, shape=shape, read=None if read is None else lambda: change(read()), note=note or tensor.note)
