from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from definition import Cosine, Psi, cross, omega, psi_of_slices
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from skimage.metrics import structural_similarity

from ckrm_kernels import reference
from ckrm_kernels.similarity import Similarity

DEFAULT = Psi()
PSIS = [
    DEFAULT,
    Psi(1.0, 1.0, 1.0, 1e-4),
    Psi(0.0, 0.0, 0.0, 1e-4),
    Psi(2.5, 0.5, 2.0, 1e-2),
    Psi(0.1, 2.0, 0.5, 1e-8),
    Psi(0.1, 1.0, 1.0, 0.0),
    Psi(0.0, 1.0, 0.0, 1e-12),
    Psi(0.7, 0.0, 1.5, 0.0),
    Psi(signed=True),
    Psi(0.7, 0.5, 1.5, 0.0, signed=True),
    Psi(0.0, 0.0, 0.0, 1e-4, signed=True),
]
SHAPES = [(2, 1, 3), (5, 2, 3, 3), (4, 3, 1, 1), (4, 3), (3, 2, 2), (3, 2, 5, 5), (2, 3, 3, 3, 3), (2, 1, 7, 7)]


def double(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64)


# ---- values against the definition -----------------------------------------------------------------------------------


@pytest.mark.parametrize("psi", PSIS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_the_definition(shape, psi):
    w = double(*shape) * 0.1
    torch.testing.assert_close(reference.pairwise_psi(w, Similarity("psi", *psi)), omega(w, psi), rtol=0, atol=1e-12)


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1.0, 1e4])
@pytest.mark.parametrize("offset", [0.0, 1.0, 1e3])
def test_equals_the_definition_at_any_scale_and_offset(scale, offset):
    w = scale * (double(4, 2, 3, 3) + offset)
    for psi in (DEFAULT, Psi(eps=0.0)):
        torch.testing.assert_close(
            reference.pairwise_psi(w, Similarity("psi", *psi)), omega(w, psi), rtol=0, atol=1e-11
        )


@pytest.mark.parametrize("cosine", [Cosine(), Cosine(signed=True)], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_cosine_equals_the_definition(shape, cosine):
    w = double(*shape) * 0.1 + 0.05
    w[-1] = 0
    actual = reference.pairwise_psi(w, Similarity("cosine", signed=cosine.signed))
    torch.testing.assert_close(actual, omega(w, cosine), rtol=0, atol=1e-14)
    for scale in (1e-170, 1e-30, 1e30, 1e170):  # whose squares vanish or overflow
        again = reference.pairwise_psi(w * scale, Similarity("cosine", signed=cosine.signed))
        torch.testing.assert_close(again, actual, rtol=0, atol=1e-14)


def test_the_cosine_is_that_of_torch():
    a, b = double(4, 3, 3, 3), double(5, 3, 3, 3)
    expected = torch.cosine_similarity(a[:, None].flatten(3), b[None].flatten(3), dim=-1)
    for signed in (False, True):
        of_slices = expected if signed else expected.abs()
        actual = reference.cross_psi(a, b, Similarity("cosine", signed=signed))
        torch.testing.assert_close(actual, of_slices.mean(-1), rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    "psi", [Psi(1.0, 1.0, 1.0, 1e-12, signed=True), Psi(0.1, 2.0, 0.5, 1e-12, signed=True)], ids=str
)
def test_signed_a_filter_and_its_negative_are_opposites(psi):
    """And slices flipped one by one cancel out, where unsigned psi calls them alike."""
    w = double(1, 6, 3, 3)
    assert float(reference.cross_psi(w, -w, Similarity("psi", *psi))) == pytest.approx(-1, abs=1e-5)
    flips = torch.tensor([1.0, -1, 1, -1, -1, 1]).view(6, 1, 1)
    assert float(reference.cross_psi(w, w * flips, Similarity("psi", *psi))) == pytest.approx(0, abs=1e-5)
    assert float(reference.cross_psi(w, w * flips, Similarity("psi", *psi[:4]))) == pytest.approx(1, abs=1e-5)
    assert float(reference.cross_psi(w, -w, Similarity("cosine", signed=True))) == pytest.approx(-1, abs=1e-14)


def test_cross_and_listed_pairs_equal_the_definition():
    a, b = double(4, 3, 3, 3), double(3, 3, 3, 3)
    torch.testing.assert_close(
        reference.cross_psi(a, b, Similarity("psi", *DEFAULT)), cross(a, b, DEFAULT), rtol=0, atol=1e-12
    )
    pairs = torch.tensor([[3, 0], [0, 3], [1, 2], [1, 2]])
    expected = cross(a, a, DEFAULT)[pairs[:, 0], pairs[:, 1]]
    for chunk in (1, 3, 1024):
        actual = reference.psi_of_pairs(a, pairs, Similarity("psi", *DEFAULT), chunk=chunk)
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


def test_counts_equal_the_definition():
    w = double(9, 2, 3)
    expected = omega(w, DEFAULT)
    edges = torch.tensor([0.0, 0.1, 0.1, 0.3, 0.8, 1.0], dtype=torch.float64)
    bounds = [-math.inf, *edges.tolist(), math.inf]
    inside = [int(((expected > low) & (expected <= high)).sum()) for low, high in itertools.pairwise(bounds)]
    assert reference.psi_counts(w, edges, Similarity("psi", *DEFAULT)).tolist() == [*inside, 0]


def test_an_edge_belongs_to_the_interval_below():
    w = double(2, 1, 3)
    edge = reference.pairwise_psi(w, Similarity("psi", *DEFAULT))
    assert reference.psi_counts(w, edge, Similarity("psi", *DEFAULT)).tolist() == [1, 0, 0]
    assert reference.psi_counts(w, edge - 1e-15, Similarity("psi", *DEFAULT)).tolist() == [0, 1, 0]


@given(seed=st.integers(0, 2**32 - 1), blend=st.floats(0, 1), offset=st.floats(-2, 2))
@settings(max_examples=40)
def test_is_the_absolute_value_of_scikit_image_ssim(seed, blend, offset):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(7, 7)) + offset
    y = blend * x + (1 - blend) * rng.normal(size=(7, 7))
    ssim = structural_similarity(
        x, y, win_size=7, gaussian_weights=False, use_sample_covariance=False, K1=1e-12, K2=1e-12, data_range=1.0
    )
    psi = Similarity("psi", 1.0, 1.0, 1.0, 0.0).of_slices(torch.tensor(x).flatten(), torch.tensor(y).flatten())
    assert float(psi) == pytest.approx(abs(ssim), abs=1e-9)


# ---- facts of the definition, as properties --------------------------------------------------------------------------

exponents = st.sampled_from([0.0, 0.1, 0.5, 1.0, 2.0, 2.5]) | st.floats(0, 3)
epsilons = st.sampled_from([0.0, 1e-12, 1e-8, 1e-4, 1e-2]) | st.floats(1e-12, 1)
psis = st.builds(Psi, exponents, exponents, exponents, epsilons, st.booleans())


@st.composite
def weights(draw):
    """Random float64 filter banks with repeats, flips, constant and zero slices in them."""
    shape = (
        draw(st.integers(2, 6)),
        draw(st.integers(1, 4)),
        *draw(st.sampled_from([(), (1,), (2,), (3,), (2, 2), (3, 3)])),
    )
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    w = torch.randn(shape, dtype=torch.float64, generator=generator) * draw(st.sampled_from([1e-3, 1e-1, 1.0, 1e2]))
    w = w + draw(st.sampled_from([0.0, 0.01, 1.0]))
    kind = torch.randint(0, 6, shape[:2], generator=generator)
    w[kind == 0] = 0
    w[kind == 1] = w[kind == 1].flatten(1)[:, :1].view(-1, *[1] * (w.dim() - 2)) if w.dim() > 2 else w[kind == 1]
    if draw(st.booleans()):
        w[-1] = draw(st.sampled_from([1.0, -1.0, 0.5])) * w[0]
    return w


@given(w=weights(), psi=psis)
@settings(max_examples=60)
def test_lies_between_0_and_1_or_minus_1_and_1_where_signed(w, psi):
    omega = reference.pairwise_psi(w, Similarity("psi", *psi))
    assert bool(((omega >= (-1 - 1e-12 if psi.signed else 0)) & (omega <= 1 + 1e-12)).all())


@given(w=weights(), signed=st.booleans())
@settings(max_examples=30)
def test_the_cosine_does_not_depend_on_scale_and_lies_in_its_range(w, signed):
    cosine = Similarity("cosine", signed=signed)
    omega = reference.pairwise_psi(w, cosine)
    assert bool(((omega >= cosine.lowest - 1e-12) & (omega <= 1 + 1e-12)).all())
    torch.testing.assert_close(reference.pairwise_psi(w * 3e-5, cosine), omega, rtol=0, atol=1e-12)


@given(w=weights(), psi=psis)
@settings(max_examples=40)
def test_is_symmetric_and_1_on_the_diagonal(w, psi):
    square = reference.cross_psi(w, w, Similarity("psi", *psi))
    torch.testing.assert_close(square, square.T, rtol=0, atol=1e-13)
    torch.testing.assert_close(square.diagonal(), torch.ones(len(w), dtype=torch.float64), rtol=0, atol=1e-12)


@given(w=weights(), alpha=exponents, beta=exponents, gamma=exponents)
@settings(max_examples=40)
def test_a_flipped_filter_is_the_same_filter_without_eps(w, alpha, beta, gamma):
    square = reference.cross_psi(w, -w, Similarity("psi", alpha, beta, gamma, 0.0))
    torch.testing.assert_close(square.diagonal(), torch.ones(len(w), dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(
        square, reference.cross_psi(w, w, Similarity("psi", alpha, beta, gamma, 0.0)), rtol=0, atol=1e-12
    )


def test_a_flipped_filter_approaches_1_as_eps_falls():
    w = double(1, 4, 3, 3)
    values = [float(reference.cross_psi(w, -w, Similarity("psi", *Psi(eps=10.0**-k)))) for k in range(0, 15, 2)]
    assert values == sorted(values)
    assert values[-1] == pytest.approx(1, abs=1e-9)


@given(w=weights(), psi=psis, data=st.data())
@settings(max_examples=40)
def test_permutations(w, psi, data):
    assume(w.dim() > 2)
    square = reference.cross_psi(w, w, Similarity("psi", *psi))
    order = data.draw(st.permutations(range(w.shape[0])))
    torch.testing.assert_close(
        reference.cross_psi(w[order], w[order], Similarity("psi", *psi)), square[order][:, order], rtol=0, atol=1e-13
    )
    slices = data.draw(st.permutations(range(w.shape[1])))
    torch.testing.assert_close(
        reference.cross_psi(w[:, slices], w[:, slices], Similarity("psi", *psi)), square, rtol=0, atol=1e-12
    )


@given(seed=st.integers(0, 2**32 - 1), psi=psis)
@settings(max_examples=40)
def test_one_permutation_of_the_positions_changes_nothing(seed, psi):
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(4, 3, 9, dtype=torch.float64, generator=generator)
    permuted = reference.pairwise_psi(w[..., torch.randperm(9, generator=generator)], Similarity("psi", *psi))
    torch.testing.assert_close(permuted, reference.pairwise_psi(w, Similarity("psi", *psi)), rtol=0, atol=1e-9)


@given(w=weights(), psi=psis, c=st.sampled_from([2.0**-10, 0.5, 4.0, -8.0]))
@settings(max_examples=40)
def test_scaling_the_weight_scales_eps_by_its_square(w, psi, c):
    scaled = reference.pairwise_psi(c * w, Similarity("psi", *psi._replace(eps=c * c * psi.eps)))
    torch.testing.assert_close(scaled, reference.pairwise_psi(w, Similarity("psi", *psi)), rtol=0, atol=1e-12)


@given(w=weights(), psi=psis, repeat=st.integers(1, 3))
@settings(max_examples=40)
def test_of_concatenated_slices_is_the_mean_weighted_by_their_number(w, psi, repeat):
    more = torch.cat([w.flip(1).roll(1, 0)] * repeat, 1)
    n, m = w.shape[1], more.shape[1]
    together = reference.pairwise_psi(torch.cat([w, more], 1), Similarity("psi", *psi))
    apart = (
        n * reference.pairwise_psi(w, Similarity("psi", *psi))
        + m * reference.pairwise_psi(more, Similarity("psi", *psi))
    ) / (n + m)
    torch.testing.assert_close(together, apart, rtol=0, atol=1e-12)


# ---- edge cases ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("eps", [0.0, 1e-4])
def test_two_constant_slices_have_contrast_and_structure_1(eps):
    x, y = torch.full((9,), 0.3, dtype=torch.float64), torch.full((9,), 0.7, dtype=torch.float64)
    assert float(Similarity("psi", 0.0, 1.0, 1.0, eps).of_slices(x, y)) == 1
    luminance = (2 * 0.3 * 0.7 + eps) / (0.3**2 + 0.7**2 + eps)
    assert float(Similarity("psi", 0.1, 1.0, 1.0, eps).of_slices(x, y)) == pytest.approx(luminance**0.1, abs=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("value", [0.1, 1 / 3, -1e4, 7e-7])
def test_a_constant_slice_is_exactly_constant_whatever_its_value(value, dtype):
    w = torch.full((2, 1, 7, 7), value, dtype=dtype)
    w[1] *= 3
    assert float(reference.pairwise_psi(w, Similarity("psi", 0.0, 1.0, 1.0, 0.0))) == 1


@pytest.mark.parametrize("eps", [0.0, 1e-12, 1e-4])
def test_two_dead_filters_are_redundant(eps):
    assert reference.pairwise_psi(torch.zeros(3, 2, 3, 3), Similarity("psi", *Psi(eps=eps))).tolist() == [1, 1, 1]


def test_a_dead_filter_beside_a_live_one():
    w = double(2, 1, 9)
    w[0] = 0
    mean, variance, eps = w[1].mean().item(), w[1].var(correction=0).item(), 1e-4
    expected = (eps / (mean**2 + eps)) ** 0.1 * eps / (variance + eps)
    assert float(reference.pairwise_psi(w, Similarity("psi", *DEFAULT))) == pytest.approx(expected, abs=1e-14)
    assert float(reference.pairwise_psi(w, Similarity("psi", *Psi(eps=0.0)))) == 0


def test_a_single_position_leaves_luminance():
    w = torch.tensor([[[0.2]], [[-0.5]]], dtype=torch.float64)
    expected = abs((-0.2 + 1e-4) / (0.04 + 0.25 + 1e-4)) ** 0.1
    assert float(reference.pairwise_psi(w, Similarity("psi", *DEFAULT))) == pytest.approx(expected, abs=1e-14)
    assert float(reference.pairwise_psi(w, Similarity("psi", 0.0, 5.0, 5.0, 0.0))) == 1


def test_zero_exponents_give_1_even_where_a_factor_is_0():
    x, y = torch.tensor([1.0, -1.0, 0.0]), torch.tensor([0.0, 0.0, 0.0])
    assert float(Similarity("psi", 0.0, 0.0, 0.0, 0.0).of_slices(x, y)) == 1
    assert float(Similarity("psi", 0.0, 1.0, 0.0, 0.0).of_slices(x, y)) == 0


@pytest.mark.parametrize(("filters", "pairs"), [(0, 0), (1, 0), (2, 1)])
@pytest.mark.parametrize("tail", [(3, 3, 3), (3,)], ids=str)
def test_few_filters(filters, pairs, tail):
    w = torch.randn(filters, *tail, requires_grad=True)
    packed = reference.pairwise_psi(w, Similarity("psi", *DEFAULT))
    assert packed.shape == (pairs,)
    packed.sum().backward()  # in the graph even where it is empty
    assert reference.cross_psi(w, torch.randn(4, *tail), Similarity("psi", *DEFAULT)).shape == (filters, 4)
    assert reference.cross_psi(torch.randn(4, *tail), w, Similarity("psi", *DEFAULT)).shape == (4, filters)
    assert reference.psi_of_pairs(w, torch.zeros(0, 2, dtype=torch.int64), Similarity("psi", *DEFAULT)).shape == (0,)
    assert reference.psi_counts(w, torch.tensor([0.5]), Similarity("psi", *DEFAULT)).sum() == pairs


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("psi", [DEFAULT, Psi(0.0, 0.0, 0.0, 1e-4), Psi(eps=0.0), Psi(1.0, 0.0, 0.0, 1e-4)], ids=str)
def test_a_filter_that_is_not_finite_makes_exactly_its_pairs_nan(bad, psi):
    w = double(5, 3, 3, 3)
    w[2, 1, 0, 2] = bad
    square = reference.cross_psi(w, w, Similarity("psi", *psi))
    expected = torch.zeros(5, 5, dtype=torch.bool)
    expected[2, :] = expected[:, 2] = True
    assert torch.equal(square.isnan(), expected)
    i, j = torch.triu_indices(5, 5, 1)
    packed = reference.pairwise_psi(w, Similarity("psi", *psi))
    assert torch.equal(packed.isnan(), expected[i, j])
    assert torch.equal(
        reference.psi_of_pairs(w, torch.stack([i, j], 1), Similarity("psi", *psi)).isnan(), expected[i, j]
    )
    assert reference.psi_counts(w, torch.tensor([0.5]), Similarity("psi", *psi))[-1] == 4
    finite = ~expected[i, j]
    torch.testing.assert_close(packed[finite], omega(w, psi)[finite], rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_are_computed_in_float32(dtype):
    w = torch.randn(4, 3, 3, 3).to(dtype)
    packed = reference.pairwise_psi(w, Similarity("psi", *DEFAULT))
    assert packed.dtype == torch.float32
    assert torch.equal(packed, reference.pairwise_psi(w.float(), Similarity("psi", *DEFAULT)))
    torch.testing.assert_close(packed.double(), omega(w, DEFAULT), rtol=0, atol=1e-5)


def test_float32_and_float64_keep_their_dtype():
    w = double(4, 3, 3, 3)
    assert reference.pairwise_psi(w, Similarity("psi", *DEFAULT)).dtype == torch.float64
    packed = reference.pairwise_psi(w.float(), Similarity("psi", *DEFAULT))
    assert packed.dtype == torch.float32
    torch.testing.assert_close(packed.double(), omega(w.float(), DEFAULT), rtol=0, atol=1e-5)


# ---- gradients -------------------------------------------------------------------------------------------------------


def gradient(x, y, psi):
    """d psi / dx of two slices given as lists."""
    x, y = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (x, y))
    Similarity("psi", *psi).of_slices(x, y).backward()
    assert x.grad.isfinite().all()
    assert y.grad.isfinite().all()
    return x.grad


def difference(x, y, psi, position, step=1e-6):
    """Central difference of the definition."""
    high, low = ([v + (s if k == position else 0) for k, v in enumerate(x)] for s in (step, -step))
    return (psi_of_slices(high, y, psi) - psi_of_slices(low, y, psi)) / (2 * step)


@pytest.mark.parametrize("psi", PSIS, ids=str)
@pytest.mark.parametrize("shape", [(2, 2, 2, 2), (3, 1, 3), (2, 2, 1), (3, 1, 2), (2, 2)], ids=str)
def test_gradcheck(shape, psi):
    w = double(*shape).requires_grad_()
    pairs = torch.tensor([[0, 1], [1, 0]])
    assert torch.autograd.gradcheck(lambda w: reference.pairwise_psi(w, Similarity("psi", *psi)), w)
    assert torch.autograd.gradcheck(lambda w: reference.psi_of_pairs(w, pairs, Similarity("psi", *psi)), w)
    b = double(2, *shape[1:]).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: reference.cross_psi(a, b, Similarity("psi", *psi)), (w, b))


def test_double_backward_of_the_reference():
    w = double(3, 2, 3).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda w: reference.pairwise_psi(w, Similarity("psi", *DEFAULT)), w)


@pytest.mark.parametrize("psi", PSIS, ids=str)
def test_gradient_equals_differences_of_the_definition(psi):
    x, y = double(5).tolist(), double(5).tolist()
    expected = [difference(x, y, psi, k) for k in range(5)]
    torch.testing.assert_close(gradient(x, y, psi), torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=1e-8)


def test_gradient_at_zero_luminance():
    x, y = [1.0, -1.0, 0.0, 0.0], [3.0, 1.0, 2.0, 4.0]  # the mean of x is 0: without eps L = 0
    rest = psi_of_slices(x, y, Psi(0.0, 1.0, 1.0, 0.0))
    slope = 2 * 2.5 / 2.5**2 / 4  # dL / dx_k
    for alpha, expected in ((0.1, 0.0), (0.5, 0.0), (1.0, slope * rest), (1.5, 0.0), (2.5, 0.0)):
        flat = gradient(x, y, Psi(alpha, 1.0, 1.0, 0.0))
        assert float(flat.mean()) == pytest.approx(expected, abs=1e-12), alpha  # the mean sees L alone


def test_gradient_at_zero_structure():
    x, y = [1.0, -1.0, 0.0, 0.0], [1.0, 1.0, 2.0, 4.0]  # uncorrelated: without eps S = 0
    for gamma in (0.1, 0.5, 1.5, 2.0):
        assert gradient(x, y, Psi(0.0, 0.0, gamma, 0.0)).abs().max() == 0, gamma
    sigma_x, centred = math.sqrt(0.5), torch.tensor([-1.0, -1.0, 0.0, 2.0], dtype=torch.float64)
    expected = centred / 4 / (sigma_x * math.sqrt(1.5))  # dS / dx from above
    torch.testing.assert_close(gradient(x, y, Psi(0.0, 0.0, 1.0, 0.0)), expected)


@pytest.mark.parametrize("psi", PSIS, ids=str)
@pytest.mark.parametrize(
    ("x", "y"),
    [
        ([0.5] * 4, [0.5] * 4),
        ([0.5] * 4, [0.2] * 4),
        ([0.0] * 4, [0.0] * 4),
        ([0.0] * 4, [1.0, 2.0, 3.0, 5.0]),
        ([0.5] * 4, [1.0, 2.0, 3.0, 5.0]),
        ([1.0, -1.0, 0.0, 0.0], [0.0] * 4),
        ([1.0, -1.0, 1.0, -1.0], [1.0, 1.0, -1.0, -1.0]),
        ([0.0], [0.0]),
        ([0.0], [1.0]),
        ([1e-200] * 3, [1e-200, 0.0, 0.0]),
    ],
    ids=str,
)
def test_gradient_is_finite_where_a_factor_degenerates(x, y, psi):
    gradient(x, y, psi)
    gradient(y, x, psi)


def test_gradient_at_sigma_0_passes_the_covariance_alone():
    """sigma's own derivative depends on the direction there and counts as 0; that of the covariance is finite."""
    x, y, eps = [0.5] * 4, [1.0, 2.0, 3.0, 5.0], 1e-2
    centred = torch.tensor(y, dtype=torch.float64) - 2.75
    expected = centred / 4 / eps
    torch.testing.assert_close(gradient(x, y, Psi(0.0, 0.0, 1.0, eps)), expected)
    assert gradient(x, y, Psi(0.0, 1.0, 0.0, eps)).abs().max() == 0


def test_gradients_of_finite_filters_survive_a_filter_that_is_not():
    w = double(4, 2, 3)
    w[1, 0, 0] = math.nan
    w.requires_grad_()
    pairs = torch.tensor([[0, 2], [2, 3]])
    reference.psi_of_pairs(w, pairs, Similarity("psi", *DEFAULT)).sum().backward()
    assert w.grad.isfinite().all()


@pytest.mark.parametrize("filters", [8, 32])
def test_keeps_no_slices_of_pairs_for_the_backward(filters):
    w = torch.randn(filters, 16, 3, 3, requires_grad=True)
    kept = []

    def pack(tensor):
        if tensor.untyped_storage().data_ptr() != w.untyped_storage().data_ptr():
            kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        reference.pairwise_psi(w, Similarity("psi", *DEFAULT))
    assert sum(kept) <= 2 * filters * filters  # 16 slices of 9 positions would be 72 filters^2
