"""The weight that a layer uses: as its forward pass computes it, or as a traced graph names it."""

from ckrm_kernels.used_weights.forward import (
    NoWeightError,
    UsedWeight,
    is_freed,
    is_plain,
    is_uninitialised,
    used_weight,
    with_adapters,
)
from ckrm_kernels.used_weights.graphs import Use, frozen_weights, fx_uses, torchscript_use

__all__ = [
    "NoWeightError",
    "Use",
    "UsedWeight",
    "frozen_weights",
    "fx_uses",
    "is_freed",
    "is_plain",
    "is_uninitialised",
    "torchscript_use",
    "used_weight",
    "with_adapters",
]
