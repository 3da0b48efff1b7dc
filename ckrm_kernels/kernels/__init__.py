"""Triton kernels and the operators on them. Importing this imports Triton."""

from __future__ import annotations

import re

import torch
import triton

from ckrm_kernels import ops
from ckrm_kernels.kernels import operators
from ckrm_kernels.kernels.elementary import INTERPRETED
from ckrm_kernels.similarity import Similarity

__all__ = ["INTERPRETED", "failure"]

_OLDEST_TRITON = (3, 4)
# Before, it left out barriers around what the fifth generation of tensor cores computes: wrong values now and then
# (triton-lang/triton issue 9871, pull requests 9610 and 9615).
_OLDEST_TRITON_WITH_TENSOR_MEMORY = (3, 8)
_WITH_TENSOR_MEMORY = (10, 11)  # major capabilities
_OLDEST_CAPABILITY = (8, 0)  # tensor cores that read tf32

for _name in filter(operators.__dict__.__contains__, ops.SCHEMAS):  # ops.py makes the rest of these
    for _key in ("CUDA", "CPU") if INTERPRETED else ("CUDA",):
        torch.library.impl(f"ckrm_triton::{_name}", _key, getattr(operators, _name))


def failure(device: torch.device) -> str:
    """Why the kernels can't run on the device; empty if they can. Compiles and runs the smallest problem there."""
    version = tuple(int(number) for number in re.findall(r"\d+", triton.__version__)[:2])
    if version < _OLDEST_TRITON:
        return f"Triton {triton.__version__} is too old: 3.4 or newer is needed"
    if INTERPRETED:
        return "" if device.type == "cpu" else "TRITON_INTERPRET=1 is set, which computes on the CPU"
    if device.type != "cuda":
        return "it needs a tensor on a GPU"
    if torch.version.hip:
        return "the kernels are written for NVIDIA's GPUs"
    capability = torch.cuda.get_device_capability(device)
    if capability < _OLDEST_CAPABILITY:
        return f"{torch.cuda.get_device_name(device)} is older than the Ampere generation"
    if capability[0] in _WITH_TENSOR_MEMORY and version < _OLDEST_TRITON_WITH_TENSOR_MEMORY:
        name = torch.cuda.get_device_name(device)
        return f"Triton {triton.__version__} compiles races for {name}: 3.8 or newer is needed there"
    try:
        probe = torch.tensor([1.0, 2.0, 3.0, 5.0, 4.0, 1.0], device=device).view(2, 1, 3)
        psi = operators.pairwise_psi(probe, *Similarity().arguments).item()
    except Exception as error:  # whatever a compiler or a driver breaks with
        return f"Triton {triton.__version__} does not compile or run them ({type(error).__name__}: {error})"
    return "" if 0 <= psi <= 1 else f"Triton {triton.__version__} computes wrong values with them"
