"""Every kernel of a GPU backend, on small problems, for compute-sanitizer: `python gpu_sanitized.py triton`."""

from __future__ import annotations

import sys

import torch

import ckrm_kernels

CASES = [((67, 19, 3, 3), 1e-4), ((5, 3, 1), 1e-4), ((6, 2, 7, 7), 1e-4), ((9, 5, 3, 3), 0.0)]


def main(backend: str) -> None:
    torch.manual_seed(0)
    for shape, eps in CASES:
        w = (torch.randn(shape, device="cuda") * 0.1).requires_grad_()
        options = {"eps": eps, "backend": backend}
        pairs = torch.tensor([[0, 1], [2, 1], [shape[0] - 1, 0]], device="cuda")
        losses = (
            ckrm_kernels.pairwise_psi(w, **options),
            ckrm_kernels.cross_psi(w, w[:3], **options),
            ckrm_kernels.psi_of_pairs(w, pairs, **options),
        )
        for loss in losses:
            assert torch.autograd.grad(loss.sum(), w)[0].isfinite().all()
        assert 0 <= ckrm_kernels.redundancy(w, **options) <= 1
    torch.cuda.synchronize()
    print(f"{backend}: {len(CASES)} cases")


if __name__ == "__main__":
    main(sys.argv[1])
