"""The operators' values and gradients against the float64 reference: shapes, dtypes, exponents, eps and strides."""

from __future__ import annotations

import math

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
    degenerate_slices,
    mixed_banks,
    ops,
    poisoned,
    some_pairs,
    strided,
    weight,
)
from definition import Cosine, Psi, omega
from exhaustive import also
from tolerances import PSI, gradient_allowance, packed_to_square, psi_allowance

from ckrm_kernels.ops import result_dtype
from ckrm_kernels.similarity import Similarity

pytestmark = pytest.mark.usefixtures("cpu_kernels")

DEFAULT = Psi()

# Every F2, F1 and K of odd size at least once: none a multiple of any vector's lanes, so that every tail is met.
SHAPES = [
    (2, 1, 3),
    (3, 2),
    (3, 8, 1),
    (5, 33, 1, 1),
    (65, 3, 1),
    (2, 33, 3),
    (17, 9, 3),
    (3, 2, 2, 2),
    (65, 8, 2, 2),
    (5, 3, 3, 3),
    (17, 8, 3, 3),
    *also((33, 33, 3, 3)),
    (65, 1, 3, 3),
    (33, 2, 5, 5),
    (2, 9, 7, 7),
    (17, 3, 7, 7),
    (5, 9, 3, 3, 3),
    (17, 1, 3, 3, 3),
    (7, 70, 3, 3),
]
# Wide enough for every tile size, with ragged last tiles.
WIDE_SHAPES = [(199, 3, 3, 3), (389, 2, 3), (257, 1, 1)]
EXPONENTS = [(0.1, 1, 1), (0, 1, 1), (1, 1, 1), (2.5, 1, 1), (0.1, 0, 0), (0, 0, 0), (1, 0.5, 2), (2.5, 2.5, 2.5)]
DTYPES_AND_EPSILONS = [(torch.float32, eps) for eps in (0.0, 1e-12, 1e-4, 1e-2)] + [
    (torch.float64, eps) for eps in (0.0, 1e-4)
]


# ---- values and gradients --------------------------------------------------------------------------------------------


def test_poison_reaches_the_memory():
    with poisoned():
        assert torch.empty(8).isnan().all()
        assert torch.randn(2).new_empty(8).isnan().all()


@pytest.mark.parametrize("dtype", [*DTYPES[:2], *also(*DTYPES[2:])])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shapes(shape, dtype):
    check_all(weight(shape, dtype), DEFAULT)


@pytest.mark.parametrize("dtype", [torch.float32, *also(torch.float64)])
@pytest.mark.parametrize("shape", WIDE_SHAPES, ids=str)
def test_wide_shapes(shape, dtype):
    check_pairwise(weight(shape, dtype), DEFAULT)
    check_counts(weight(shape, dtype), torch.tensor([0.2, 0.6], dtype=dtype), DEFAULT)


@pytest.mark.parametrize(
    ("left", "right"),
    [(1, 1), (1, 300), (300, 1), (2, 67), (67, 33), (8, 16), pytest.param(130, 131, marks=pytest.mark.exhaustive)],
)
def test_cross_shapes(left, right):
    check_cross(weight((left, 3, 3, 3)), weight((right, 3, 3, 3), seed=1), DEFAULT)


@pytest.mark.parametrize("count", [1, 2, 63, 64, 65, 128, 1001])
def test_numbers_of_pairs(count):
    check_pairs(weight((33, 9, 3, 3)), some_pairs(33, count), DEFAULT)
    check_pairs(weight((33, 9, 3, 3)), torch.tensor([[7, 3]]).expand(count, 2), DEFAULT)  # one pair again and again


@pytest.mark.parametrize(("dtype", "eps"), DTYPES_AND_EPSILONS, ids=str)
@pytest.mark.parametrize("exponents", [*EXPONENTS[::2], *also(*EXPONENTS[1::2])], ids=str)
def test_exponents_and_eps(exponents, dtype, eps):
    psi = Psi(*(float(p) for p in exponents), eps)
    check_all(weight((9, 3, 3, 3), dtype), psi)
    check_all(weight((5, 9, 1), dtype, seed=1), psi)
    check_all(weight((6, 2, 2), dtype, seed=2), psi)


SIGNED = [Psi(*(float(p) for p in exponents), 1e-4, signed=True) for exponents in EXPONENTS]


@pytest.mark.parametrize("dtype", [torch.float32, *also(torch.float64)])
@pytest.mark.parametrize("psi", [*SIGNED, Psi(eps=0.0, signed=True)], ids=str)
def test_signed(psi, dtype):
    """Also counts, whose tiles may stop early: terms then go down to -1."""
    for index, shape in enumerate(((9, 3, 3, 3), (5, 9, 1), (6, 2, 2), (7, 2, 5, 5))):
        check_all(weight(shape, dtype, seed=index), psi)
    check_all(degenerate_slices(dtype), psi)
    w = weight((20, 200, 3), dtype)
    check_counts(torch.cat((w, -w)), torch.tensor([-0.9, -0.2, 0.3], dtype=dtype), psi)


@pytest.mark.parametrize("dtype", [*DTYPES[:2], *also(*DTYPES[2:])])
@pytest.mark.parametrize("signed", [False, True])
def test_cosine(signed, dtype):
    cosine = Similarity("cosine", signed=signed)
    for index, shape in enumerate(((9, 3, 3, 3), (5, 9, 1), (6, 2, 2), (7, 2, 5, 5), (33, 40, 3, 3))):
        check_all(weight(shape, dtype, seed=index), cosine)
    check_all(degenerate_slices(dtype), cosine)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(("dtype", "scale"), [(torch.float32, 1e-36), (torch.float32, 1e36), (torch.float64, 1e-140)])
def test_the_cosine_at_any_scale(scale, dtype, signed):
    w, cosine = weight((9, 3, 3, 3), dtype, scale), Similarity("cosine", signed=signed)
    torch.testing.assert_close(
        ops.pairwise_psi(w, *cosine.arguments).double(), omega(w, Cosine(signed)), rtol=0, atol=PSI[dtype]
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("eps", [0.0, 1e-12, 1e-4])
@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1.0, 1e4])
def test_scales(scale, eps, dtype):
    check_all(weight((9, 5, 3, 3), dtype, scale), Psi(eps=eps))


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1.0, 6e3])
def test_scales_of_float16(scale):
    check_all(weight((9, 5, 3, 3), torch.float16, scale), DEFAULT)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("offset", [1.0, 1e3, -1e4])
def test_slices_far_from_zero(offset, dtype):
    """Deviations that are small beside the mean: centring must not lose them."""
    w = (torch.randn(9, 3, 3, 3, dtype=torch.float64) + offset).to(dtype)
    for psi in (DEFAULT, Psi(eps=0.0)):
        check_all(w, psi)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("mean", [1e-3, 1e-5])
def test_means_that_nearly_cancel(mean, dtype):
    """A float32 sum of such slices would have few right digits; L = 2 mx my / (mx^2 + my^2) shows them all."""
    w = torch.randn(9, 3, 3, 3, dtype=torch.float64)
    w = w - w.mean((-1, -2), keepdim=True) + mean * torch.randn(9, 3, 1, 1, dtype=torch.float64)
    for alpha in (0.1, 1.0):
        check_all(w.to(dtype), Psi(alpha=alpha, eps=1e-12))


@pytest.mark.parametrize("eps", [1e-300, 1e-200, 1e-45, 1e-30, 1e-20, 1e10, 1e30, 1e150])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_eps(eps, dtype):
    check_all(weight((9, 5, 3, 3), dtype), Psi(eps=eps))


@pytest.mark.parametrize(
    ("eps", "scale"), [(2.0**-338, 1.0), (2.0**-339, 1.0), (2.0**-338, 1e50), (1e-4, 1e50), (1e-4, 1e52)]
)
def test_float64_where_the_shared_reciprocal_ends(eps, scale):
    psi, large = Psi(eps=eps), weight((5, 3, 3, 3), torch.float64, scale)
    check_all(large, psi)
    check_cross(large, weight((4, 3, 3, 3), torch.float64, seed=1), psi)


@pytest.mark.parametrize("eps", [5e-324, 1e-310])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_subnormal_eps(eps, dtype):
    """1 / eps is infinite: whether it then counts as 0 decides the gradient of dead slices, which stays finite."""
    w, pairs = weight((9, 5, 3, 3), dtype), some_pairs(9, 20)
    expected = ops.pairwise_psi(w, *Psi(eps=0.0).arguments)
    torch.testing.assert_close(ops.pairwise_psi(w, *Psi(eps=eps).arguments), expected, rtol=0, atol=1e-6)
    grads = torch.randn(36, dtype=dtype), torch.randn(9, 9, dtype=dtype), torch.randn(20, dtype=dtype)
    assert ops.pairwise_psi_backward(grads[0], w, *Psi(eps=eps).arguments).isfinite().all()
    assert all(of.isfinite().all() for of in ops.cross_psi_backward(grads[1], w, w, *Psi(eps=eps).arguments))
    assert ops.psi_of_pairs_backward(grads[2], w, pairs, *Psi(eps=eps).arguments).isfinite().all()


@pytest.mark.parametrize("exponent", [1e-6, 0.999999, 1.000001, 20.0])
def test_extreme_exponents(exponent):
    check_all(weight((9, 5, 3, 3)), Psi(exponent, exponent, exponent))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("eps", [0.0, 1e-4])
def test_degenerate_slices(eps, dtype):
    w = degenerate_slices(dtype)
    for exponents in EXPONENTS:
        check_all(w, Psi(*(float(p) for p in exponents), eps))
    check_all(torch.cat([w, w.flip(0), w.roll(1, 0)], 1), Psi(eps=eps))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [1 / 3, 0.1, 7e-7, 1e4])
def test_a_constant_slice_has_no_contrast_whatever_its_value(value, dtype):
    w = torch.full((6, 3, 7, 7), value, dtype=dtype) * torch.arange(1, 7, dtype=dtype).view(-1, 1, 1, 1)
    psi, ones = Psi(alpha=0.0, eps=0.0), torch.ones(15, dtype=result_dtype(dtype))
    assert ops.pairwise_psi(w, *psi.arguments).eq(1).all()
    assert ops.pairwise_psi_backward(ones, w, *psi.arguments).eq(0).all()


@pytest.mark.parametrize("shape", [(40, 33, 3, 3), *also((70, 100, 3))], ids=str)
@pytest.mark.parametrize(
    "edges", [[0.99], [0.0, 1.0], [0.2, 0.21, 0.22], *also([0.01], [0.0], [1.0], [0.5, 0.5])], ids=str
)
def test_counts_decided_early_are_exact(shape, edges):
    w = weight(shape, scale=1.0)
    w[10:20] = w[:10] + 0.01 * w[20:30]
    check_counts(w, torch.tensor(edges), DEFAULT)
    w[5, 3] = math.nan
    check_counts(w, torch.tensor(edges), DEFAULT)


def test_counts_with_many_edges_on_the_values():
    w = weight((30, 5, 3, 3))
    check_counts(w, ops.pairwise_psi(w, *DEFAULT.arguments).sort().values, DEFAULT)
    check_counts(w, torch.linspace(0, 1, 1001), DEFAULT)


def test_counts_without_edges():
    assert ops.psi_counts([weight((9, 2, 3))], torch.zeros(0), *DEFAULT.arguments).tolist() == [[36, 0]]


@pytest.mark.parametrize("dtype", [*DTYPES[:2], *also(*DTYPES[2:])])
@pytest.mark.parametrize("psi", [DEFAULT, Psi(0.5, 2.0, 0.5, 1e-2), *also(Psi(eps=0.0))], ids=str)
def test_counts_of_many_banks(psi, dtype):
    edges = torch.tensor([0.1, 0.3, 0.6], dtype=result_dtype(dtype))
    check_counts_of_banks(mixed_banks(dtype), edges, psi)
    check_counts_of_banks(mixed_banks(dtype)[::-1], torch.stack([edges, edges], 1)[:, 0], psi)
    check_counts_of_banks([weight((0, 3, 3), dtype), weight((1, 3, 3), dtype)], edges, psi)


def test_counts_of_no_bank():
    for dtype in (torch.float32, torch.float64):
        assert ops.psi_counts([], torch.rand(3, dtype=dtype), *DEFAULT.arguments).shape == (0, 5)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(20, 3, 3, 3), (20, 33, 1), (5, 9, 2)], ids=str)
def test_filters_that_are_not_finite_make_exactly_their_pairs_nan(shape, dtype, bad):
    for psi in (DEFAULT, Psi(eps=0.0), Psi(0.0, 0.0, 0.0), Psi(0.5, 2.0, 0.5)):
        w = weight(shape, dtype)
        w[3].flatten()[-1] = bad
        w[4].flatten()[0] = bad
        nan = torch.zeros(shape[0], dtype=torch.bool)
        nan[3:5] = True
        i, j = torch.triu_indices(shape[0], shape[0], 1)
        with poisoned():
            assert torch.equal(ops.pairwise_psi(w, *psi.arguments).isnan(), nan[i] | nan[j])
            assert torch.equal(ops.cross_psi(w, w[2:4], *psi.arguments).isnan(), nan[:, None] | nan[2:4])
            assert torch.equal(ops.psi_of_pairs(w, torch.stack([i, j], 1), *psi.arguments).isnan(), nan[i] | nan[j])
        finite = w[~nan]
        i, j = torch.triu_indices(len(finite), len(finite), 1)
        kept = torch.arange(shape[0])[~nan]
        square = torch.full((shape[0], shape[0]), math.nan, dtype=result_dtype(dtype))
        rows, columns = torch.triu_indices(shape[0], shape[0], 1)
        square[rows, columns] = ops.pairwise_psi(w, *psi.arguments)
        assert torch.equal(square[kept[i], kept[j]], ops.pairwise_psi(finite, *psi.arguments))
        # a list that avoids them has a finite gradient
        pairs = torch.stack([kept[i], kept[j]], 1)
        grad = torch.ones(len(pairs), dtype=result_dtype(dtype))
        of_weight = ops.psi_of_pairs_backward(grad, w, pairs, *psi.arguments)
        assert of_weight.isfinite().all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("filters", [0, 1])
@pytest.mark.parametrize("tail", [(3, 3, 3), (3,)], ids=str)
def test_few_filters(filters, tail, dtype):
    w, some = torch.randn(filters, *tail).to(dtype), torch.randn(4, *tail).to(dtype)
    check_pairwise(w, DEFAULT)
    check_cross(w, some, DEFAULT)
    check_cross(some, w, DEFAULT)
    check_pairs(w, torch.zeros(0, 2, dtype=torch.int64), DEFAULT)
    check_counts(w, torch.tensor([0.5], dtype=result_dtype(dtype)), DEFAULT)
    check_pairs(some, torch.zeros(0, 2, dtype=torch.int64), DEFAULT)


def test_the_allowances_are_rare():
    """Random filters are well-conditioned nearly everywhere: what the other tests allow stays near the table."""
    w = weight((65, 8, 3, 3), scale=0.02)
    i, j = torch.triu_indices(65, 65, 1)
    of_psi = psi_allowance(w, w, DEFAULT, torch.float32)[i, j]
    assert of_psi.median() < 4e-6
    assert (of_psi < 1e-5).double().mean() > 0.95
    grad = packed_to_square(torch.randn(len(i)), 65)
    of_gradient = gradient_allowance(w, w, grad, DEFAULT, torch.float32)
    assert of_gradient.isfinite().double().mean() > 0.95


# ---- strides ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_strides_do_not_change_a_bit(dtype):
    w = weight((19, 5, 3, 3), dtype)
    pairs, edges = some_pairs(19, 70), torch.tensor([0.3, 0.6], dtype=result_dtype(dtype))
    grads = [torch.randn(n, dtype=result_dtype(dtype)) for n in ((171,), (19, 19), (70,))]

    def results(w, pairs, grads):
        return all_results(w, pairs, edges, grads, DEFAULT, ops)

    expected = results(w, pairs, grads)
    for name, other in strided(w).items():
        for actual, exact in zip(results(other, pairs, grads), expected, strict=True):
            assert torch.equal(actual, exact), name
    wide = [torch.stack([g, torch.full_like(g, math.nan)], -1)[..., 0] for g in grads]
    for actual, exact in zip(results(w, pairs.T.contiguous().T, wide), expected, strict=True):
        assert torch.equal(actual, exact)
    turned = [grads[0], grads[1].T.contiguous().T, grads[2]]
    for actual, exact in zip(results(w, pairs, turned), expected, strict=True):
        assert torch.equal(actual, exact)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("positions", [1, 4, 7, 8, 9, 15, 16, 17, 25])
def test_positions_that_are_consecutive_do_not_change_a_bit(positions, dtype):
    """Then the CPU reads whole vectors of them, up to the end of the weight's memory and no further."""
    w, pairs = weight((19, 3, positions), dtype), some_pairs(19, 40)
    apart = torch.stack([w, torch.full_like(w, math.nan)], -1)[..., 0]
    assert torch.equal(ops.pairwise_psi(w, *DEFAULT.arguments), ops.pairwise_psi(apart, *DEFAULT.arguments))
    assert torch.equal(
        ops.psi_of_pairs(w, pairs, *DEFAULT.arguments), ops.psi_of_pairs(apart, pairs, *DEFAULT.arguments)
    )


def test_expanded_gradients():
    w = weight((9, 5, 3, 3))
    check_pairwise(w, DEFAULT, torch.ones(()).expand(36))
    check_cross(w, w[:4], DEFAULT, torch.ones(9, 1).expand(9, 4))
    check_pairs(w, some_pairs(9, 20), DEFAULT, torch.ones(()).expand(20))


def test_expanded_weights():
    check_all(weight((7, 1, 3, 3)).expand(7, 5, 3, 3), DEFAULT)
    check_all(weight((1, 4, 3, 3)).expand(7, 4, 3, 3), DEFAULT)
    check_all(weight((7, 4, 1, 3)).expand(7, 4, 3, 3), DEFAULT)


def test_offsets_beyond_32_bits():
    """Filters 2^30 elements apart, in memory that is reserved but never touched in between."""
    stride = 2**30
    try:
        memory = torch.empty(4 * stride, dtype=torch.float16)
    except RuntimeError:
        pytest.skip("this system reserves no more memory than it has")
    w = memory.as_strided((4, 2, 3), (stride, 7, 2))
    values = torch.randn(4, 2, 3).half()
    w.copy_(values)
    assert torch.equal(ops.pairwise_psi(w, *DEFAULT.arguments), ops.pairwise_psi(values, *DEFAULT.arguments))
    pairs = torch.tensor([[0, 3], [3, 1]])
    assert torch.equal(
        ops.psi_of_pairs(w, pairs, *DEFAULT.arguments), ops.psi_of_pairs(values, pairs, *DEFAULT.arguments)
    )


def test_more_pairs_than_torch_pdist_can_differentiate():
    """torch.pdist's backward fails above N = 1448; 1500 and a smooth psi, so that nothing is ill-conditioned."""
    w, psi = torch.rand(1500, 1, 2) + 0.5, Psi(1.0, 1.0, 2.0, 1e-2)
    exact = w.double()[:, 0].requires_grad_()
    i, j = torch.triu_indices(1500, 1500, 1)
    expected = Similarity("psi", *psi).of_slices(exact[:, None], exact[None])[i, j]
    packed = ops.pairwise_psi(w, *psi.arguments)
    torch.testing.assert_close(packed.double(), expected.detach(), rtol=0, atol=1e-5)
    grad = torch.randn(len(i))
    (expected,) = torch.autograd.grad(expected, exact, grad.double())
    actual = ops.pairwise_psi_backward(grad, w, *psi.arguments)[:, 0].double()
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.exhaustive
def test_more_pairs_than_32_bits_count():
    filters = 65_600
    assert filters * (filters - 1) // 2 > 2**31
    w = torch.zeros(filters, 1, 1)
    w[7] = math.nan
    counts = ops.psi_counts([w], torch.tensor([0.5]), *Psi(alpha=0.0).arguments).tolist()
    assert counts == [[0, (filters - 1) * (filters - 2) // 2, filters - 1]]
