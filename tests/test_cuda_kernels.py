"""The CUDA C++ operators' values and gradients: on a GPU, and with none, compiled for the processor by cuda_on_host.h.

There they are the same kernels and operators, block for block and thread for thread; the instructions that approximate
1 / x, log2 and exp2 are as wrong as they may be.
"""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from compare import (
    DTYPES,
    all_results,
    check_all,
    check_counts,
    check_counts_of_banks,
    check_cross,
    check_pairs,
    check_pairwise,
    check_soft,
    degenerate_slices,
    mixed_banks,
    poisoned,
    some_pairs,
    strided,
    weight,
)
from definition import Psi
from exhaustive import also
from extension import load_extension
from small_tree import needs_compiler
from torch.utils._pytree import tree_map_only

from ckrm_kernels import native
from ckrm_kernels import ops as operators
from ckrm_kernels.build_config import TORCH_TARGET_VERSION
from ckrm_kernels.ops import result_dtype
from ckrm_kernels.similarity import Similarity

TESTS = Path(__file__).parent
DEFAULT = Psi()
EXPONENTS = [(0.1, 1, 1), (0, 1, 1), (1, 1, 1), (2.5, 1, 1), (0.1, 0, 0), (0, 0, 0), (1, 0.5, 2), (2.5, 2.5, 2.5)]
SIMILARITIES = {
    "signed psi": Psi(signed=True),
    "signed psi, any exponents": Psi(0.5, 2.0, 1.5, signed=True),
    "cosine": Similarity("cosine"),
    "signed cosine": Similarity("cosine", signed=True),
}

DEVICES = [pytest.param("cpu", marks=needs_compiler)] + ["cuda"] * torch.cuda.is_available()


@pytest.fixture(params=DEVICES)
def device(request):
    """Where torch.ops.ckrm_cuda.* computes."""
    if request.param == "cpu":
        request.getfixturevalue("cuda_on_host")
    else:
        assert native.load_cuda(), native.cuda_failure()
    return torch.device(request.param)


@pytest.fixture
def ops(device):
    """The operators, for tensors on the CPU."""
    return torch.ops.ckrm_cuda if device.type == "cpu" else OnGpu()


class OnGpu:
    """torch.ops.ckrm_cuda.* on a GPU, from and to the CPU."""

    def __getattr__(self, name):
        def call(*arguments):
            results = getattr(torch.ops.ckrm_cuda, name)(*tree_map_only(torch.Tensor, to_gpu, arguments))
            return tree_map_only(torch.Tensor, torch.Tensor.cpu, results)

        return call


def to_gpu(tensor: torch.Tensor) -> torch.Tensor:
    """With the memory around it, so that its strides and its alignment stay as they are."""
    memory = torch.empty(0, dtype=tensor.dtype).set_(tensor.detach().untyped_storage())
    return memory.cuda().as_strided(tensor.size(), tensor.stride(), tensor.storage_offset())


@pytest.fixture(scope="session")
def cuda_on_host():
    """torch.ops.ckrm_cuda.* on CPU tensors."""
    load_extension(
        "ckrm_cuda_on_host",
        sources=[str(TESTS / "cpp" / "cuda_on_host.cpp")],
        extra_include_paths=[str(TESTS.parent / "csrc"), str(TESTS / "cpp")],
        # fibers jump between stacks, which a fortified longjmp takes for an error
        extra_cflags=[
            "-O2",
            "-U_FORTIFY_SOURCE",
            "-Wno-unknown-pragmas",
            f"-DTORCH_TARGET_VERSION={TORCH_TARGET_VERSION}",
        ],
        is_python_module=False,
    )


# ---- shapes ----------------------------------------------------------------------------------------------------------

# None a multiple of a tile or of a block's slices; more coordinates than a stage, or than a block's gradients, hold.
SHAPES = [
    (2, 1, 3),
    (3, 2),
    (3, 8, 1),
    (5, 33, 1, 1),
    (65, 3, 1),
    (17, 9, 3),
    (65, 8, 2, 2),
    (17, 8, 3, 3),
    (33, 33, 3, 3),
    (33, 2, 5, 5),
    (17, 3, 7, 7),
    (5, 9, 3, 3, 3),
    (5, 2, 45),
    (4, 1, 300),
    (7, 70, 3, 3),
]


@pytest.mark.parametrize("dtype", [*DTYPES[:2], *also(*DTYPES[2:])])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shapes(ops, shape, dtype):
    check_all(weight(shape, dtype), DEFAULT, ops=ops)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(199, 3, 3, 3), (257, 2, 3), (130, 1, 1)], ids=str)
def test_wide_shapes(ops, shape, dtype):
    check_pairwise(weight(shape, dtype), DEFAULT, ops=ops)
    check_counts(weight(shape, dtype), torch.tensor([0.2, 0.6], dtype=dtype), DEFAULT, ops=ops)


@pytest.mark.parametrize(("left", "right"), [(1, 1), (1, 130), (130, 1), (2, 67), (67, 33), (64, 128)])
def test_cross_shapes(ops, left, right):
    check_cross(weight((left, 3, 3, 3)), weight((right, 3, 3, 3), seed=1), DEFAULT, ops=ops)


@pytest.mark.parametrize("slices", [8, 9, 64, 100, 257])
def test_slices_split_between_blocks(ops, slices):
    """Narrow layers: 8 slices and more a block, partial sums added by a second kernel."""
    w = weight((9, slices, 3, 3))
    check_pairwise(w, DEFAULT, ops=ops)
    check_counts(w, torch.linspace(0, 1, 400), DEFAULT, ops=ops)


@pytest.mark.parametrize("dtype", [DTYPES[0], *also(*DTYPES[1:])])
def test_counts_of_many_banks(ops, dtype):
    edges = torch.tensor([0.1, 0.3, 0.6], dtype=result_dtype(dtype))
    check_counts_of_banks(mixed_banks(dtype), edges, DEFAULT, ops)
    check_counts_of_banks(mixed_banks(dtype)[::-1], torch.stack([edges, edges], 1)[:, 0], Psi(eps=0.0), ops)
    assert ops.psi_counts([], edges, *DEFAULT.arguments).shape == (0, 5)


@pytest.mark.parametrize("similarity", [DEFAULT, *also(Psi(eps=0.0)), *SIMILARITIES.values()], ids=str)
@pytest.mark.parametrize("dtype", [DTYPES[0], *also(*DTYPES[1:])])
def test_soft_shares_of_many_banks(ops, dtype, similarity):
    shapes = [(7, 3, 7, 7), (70, 3, 3, 3), (0, 2, 3), (5, 2, 1), (1, 4, 3, 3), (6, 70), (4, 3, 2, 2, 2)]
    banks = [weight(shape, dtype, seed=index) for index, shape in enumerate(shapes)]
    thresholds = torch.linspace(0.2, 0.7, 2 * len(banks), dtype=result_dtype(dtype))[::2]
    check_soft([bank.transpose(0, 1).contiguous().transpose(0, 1) for bank in banks], thresholds, 0.1, similarity, ops)
    values, gradients = ops.soft_redundancy([], thresholds[:0], 0.1, True, *similarity.arguments)
    assert values.shape == (0,)
    assert list(gradients) == []


@pytest.mark.parametrize("dtype", [DTYPES[0], *also(*DTYPES[1:])])
def test_many_banks_at_once_are_bit_for_bit_as_each_alone(ops, dtype):
    """More of a kind than one part of a table holds, and of 0 to 7 filters."""
    tails = [(3, 3, 3), (9, 3, 3), (1, 3, 3), (2, 3, 3), (5, 1), (1, 7, 7), (3, 2)]
    banks = [weight((index % 8, *tails[index % 7]), dtype, seed=index) for index in range(34)]
    thresholds = torch.linspace(0.2, 0.7, len(banks), dtype=result_dtype(dtype))

    def results(banks, thresholds):
        values, gradients = ops.soft_redundancy(banks, thresholds, 0.1, True, *DEFAULT.arguments)
        return values, gradients, ops.psi_counts(banks, edges, *DEFAULT.arguments)

    edges = torch.tensor([0.1, 0.3, 0.6], dtype=result_dtype(dtype))
    with poisoned():
        together = results(banks, thresholds)
    for index, bank in enumerate(banks):
        alone = results([bank], thresholds[index, None])
        for of_all, of_one in zip(together, alone, strict=True):
            torch.testing.assert_close(of_all[index], of_one[0], rtol=0, atol=0, equal_nan=True)


def test_all_banks_of_a_kind_go_in_one_launch(cuda_on_host):
    """Of each kernel; and a table for each launch that differs from the one before in what it works on."""

    def launches(banks, with_gradient):
        before = torch.ops.ckrm_cuda_on_host.launches()
        thresholds = torch.full((len(banks),), 0.3)
        torch.ops.ckrm_cuda.soft_redundancy(banks, thresholds, 0.1, with_gradient, *DEFAULT.arguments)
        return torch.ops.ckrm_cuda_on_host.launches() - before

    kinds = [weight((3, 9, 3, 3)), weight((3, 9, 1)), weight((3, 9, 5, 5))]
    for with_gradient, kernels, tables in ((False, 5, 3), (True, 8, 5)):
        assert [launches([w], with_gradient) for w in kinds] == [kernels] * 3
        assert launches([w for w in kinds for _ in range(3)], with_gradient) == 3 * (kernels + tables)


@pytest.mark.exhaustive
def test_more_banks_than_one_launch_takes(ops):
    two, edges = [weight((1024, 1, 1)), weight((1024, 1, 1), seed=1) - 0.1], torch.tensor([0.5])
    cosine = Similarity("cosine", signed=True)
    few, many = (ops.psi_counts(two * times, edges, *cosine.arguments) for times in (1, 33))  # of 2^26 pairs and more
    assert torch.equal(many, few.repeat(33, 1))
    assert few[0].tolist() != few[1].tolist()


def test_a_bank_that_is_not_finite_spoils_its_own_soft_share_alone(ops):
    banks = [weight((4, 2, 3)), weight((5, 2, 3)), weight((3, 1, 3))]
    banks[1][2, 0, 0] = math.nan
    values, gradients = ops.soft_redundancy(banks, torch.full((3,), 0.3), 0.1, True, *DEFAULT.arguments)
    assert values.isnan().tolist() == [False, True, False]
    assert [of_bank.isnan().all().item() for of_bank in gradients] == [False, True, False]


@pytest.mark.exhaustive
def test_many_slices_in_one_block_keep_their_digits(ops):
    w = torch.rand(257, 1200, 1, generator=torch.Generator().manual_seed(0)) + 0.5
    actual, exact = ops.pairwise_psi(w, *DEFAULT.arguments), ops.pairwise_psi(w.double(), *DEFAULT.arguments)
    torch.testing.assert_close(actual.double(), exact, rtol=0, atol=2e-6)


@pytest.mark.parametrize("count", [1, 2, 7, 8, 9, 65, 1001])
def test_numbers_of_pairs(ops, count):
    check_pairs(weight((33, 9, 3, 3)), some_pairs(33, count), DEFAULT, ops=ops)
    check_pairs(weight((33, 9, 3, 3)), torch.tensor([[7, 3]]).expand(count, 2), DEFAULT, ops=ops)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("filters", [0, 1])
@pytest.mark.parametrize("tail", [(3, 3, 3), (3,)], ids=str)
def test_few_filters(ops, filters, tail, dtype):
    w, some = torch.randn(filters, *tail).to(dtype), torch.randn(4, *tail).to(dtype)
    none = torch.zeros(0, 2, dtype=torch.int64)
    check_pairwise(w, DEFAULT, ops=ops)
    check_cross(w, some, DEFAULT, ops=ops)
    check_cross(some, w, DEFAULT, ops=ops)
    check_pairs(w, none, DEFAULT, ops=ops)
    check_counts(w, torch.tensor([0.5], dtype=result_dtype(dtype)), DEFAULT, ops=ops)


# ---- similarities ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, *also(torch.float16, torch.bfloat16)])
@pytest.mark.parametrize("name", SIMILARITIES)
def test_similarities(ops, name, dtype):
    for shape in ((17, 9, 3, 3), (6, 3, 1), (5, 9, 2), (5, 2, 45)):
        check_all(weight(shape, dtype), SIMILARITIES[name], ops=ops)
    check_all(degenerate_slices(dtype), SIMILARITIES[name], ops=ops)


@pytest.mark.parametrize("alpha", [0.0, 1.0, *also(2.5)])
def test_signs_with_other_exponents(ops, alpha):
    for dtype in (torch.float32, torch.float64):
        check_all(weight((9, 3, 3, 3), dtype), Psi(alpha, signed=True), ops=ops)


def test_a_filter_and_its_negative(ops):
    w = weight((2, 5, 3, 3))
    w[1] = -w[0]
    for psi, least in ((Psi(0.0, eps=1e-12), 1), (Psi(0.0, eps=1e-12, signed=True), -1), (Similarity("cosine"), 1)):
        torch.testing.assert_close(ops.pairwise_psi(w, *psi.arguments), torch.tensor([float(least)]))


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_scales_of_the_cosine(ops, scale):
    w = weight((9, 3, 3, 3), scale=scale)
    w[5] /= scale  # beside filters of another scale
    check_all(w, Similarity("cosine", signed=True), ops=ops)


def test_slices_out_of_the_range_of_the_cosine(ops):
    """In float32 nothing waits to see whether float64 is needed."""
    w, cosine = torch.randn(4, 2, 3, 3).abs() + 0.1, Similarity("cosine")
    w[1] *= 1e-21
    w[3] *= 1e21
    psi = ops.pairwise_psi(w, *cosine.arguments)
    assert psi.isnan().tolist() == [False, False, True, False, True, True]
    assert psi[[0, 3]].eq(0).all()
    assert ops.pairwise_psi_backward(psi.isfinite().float(), w, *cosine.arguments)[1].isnan().all()
    assert ops.pairwise_psi_backward(torch.ones(3), w[:3], *cosine.arguments)[1].eq(0).all()
    check_all(w.double(), cosine, ops=ops)


# ---- exponents, eps and scales ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("eps", [0.0, 1e-4, *also(1e-12, 1e-2)])
@pytest.mark.parametrize("exponents", EXPONENTS, ids=str)
def test_exponents_and_eps(ops, exponents, eps, dtype):
    psi = Psi(*(float(p) for p in exponents), eps)
    check_all(weight((9, 3, 3, 3), dtype), psi, ops=ops)
    check_all(weight((5, 9, 1), dtype, seed=1), psi, ops=ops)
    check_all(weight((6, 2, 2), dtype, seed=2), psi, ops=ops)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("eps", [0.0, 1e-12, 1e-4])
@pytest.mark.parametrize("scale", [1e-6, 1e4, *also(1e-3, 1.0)])
def test_scales(ops, scale, eps, dtype):
    check_all(weight((9, 5, 3, 3), dtype, scale), Psi(eps=eps), ops=ops)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("offset", [1.0, 1e3, -1e4])
def test_slices_far_from_zero(ops, offset, dtype):
    """Deviations that are small beside the mean: centring must not lose them."""
    w = (torch.randn(9, 3, 3, 3, dtype=torch.float64) + offset).to(dtype)
    for psi in (DEFAULT, Psi(eps=0.0)):
        check_all(w, psi, ops=ops)


@pytest.mark.parametrize("eps", [1e-300, 6e-20, 1e30, *also(1e-45, 1e-30, 1e-20, 1e10, 1e150)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_eps(ops, eps, dtype):
    check_all(weight((9, 5, 3, 3), dtype), Psi(eps=eps), ops=ops)


@pytest.mark.parametrize("exponent", [1e-6, 0.999999, 1.000001, 20.0])
def test_extreme_exponents(ops, exponent):
    check_all(weight((9, 5, 3, 3)), Psi(exponent, exponent, exponent), ops=ops)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("eps", [0.0, 1e-4])
def test_degenerate_slices(ops, eps, dtype):
    w = degenerate_slices(dtype)
    for exponents in EXPONENTS:
        check_all(w, Psi(*(float(p) for p in exponents), eps), ops=ops)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [1 / 3, 0.1, 7e-7, 1e4])
@pytest.mark.parametrize("eps", [0.0, 1e-12])
def test_a_constant_slice_has_no_contrast_whatever_its_value(ops, value, eps, dtype):
    w = torch.full((6, 3, 7, 7), value, dtype=dtype) * torch.arange(1, 7, dtype=dtype).view(-1, 1, 1, 1)
    psi, grad = Psi(0.0, 1.0, 1.0, eps), torch.ones(15, dtype=result_dtype(dtype))
    assert ops.pairwise_psi(w, *psi.arguments).sub(1).abs().max() < 1e-6
    assert ops.pairwise_psi_backward(grad, w, *psi.arguments).eq(0).all()


# ---- filters that are not finite, and pairs that are none -----------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(20, 3, 3, 3), (20, 33, 1), (5, 9, 2)], ids=str)
def test_filters_that_are_not_finite_make_exactly_their_pairs_nan(ops, shape, dtype, bad):
    i, j = torch.triu_indices(shape[0], shape[0], 1)
    for psi in (DEFAULT, Psi(eps=0.0), Psi(0.0, 0.0, 0.0), Psi(0.5, 2.0, 0.5), Similarity("cosine", signed=True)):
        w = weight(shape, dtype)
        w[3].flatten()[-1] = bad
        w[4].flatten()[0] = bad
        nan = torch.zeros(shape[0], dtype=torch.bool)
        nan[3:5] = True
        with poisoned():
            packed = ops.pairwise_psi(w, *psi.arguments)
            assert torch.equal(packed.isnan(), nan[i] | nan[j])
            assert torch.equal(ops.cross_psi(w, w[2:4], *psi.arguments).isnan(), nan[:, None] | nan[2:4])
            assert torch.equal(ops.psi_of_pairs(w, torch.stack([i, j], 1), *psi.arguments).isnan(), nan[i] | nan[j])
            assert ops.psi_counts([w], packed.new_tensor([0.5]), *psi.arguments)[0, -1] == (nan[i] | nan[j]).sum()
        finite = ~(nan[i] | nan[j])
        assert torch.equal(packed[finite], ops.pairwise_psi(torch.where(w.isfinite(), w, 0), *psi.arguments)[finite])
        pairs = torch.stack([i, j], 1)[finite]  # a list that avoids them has a finite gradient
        assert (
            ops.psi_of_pairs_backward(torch.ones(len(pairs), dtype=packed.dtype), w, pairs, *psi.arguments)
            .isfinite()
            .all()
        )
        assert ops.pairwise_psi_backward(torch.ones_like(packed), w, *psi.arguments).isnan().all()


def test_filters_out_of_the_range_of_float32_are_nan(ops):
    """The limit grows with the root of eps: here it is 7e5."""
    w = weight((4, 2, 3, 3))
    w[2] *= 1e8
    assert ops.pairwise_psi(w, *Psi(eps=1e-12).arguments).isnan().tolist() == [False, True, False, True, False, True]
    assert ops.pairwise_psi(w.double(), *Psi(eps=1e-12).arguments).isfinite().all()


def test_pairs_out_of_range_are_nan(ops):
    w = weight((5, 3, 3, 3))
    pairs = torch.tensor([[0, 1], [-1, 2], [3, 5], [2**40, 0], [3, 4]])
    assert ops.psi_of_pairs(w, pairs, *DEFAULT.arguments).isnan().tolist() == [False, True, True, True, False]
    assert ops.psi_of_pairs(w[:0], pairs, *DEFAULT.arguments).isnan().all()
    of_weight = ops.psi_of_pairs_backward(torch.ones(5), w, pairs, *DEFAULT.arguments)
    assert of_weight.isnan().flatten(1).any(1).tolist() == [True, False, True, True, False]


# ---- strides ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_strides_do_not_change_a_bit(ops, dtype):
    w = weight((19, 5, 3, 3), dtype)
    pairs, edges = some_pairs(19, 70), torch.tensor([0.3, 0.6], dtype=result_dtype(dtype))
    grads = [torch.randn(n, dtype=result_dtype(dtype)) for n in ((171,), (19, 19), (70,))]

    def results(w, pairs, grads):
        return all_results(w, pairs, edges, grads, DEFAULT, ops)

    expected = results(w, pairs, grads)
    wide = [torch.stack([g, torch.full_like(g, math.nan)], -1)[..., 0] for g in grads]
    turned = [grads[0], grads[1].T.contiguous().T, grads[2]]
    for name, other in strided(w).items():
        for actual, exact in zip(results(other, pairs, grads), expected, strict=True):
            assert torch.equal(actual, exact), name
    for other_pairs, other_grads in ((pairs.T.contiguous().T, wide), (pairs, turned)):
        for actual, exact in zip(results(w, other_pairs, other_grads), expected, strict=True):
            assert torch.equal(actual, exact)


@pytest.mark.parametrize("kernel", [(2, 3, 2), (2, 3, 2, 2), (1, 2, 1, 3, 2)], ids=str)
def test_positions_in_any_order(ops, kernel):
    """Three dimensions of strides are passed to a kernel; more are copied."""
    w = weight((6, 3, *kernel))
    reversed_memory = w.permute(*range(w.dim() - 1, -1, -1)).contiguous().permute(*range(w.dim() - 1, -1, -1))
    assert torch.equal(ops.pairwise_psi(reversed_memory, *DEFAULT.arguments), ops.pairwise_psi(w, *DEFAULT.arguments))


def test_expanded_gradients_and_weights(ops):
    w = weight((9, 5, 3, 3))
    check_pairwise(w, DEFAULT, torch.ones(()).expand(36), ops=ops)
    check_cross(w, w[:4], DEFAULT, torch.ones(9, 1).expand(9, 4), ops=ops)
    check_pairs(w, some_pairs(9, 20), DEFAULT, torch.ones(()).expand(20), ops=ops)
    for expanded in (w[:, :1].expand(9, 4, 3, 3), w[:1].expand(7, 5, 3, 3), w[:, :, :1].expand(9, 5, 3, 3)):
        check_all(expanded, DEFAULT, ops=ops)


def test_offsets_beyond_32_bits(ops):
    """Filters 2^30 elements apart, in memory that is reserved but never touched in between."""
    memory = torch.empty(4 * 2**30, dtype=torch.float16)
    w, values = memory.as_strided((4, 2, 3), (2**30, 7, 2)), torch.randn(4, 2, 3).half()
    w.copy_(values)
    assert torch.equal(ops.pairwise_psi(w, *DEFAULT.arguments), ops.pairwise_psi(values, *DEFAULT.arguments))


# ---- as operators ----------------------------------------------------------------------------------------------------


def test_the_same_bits_every_time(ops):
    w, pairs = weight((70, 40, 3, 3)), some_pairs(70, 300)
    grads = torch.randn(2415), torch.randn(300)
    runs = [
        (
            ops.pairwise_psi(w, *DEFAULT.arguments),
            ops.pairwise_psi_backward(grads[0], w, *DEFAULT.arguments),
            ops.psi_of_pairs_backward(grads[1], w, pairs, *DEFAULT.arguments),
            ops.soft_redundancy([w], torch.tensor([0.3]), 0.1, True, *DEFAULT.arguments)[0],
        )
        for _ in range(2)
    ]
    assert all(torch.equal(first, second) for first, second in zip(*runs, strict=True))


@pytest.mark.parametrize("name", ["pairwise_psi", "cross_psi", "psi_of_pairs", "psi_counts", "soft_redundancy"])
def test_opcheck(device, name):
    w = weight((5, 3, 3, 3)).to(device).requires_grad_(name != "psi_counts")
    inputs = {
        "pairwise_psi": (w,),
        "cross_psi": (w, weight((3, 3, 3, 3)).to(device).requires_grad_()),
        "psi_of_pairs": (w, some_pairs(5, 7).to(device)),
        "psi_counts": ([w, w[:, :1], w[:1]], torch.tensor([0.5], device=device)),
        "soft_redundancy": ([w, w.detach()[:, :1]], torch.tensor([0.5, 0.3], device=device), 0.1, True),
    }
    torch.library.opcheck(getattr(torch.ops.ckrm_cuda, name), (*inputs[name], *DEFAULT.arguments))


def test_counts_of_many_banks_compile_as_one_graph(device):
    torch._dynamo.reset()
    banks = [bank.to(device) for bank in mixed_banks(torch.float32)]
    edges = torch.tensor([0.2, 0.6], device=device)
    counts = torch.ops.ckrm_cuda.psi_counts
    compiled = torch.compile(lambda *arguments: counts(*arguments) + 1, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(banks, edges, *DEFAULT.arguments), counts(banks, edges, *DEFAULT.arguments) + 1)


@pytest.mark.exhaustive
def test_gradients_in_float64(device):
    w, pairs = weight((5, 2, 3, 3), torch.float64).to(device).requires_grad_(), some_pairs(5, 9).to(device)
    for psi in (
        Similarity("psi", 1.0, 1.0, 2.0, 1e-2),
        Similarity("psi", 0.1, eps=1e-2, signed=True),
        Similarity("cosine"),
    ):
        assert torch.autograd.gradcheck(lambda w, psi=psi: operators.cuda.pairwise_psi(w, psi), w)
        others = w.detach()[:3] + 0.1
        assert torch.autograd.gradcheck(lambda a, b, psi=psi: operators.cuda.cross_psi(a, b, psi), (w, others))
        assert torch.autograd.gradcheck(lambda w, psi=psi: operators.cuda.psi_of_pairs(w, pairs, psi), w)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda ops, w: ops.pairwise_psi(w[:, 0, 0, 0], *DEFAULT.arguments), "must have the shape"),
        (lambda ops, w: ops.pairwise_psi(w.int(), *DEFAULT.arguments), "weight must be float32"),
        (lambda ops, w: ops.pairwise_psi(w[:, :0], *DEFAULT.arguments), "without slices"),
        (lambda ops, w: ops.cross_psi(w, w[:, :1], *DEFAULT.arguments), "one number and shape"),
        (lambda ops, w: ops.cross_psi(w, w.double(), *DEFAULT.arguments), "one dtype"),
        (lambda ops, w: ops.psi_of_pairs(w, torch.zeros(3, 2), *DEFAULT.arguments), "pairs must be an int64 tensor"),
        (lambda ops, w: ops.psi_counts([w], torch.zeros(3, dtype=torch.float64), *DEFAULT.arguments), "edges must be"),
        (lambda ops, w: ops.psi_counts([w, w.half()], torch.zeros(3), *DEFAULT.arguments), "banks must have one dtype"),
        (
            lambda ops, w: ops.soft_redundancy([w], torch.zeros(2), 0.1, True, *DEFAULT.arguments),
            "thresholds must be of",
        ),
        (lambda ops, w: ops.soft_redundancy([w], torch.zeros(1), 0.0, True, *DEFAULT.arguments), "temperature must be"),
        (
            lambda ops, w: ops.soft_redundancy([w], torch.zeros(1).double(), 1, True, *DEFAULT.arguments),
            "thresholds must",
        ),
        (lambda ops, w: ops.pairwise_psi_backward(torch.ones(5), w, *DEFAULT.arguments), "grad must have the shape"),
    ],
)
def test_errors(ops, call, message):
    with pytest.raises(RuntimeError, match=message):
        call(ops, weight((4, 2, 3, 3)))
