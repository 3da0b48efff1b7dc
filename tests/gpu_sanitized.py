"""Every kernel of a GPU backend, on small problems, for compute-sanitizer: `python gpu_sanitized.py triton`."""

from __future__ import annotations

import sys

import torch

import ckrm_kernels
from ckrm_kernels import ops
from ckrm_kernels.functional import soft_redundancy_of_banks
from ckrm_kernels.similarity import Similarity

SHAPES = [(67, 19, 3, 3), (5, 3, 1), (6, 2, 7, 7), (9, 5, 3, 3)]
CASES = [(shape, {}) for shape in SHAPES] + [
    (SHAPES[3], {"eps": 0.0}),
    (SHAPES[0], {"signed": True}),
    *((shape, {"similarity": "cosine"}) for shape in SHAPES[:2]),
]


def main(backend: str) -> None:
    torch.manual_seed(0)
    for shape, of_case in CASES:
        w = (torch.randn(shape, device="cuda") * 0.1).requires_grad_()
        options = {**of_case, "backend": backend}
        pairs = torch.tensor([[0, 1], [2, 1], [shape[0] - 1, 0]], device="cuda")
        similarity = Similarity(
            of_case.get("similarity", "psi"), eps=of_case.get("eps", 1e-4), signed="signed" in of_case
        )
        losses = (
            ckrm_kernels.pairwise_psi(w, **options),
            ckrm_kernels.cross_psi(w, w[:3], **options),
            ckrm_kernels.psi_of_pairs(w, pairs, **options),
            torch.stack(soft_redundancy_of_banks([w, w[:3], *[w[:2]] * 20], 0.3, 0.1, similarity, backend)),
        )
        for loss in losses:
            assert torch.autograd.grad(loss.sum(), w)[0].isfinite().all()
        assert 0 <= ckrm_kernels.redundancy(w, **options) <= 1
        counts = getattr(ops, backend).psi_counts(
            [w.detach(), w.detach()[:3]], torch.tensor([0.3], device="cuda"), similarity
        )
        assert counts.sum(1).tolist() == [shape[0] * (shape[0] - 1) // 2, 3]
    torch.cuda.synchronize()
    print(f"{backend}: {len(CASES)} cases")


if __name__ == "__main__":
    main(sys.argv[1])
