"""What the operators refuse.

The public functions check their arguments before; these checks hold for whoever calls torch.ops directly, and say what
csrc says.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ckrm_kernels.kernels.prepared import shape_of
from ckrm_kernels.ops import TRITON_MOST_POSITIONS, result_dtype


def check_weight(weight: Tensor) -> None:
    """Raises RuntimeError unless the weight is (F2, F1, *K), of a dtype and a K that the kernels take."""
    if weight.dim() < 2:
        raise RuntimeError(f"weight must have the shape (F2, F1, *K), got {weight.dim()} dimensions")
    if weight.dtype not in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        raise RuntimeError("weight must be float32, float64, float16 or bfloat16")
    shape = shape_of(weight)
    if shape.filters > 0 and shape.slices * shape.positions == 0:
        raise RuntimeError("weight has filters without slices")
    if shape.positions > TRITON_MOST_POSITIONS:
        raise RuntimeError(
            f"weight has slices of {shape.positions} numbers, the Triton kernels take at most {TRITON_MOST_POSITIONS}"
        )


def check_alike(a: Tensor, b: Tensor) -> None:
    """Raises RuntimeError unless both weights can be taken and their slices compared."""
    check_weight(a)
    check_weight(b)
    if a.shape[1:] != b.shape[1:] or a.dtype != b.dtype or a.device != b.device:
        raise RuntimeError("a and b must have slices of one number and shape, one dtype and one device")


def check_pairs(pairs: Tensor) -> None:
    """Raises RuntimeError unless pairs are (P, 2) int64."""
    if pairs.dim() != 2 or pairs.shape[1] != 2 or pairs.dtype != torch.int64:
        raise RuntimeError("pairs must be an int64 tensor of shape (P, 2)")


def check_edges(edges: Tensor, weight: Tensor) -> None:
    """Raises RuntimeError unless edges are (E,) of the dtype of the weight's Psi."""
    if edges.dim() != 1 or edges.dtype != result_dtype(weight.dtype):
        raise RuntimeError("edges must be one-dimensional and of the dtype that Psi is returned in")


def check_gradient(grad: Tensor, shape: tuple[int, ...], weight: Tensor) -> None:
    """Raises RuntimeError unless the gradient has this shape and the dtype of the weight's Psi."""
    if tuple(grad.shape) != shape or grad.dtype != result_dtype(weight.dtype):
        raise RuntimeError(f"grad must have the shape {shape} and the dtype that Psi is returned in")
