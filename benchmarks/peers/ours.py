"""This package."""

from __future__ import annotations

import torch
from torch import Tensor

import ckrm_kernels
from peers.base import THRESHOLD, Call, Peer, weights_of_pairs


class Ours(Peer):
    """The compiled CPU kernels behind the public functions; an error where they are not there."""

    name, package = "ckrm_kernels", "ckrm_kernels"

    def pairwise(self, weight: Tensor) -> dict[str, Call]:
        return {"packed": lambda: ckrm_kernels.pairwise_psi(weight, backend="cpu")}

    def gradient(self, weight: Tensor) -> dict[str, Call]:
        weight = weight.clone().requires_grad_()
        weights = weights_of_pairs(weight.shape[0])

        def forward_backward() -> Tensor:
            omega = ckrm_kernels.pairwise_psi(weight, backend="cpu")
            return torch.autograd.grad(omega, weight, weights)[0]

        return {"packed": forward_backward}

    def redundancy(self, weight: Tensor) -> dict[str, Call]:
        return {"counts": lambda: ckrm_kernels.redundancy(weight, THRESHOLD, backend="cpu")}

    def cross(self, a: Tensor, b: Tensor) -> dict[str, Call]:
        return {"cross": lambda: ckrm_kernels.cross_psi(a, b, backend="cpu")}

    def listed(self, weight: Tensor, pairs: Tensor) -> dict[str, Call]:
        return {"pairs": lambda: ckrm_kernels.psi_of_pairs(weight, pairs, backend="cpu")}
