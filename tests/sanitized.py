"""Every operator of a library built with sanitizers, over awkward shapes: `make sanitize` runs it, pytest does not.

LD_PRELOAD="$(c++ -print-file-name=libasan.so) ..." python tests/sanitized.py build/sanitize/libckrm_cpu.so
"""

from __future__ import annotations

import itertools
import sys

import torch
from torch import Tensor

from ckrm_kernels import reference
from ckrm_kernels.ops import by_device as ops
from ckrm_kernels.similarity import Similarity

SHAPES = [(0, 3, 3, 3), (1, 2, 3), (2, 1, 1), (3, 5, 2, 2), (17, 3, 3, 3), (33, 9, 7, 7), (65, 2, 5), (9, 31, 2, 2, 2)]
SIMILARITIES = [
    Similarity(),
    Similarity("psi", 0.0, 2.0, 0.5, 0.0),
    Similarity("psi", 1.0, eps=1e-12, signed=True),
    Similarity("cosine"),
    Similarity("cosine", signed=True),
]
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


def layouts(weight: Tensor) -> list[Tensor]:
    """The weight as it is, transposed in memory, as every other number of a larger tensor, and off its alignment."""
    spread = torch.stack([weight, weight], -1)[..., 0]
    moved = torch.cat([weight.new_zeros(1), weight.flatten()])[1:].view(weight.shape)
    return [weight, weight.transpose(0, 1).contiguous().transpose(0, 1), spread, moved]


def check(weight: Tensor, similarity: Similarity) -> None:
    """Values roughly, since |L|^0.1 is steep at 0; tests of exactness are elsewhere, here every byte is watched."""
    filters = weight.shape[0]
    pairs = torch.combinations(torch.arange(filters), 2).flip(1)
    omega, expected = ops.pairwise_psi(weight, similarity), reference.pairwise_psi(weight, similarity)
    torch.testing.assert_close(omega, expected, atol=2e-2, rtol=0, equal_nan=True)
    listed = ops.psi_of_pairs(weight, pairs, similarity)
    torch.testing.assert_close(listed, omega, atol=2e-2, rtol=0, equal_nan=True)
    square = ops.cross_psi(weight, weight[: filters // 2 + 1], similarity)
    assert square.shape == (filters, min(filters, filters // 2 + 1))
    for edges in (0, 1, 50):
        inner = torch.linspace(0, 1, edges, dtype=omega.dtype)
        counts = ops.psi_counts([weight, weight[:1], weight], inner, similarity)
        assert counts.sum(1).tolist() == [omega.numel(), 0, omega.numel()]
        assert ops.cross_psi_counts(weight, weight[:3], inner, similarity).sum() == len(weight) * len(weight[:3])
    leaf = weight.clone().requires_grad_()
    for result in (
        ops.pairwise_psi(leaf, similarity),
        ops.psi_of_pairs(leaf, pairs, similarity),
        ops.cross_psi(leaf, leaf[:2], similarity),
        ops.soft_redundancy([leaf, leaf[:1], leaf], omega.new_full((3,), 0.5), 0.1, similarity),
    ):
        assert torch.autograd.grad(result.sum(), leaf)[0].shape == weight.shape


def main(library: str) -> None:
    """Runs all; the sanitizers end the process at the first fault."""
    torch.ops.load_library(library)
    torch.manual_seed(0)
    cases = 0
    for shape, dtype, similarity, threads in itertools.product(SHAPES, DTYPES, SIMILARITIES, (1, 3)):
        torch.set_num_threads(threads)
        for weight in layouts((torch.randn(shape) * 0.05).to(dtype)):
            check(weight, similarity)
            cases += 1
    bad = torch.randn(40, 3, 3, 3)
    bad[7, 1, 0, 0], bad[20] = torch.nan, torch.inf
    check(bad, SIMILARITIES[0])
    for wide in (torch.randn(700, 1, 3, 3), torch.randn(300, 20, 3, 3)):  # more than one block, and every thread
        check(wide * 0.05, SIMILARITIES[0])
    print(f"{cases + 3} cases clean on {torch.ops.ckrm.cpu_capability()}")


if __name__ == "__main__":
    main(sys.argv[1])
