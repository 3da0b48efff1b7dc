from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from definition import Cosine, Psi, cross, omega
from exhaustive import also
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.utils import parametrizations, parametrize
from torch.utils.checkpoint import checkpoint

from ckrm_kernels import cross_psi, functional, pairwise_psi, psi_histogram, psi_of_pairs, redundancy
from ckrm_kernels.backends import implementation
from ckrm_kernels.functional import counts_of_banks, over_scale, unit_scale
from ckrm_kernels.similarity import Similarity

OPTIONS = [Psi(), Psi(alpha=0.7), Psi(beta=0.5), Psi(gamma=2.0), Psi(eps=1e-2), Psi(1.0, 1.0, 1.0, 0.0), Psi(0, 0, 0)]
SIGNED = [Psi(signed=True), Psi(0.5, 2.0, 1.5, 1e-3, signed=True)]
COSINES = [Cosine(), Cosine(signed=True)]


def double(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def assert_same(actual: torch.Tensor, expected: torch.Tensor, atol: float = 1e-12) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=atol, equal_nan=True, check_dtype=False)


# ---- values, order, layout, options ----------------------------------------------------------------------------------


@pytest.mark.exhaustive_on("triton")
@pytest.mark.parametrize("psi", [*OPTIONS, *SIGNED[:1], *COSINES, *also(*SIGNED[1:])], ids=str)
def test_options_reach_the_definition(psi, backend):
    a, b = double(5, 2, 3, 3) * 0.2, double(3, 2, 3, 3) * 0.2
    options = {**psi.options, "backend": backend}
    expected = omega(a, psi)
    assert_same(pairwise_psi(a, **options), expected)
    assert_same(cross_psi(a, b, **options), cross(a, b, psi))
    pairs = torch.triu_indices(5, 5, 1).T
    assert_same(psi_of_pairs(a, pairs, **options), expected)
    assert_same(psi_of_pairs(a, pairs.flip(1), **options), expected)
    middle = min(float(expected.median()) + 1e-9, 1.0)  # not on a value, where rounding decides
    assert_same(redundancy(a, middle, **options), (expected > middle).double().mean())
    lowest = -1 if psi.signed else 0
    edges = np.linspace(lowest, 1, 8)
    counts = [int(((expected > low) & (expected <= high)).sum()) for low, high in itertools.pairwise(edges)]
    counts[0] += int((expected <= lowest).sum())
    counts[-1] += int((expected > 1).sum())
    assert psi_histogram(a, 7, **options).tolist() == counts


def test_defaults_are_those_documented(backend):
    w = double(4, 2, 3, 3) * 0.01  # small, so that eps matters
    assert_same(pairwise_psi(w, backend=backend), omega(w, Psi(alpha=0.1, beta=1.0, gamma=1.0, eps=1e-4)))
    assert_same(cross_psi(w, w, backend=backend), cross(w, w, Psi()))
    assert_same(redundancy(w, backend=backend), redundancy(w, 0.6, **Psi().options, backend=backend))
    assert psi_histogram(w, backend=backend).shape == (50,)


def test_packed_order_is_that_of_pdist(backend):
    """Filters of one number x, alpha 1, no eps: L = 2xy / (x^2 + y^2) names the pair."""
    x = torch.tensor([1.0, 2.0, 5.0, 11.0, 23.0], dtype=torch.float64)
    packed = pairwise_psi(x.view(5, 1, 1), alpha=1.0, eps=0.0, backend=backend)
    ratio = torch.exp(torch.pdist(x.log().view(5, 1)))
    assert_same(packed, 2 / (ratio + 1 / ratio))


@pytest.mark.parametrize("filters", [0, 1, 2, 5])
def test_square_layout(filters, backend):
    w = double(filters, 3, 3, 3)
    packed = pairwise_psi(w, backend=backend)
    square = pairwise_psi(w, layout="square", backend=backend)
    i, j = torch.triu_indices(filters, filters, 1)
    assert square.shape == (filters, filters)
    assert torch.equal(square[i, j], packed)
    assert torch.equal(square, square.T)
    assert torch.equal(square.diagonal(), torch.ones(filters, dtype=torch.float64))


def test_square_layout_has_the_gradient_of_both_halves(backend):
    w = double(4, 2, 3).requires_grad_()
    grad = double(4, 4)
    (of_square,) = torch.autograd.grad(pairwise_psi(w, layout="square", backend=backend), w, grad)
    i, j = torch.triu_indices(4, 4, 1)
    (of_packed,) = torch.autograd.grad(pairwise_psi(w, backend=backend), w, grad[i, j] + grad[j, i])
    assert_same(of_square, of_packed)


def test_cross_of_a_weight_with_itself_is_the_square_layout(backend):
    w = double(5, 3, 3, 3)
    assert_same(cross_psi(w, w, backend=backend), pairwise_psi(w, layout="square", backend=backend))


def test_pairs_may_repeat_and_come_in_any_order(backend):
    w = double(6, 3, 3, 3)
    square = pairwise_psi(w, layout="square", backend=backend)
    pairs = torch.tensor([[5, 0], [1, 2], [1, 2], [2, 1], [4, 3]])
    for listed in (pairs, pairs.T.contiguous().T, pairs.repeat_interleave(2, 0)[::2]):
        assert_same(psi_of_pairs(w, listed, backend=backend), square[pairs[:, 0], pairs[:, 1]])


# ---- modules ---------------------------------------------------------------------------------------------------------


def banks_by_hand(module: nn.Module) -> list[torch.Tensor]:
    """The filters of each group, taken one at a time from what the module computes with."""
    weight = module.weight.detach()
    if isinstance(module, nn.Linear):
        return [weight]
    transposed, groups = "Transpose" in type(module).__name__, module.groups
    outputs, inputs = module.out_channels // groups, module.in_channels // groups
    banks = []
    for g in range(groups):
        filters = []
        for f in range(outputs):
            if transposed:
                filters.append(torch.stack([weight[g * inputs + c, f] for c in range(inputs)]))
            else:
                filters.append(weight[g * outputs + f])
        banks.append(torch.stack(filters))
    return [torch.cat(banks)] if groups > 1 and outputs == 1 else banks


MODULES = {
    "Conv1d": lambda: nn.Conv1d(3, 5, 4),
    "Conv2d": lambda: nn.Conv2d(3, 5, (3, 2)),
    "Conv3d": lambda: nn.Conv3d(2, 4, 2),
    "pointwise": lambda: nn.Conv2d(3, 5, 1),
    "Linear": lambda: nn.Linear(3, 5),
    "grouped": lambda: nn.Conv2d(6, 8, 3, groups=2),
    "depthwise": lambda: nn.Conv2d(5, 5, 3, groups=5),
    "depthwise of two filters a channel": lambda: nn.Conv2d(3, 6, 3, groups=3),
    "ConvTranspose1d": lambda: nn.ConvTranspose1d(3, 5, 4),
    "ConvTranspose2d": lambda: nn.ConvTranspose2d(3, 5, 3),
    "ConvTranspose3d": lambda: nn.ConvTranspose3d(2, 3, 2),
    "transposed grouped": lambda: nn.ConvTranspose2d(6, 8, 3, groups=2),
    "transposed depthwise": lambda: nn.ConvTranspose2d(4, 4, 3, groups=4),
}


@pytest.mark.parametrize("name", MODULES)
def test_modules(name, backend):
    module = MODULES[name]().double()
    expected = [omega(bank, Psi()) for bank in banks_by_hand(module)]
    expected = expected[0] if len(expected) == 1 else torch.stack(expected)
    packed = pairwise_psi(module, backend=backend)
    assert packed.requires_grad
    assert_same(packed.detach(), expected)
    square = pairwise_psi(module, layout="square", backend=backend)
    filters = square.shape[-1]
    assert square.shape == (*packed.shape[:-1], filters, filters)
    i, j = torch.triu_indices(filters, filters, 1)
    assert torch.equal(square[..., i, j], packed)
    threshold = float(expected.median()) + 1e-9
    assert_same(redundancy(module, threshold, backend=backend), (expected > threshold).double().mean())
    assert psi_histogram(module, 3, backend=backend).sum() == expected.numel()
    if expected.dim() == 1:
        pairs = torch.triu_indices(filters, filters, 1).T
        assert_same(psi_of_pairs(module, pairs, backend=backend).detach(), expected)


@pytest.mark.exhaustive_on("triton")
@pytest.mark.parametrize("name", MODULES)
def test_gradient_reaches_the_parameter_of_a_module(name, backend):
    module = MODULES[name]().double()
    pairwise_psi(module, backend=backend).sum().backward()
    actual = module.weight.grad
    assert actual.shape == module.weight.shape
    direction = torch.randn_like(module.weight)
    values = []
    for step in (1e-6, -1e-6):
        moved = MODULES[name]().double()
        moved.load_state_dict(module.state_dict())
        with torch.no_grad():
            moved.weight += step * direction
        values.append(float(pairwise_psi(moved, backend="reference").detach().sum()))
    assert float((actual * direction).sum()) == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-5, abs=1e-7)


def test_parametrised_modules(backend):
    module = parametrizations.weight_norm(nn.Conv2d(3, 4, 3).double())
    assert_same(pairwise_psi(module, backend=backend).detach(), omega(module.weight, Psi()))
    pairwise_psi(module, backend=backend).sum().backward()
    assert all(p.grad is not None for name, p in module.named_parameters() if "weight" in name)

    class Doubled(nn.Module):
        def forward(self, weight):
            return 2 * weight

    module = nn.Conv2d(3, 4, 3).double()
    plain = module.weight.detach().clone()
    parametrize.register_parametrization(module, "weight", Doubled())
    assert_same(pairwise_psi(module, backend=backend).detach(), omega(2 * plain, Psi()))


def test_an_initialised_lazy_module(backend):
    module = nn.LazyConv2d(4, 3).double()
    module(double(1, 3, 5, 5))
    assert_same(pairwise_psi(module, backend=backend).detach(), omega(module.weight, Psi()))


# ---- scale_free ------------------------------------------------------------------------------------------------------


@pytest.mark.exhaustive_on("triton")
@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1.0, 1e4, -3.0])
def test_scale_free_ignores_the_scale(scale, backend):
    w = double(5, 3, 3, 3)
    unit = w / w.square().mean().sqrt()
    options = {"scale_free": True, "backend": backend}
    expected = omega(unit, Psi())
    assert_same(pairwise_psi(scale * w, **options), expected)
    assert_same(redundancy(scale * w, 0.3, **options), (expected > 0.3).double().mean())
    assert psi_histogram(scale * w, 5, **options).tolist() == psi_histogram(unit, 5, backend=backend).tolist()
    pairs = torch.tensor([[0, 1], [4, 2]])
    assert_same(psi_of_pairs(scale * w, pairs, **options), psi_of_pairs(unit, pairs, backend=backend))


def test_scale_free_cross_takes_each_by_its_own_scale(backend):
    a, b = double(3, 2, 3), double(4, 2, 3)
    expected = cross(a / a.square().mean().sqrt(), b / b.square().mean().sqrt(), Psi())
    assert_same(cross_psi(1e-3 * a, 1e3 * b, scale_free=True, backend=backend), expected)


def test_scale_free_takes_a_grouped_module_as_one(backend):
    module = nn.Conv2d(4, 6, 3, groups=2).double()
    with torch.no_grad():
        module.weight[:3] *= 10  # the groups keep their proportion
        expected = pairwise_psi(module, backend=backend)
        module.weight /= module.weight.square().mean().sqrt()
        expected = pairwise_psi(module, backend=backend)
        module.weight *= 1e-3
        assert_same(pairwise_psi(module, scale_free=True, backend=backend), expected)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_scale_free_neither_overflows_nor_vanishes(scale, backend):
    w = torch.randn(4, 2, 3, 3)
    expected = pairwise_psi(w, scale_free=True, backend=backend)
    assert_same(pairwise_psi(w * scale, scale_free=True, backend=backend), expected, atol=1e-5)


def test_scale_free_half_types(backend):
    w = (torch.randn(4, 2, 3, 3) * 1e4).half()
    expected = pairwise_psi(w.double(), scale_free=True, backend="reference")
    assert_same(pairwise_psi(w, scale_free=True, backend=backend), expected, atol=1e-5)


def test_scale_free_of_zeros_and_of_nan(backend):
    assert pairwise_psi(torch.zeros(3, 2, 3), scale_free=True, backend=backend).tolist() == pytest.approx(
        [1, 1, 1], abs=1e-6
    )
    w = double(4, 2, 3)
    w[1, 0, 0] = math.nan
    kept = w[[0, 2, 3]]
    mean_square = (kept.square().sum() + w[1].nan_to_num().square().sum()) / (w.numel() - 1)
    packed = pairwise_psi(w, scale_free=True, backend=backend)
    assert packed.isnan().tolist() == [True, False, False, True, True, False]
    assert_same(packed[~packed.isnan()], omega(kept / mean_square.sqrt(), Psi()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_banks_over_their_scale_are_so_to_the_bit(dtype):
    torch.manual_seed(0)
    whole = (torch.randn(6, 5, 3, 4) * 3).to(dtype)
    for banks in (
        [whole],
        [whole.transpose(0, 1)],
        list(whole.unflatten(0, (2, 3)).unbind(0)),
        [torch.zeros_like(whole)],
        [torch.randn(33, 17, 3, 3).to(dtype).to(memory_format=torch.channels_last)],
    ):
        before = [bank.clone() for bank in banks]
        found = over_scale(banks)
        expected = [unit_scale(banks[0])] if len(banks) == 1 else unit_scale(torch.stack(banks)).unbind(0)
        assert all(map(torch.equal, found.banks, expected))
        mean_square = torch.stack(banks).double().square().mean().item()
        assert (found.peak * found.scale).item() == pytest.approx(math.sqrt(mean_square) or 1, rel=1e-6)
        assert all(map(torch.equal, banks, before))
    assert over_scale([whole[:0]]).banks[0].shape == (0, 5, 3, 4)


def test_scale_free_gradient_is_orthogonal_to_the_weight(backend):
    w = double(4, 2, 3, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda w: pairwise_psi(w, scale_free=True, backend=backend), w, fast_mode=True)
    (grad,) = torch.autograd.grad(pairwise_psi(w, scale_free=True, backend=backend).sum(), w)
    assert float((grad * w.detach()).sum()) == pytest.approx(0, abs=1e-12)


# ---- redundancy and histogram ----------------------------------------------------------------------------------------


@given(seed=st.integers(0, 2**32 - 1), filters=st.integers(2, 12), eps=st.sampled_from([0.0, 1e-4, 1e-2]))
@settings(max_examples=25)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
@pytest.mark.exhaustive_on("triton")
def test_redundancy_is_exactly_the_share_above(seed, filters, eps, dtype, backend):
    generator = torch.Generator().manual_seed(seed)
    w = (torch.randn(filters, 3, 3, 3, generator=generator) * 0.1).to(dtype)
    w[-1] = w[0]
    packed = pairwise_psi(w, eps=eps, backend=backend)
    # the values themselves as thresholds: "strictly above" decides
    thresholds = torch.cat([packed.double().clamp(0, 1), torch.tensor([0.6, 0.0, 1.0, 0.6], dtype=torch.float64)])
    thresholds = thresholds[torch.randperm(len(thresholds), generator=generator)]
    curve = redundancy(w, thresholds, eps=eps, backend=backend)
    expected = (packed > thresholds.to(packed.dtype)[:, None]).double().mean(1)
    assert torch.equal(curve, expected)
    assert torch.equal(redundancy(w, float(thresholds[0]), eps=eps, backend=backend), expected[0])


@pytest.mark.parametrize("shape", [(), (1,), (4,), (2, 3), (0,), (2, 0)], ids=str)
def test_thresholds_of_any_shape(shape, backend):
    w = double(6, 2, 3, 3)
    thresholds = torch.rand(shape)
    curve = redundancy(w, thresholds, backend=backend)
    assert curve.shape == shape
    assert curve.dtype == torch.float64
    expected = [redundancy(w, float(t), backend=backend) for t in thresholds.flatten()]
    assert curve.flatten().tolist() == [float(value) for value in expected]


@pytest.mark.parametrize("threshold", [0, 1, 0.0, 1.0, 0.5, torch.tensor(0.5), np.float64(0.5), [0.5, 0.2]], ids=str)
def test_thresholds_of_any_kind(threshold, backend):
    w = double(6, 2, 3, 3)
    packed = pairwise_psi(w, backend=backend)
    t = torch.as_tensor(threshold, dtype=torch.float64)
    assert torch.equal(redundancy(w, threshold, backend=backend), (packed > t[..., None]).double().mean(-1))


def test_thresholds_may_be_non_contiguous_or_need_grad(backend):
    w = double(6, 2, 3, 3)
    thresholds = torch.rand(4, 6, dtype=torch.float64)
    expected = redundancy(w, thresholds, backend=backend)
    assert torch.equal(redundancy(w, thresholds.T, backend=backend), expected.T)
    assert torch.equal(redundancy(w, thresholds.clone().requires_grad_(), backend=backend), expected)


@pytest.mark.parametrize("filters", [0, 1])
def test_no_pairs_no_redundancy(filters, backend):
    w = double(filters, 2, 3, 3)
    assert redundancy(w, backend=backend) == 0
    assert redundancy(w, torch.rand(3), backend=backend).tolist() == [0, 0, 0]
    assert psi_histogram(w, 4, backend=backend).tolist() == [0, 0, 0, 0]
    assert pairwise_psi(w, backend=backend).shape == (0,)


def test_nan_makes_redundancy_nan_and_leaves_the_histogram(backend):
    w = double(6, 2, 3, 3)
    w[3] = math.inf
    assert redundancy(w, torch.tensor([0.2, 0.9]), backend=backend).isnan().all()
    assert psi_histogram(w, 10, backend=backend).sum() == 10
    assert torch.equal(psi_histogram(w, 10, backend=backend), psi_histogram(w[[0, 1, 2, 4, 5]], 10, backend=backend))


@pytest.mark.parametrize("bins", [1, 2, 50, 1000])
def test_histogram_bins_hold_their_upper_edge(bins, backend):
    w = torch.randn(20, 2, 3)
    w[1], w[2] = w[0], 0
    w[3] = 0
    packed = pairwise_psi(w, backend=backend)
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64)[1:-1].to(packed.dtype)
    expected = torch.bincount(torch.bucketize(packed, edges), minlength=bins)
    counts = psi_histogram(w, bins, backend=backend)
    assert counts.dtype == torch.int64
    assert torch.equal(counts, expected)


# ---- many banks ------------------------------------------------------------------------------------------------------


def expected_counts(bank: Tensor, edges: list[float]) -> list[int]:
    """Pairs in (-inf, e0], (e0, e1], ..., (e_last, inf) by the definition, and those that are NaN."""
    omega_of_bank = omega(bank, Psi())
    bounds = [-math.inf, *edges, math.inf]
    within = [((omega_of_bank > low) & (omega_of_bank <= high)).sum() for low, high in itertools.pairwise(bounds)]
    return [*map(int, within), int(omega_of_bank.isnan().sum())]


def banks_of_all_kinds() -> list[Tensor]:
    """Filter banks of many shapes, strides and dtypes, one with filters that are not finite, some without pairs."""
    spoilt = double(5, 2, 3, 3)
    spoilt[1], spoilt[3, 0, 0, 0] = math.inf, math.nan
    banks = [double(4, 2, 3, 3), double(1, 2, 3), double(3, 5).half(), spoilt, double(0, 2), double(6, 9).T[:, 1:4]]
    return [*banks, double(3, 2, 2).float(), double(4, 3, 1, 1).bfloat16(), double(5, 2, 5).half()]


def test_counts_of_banks_reach_the_definition(backend):
    banks, edges = banks_of_all_kinds(), [0.2, 0.5, 0.6]
    counts = counts_of_banks(banks, torch.tensor(edges, dtype=torch.float64), Similarity(), backend)
    assert counts.dtype == torch.int64
    assert counts.tolist() == [expected_counts(bank, edges) for bank in banks]
    leaves = [bank.clone().requires_grad_() for bank in banks]
    assert torch.equal(counts_of_banks(leaves, torch.tensor(edges), Similarity(), backend), counts)


@pytest.mark.parametrize("edges", [0, 3])
def test_counts_of_no_banks(edges, backend):
    counts = counts_of_banks([], torch.rand(edges).sort().values, Similarity(), backend)
    assert (counts.shape, counts.dtype) == ((0, edges + 2), torch.int64)


def test_banks_of_one_dtype_and_device_take_one_call(backend, monkeypatch):
    groups = []

    def counted(backend, *tensors):
        groups.append([tensor.dtype for tensor in tensors])
        return implementation(backend, *tensors)

    monkeypatch.setattr(functional, "implementation", counted)
    counts_of_banks(banks_of_all_kinds(), torch.tensor([0.5]), Similarity(), backend)
    assert groups == [[torch.float64] * 5, [torch.float16] * 2, [torch.float32], [torch.bfloat16]]
    # slices that Triton does not take stand apart, so that the others still can
    groups.clear()
    if backend != "triton":
        counts_of_banks([double(2, 1, 2**13 + 1), double(2, 1, 3)], torch.tensor([0.5]), Similarity(), backend)
        assert groups == [[torch.float64], [torch.float64]]


def test_counts_of_banks_compile_as_one_graph(backend):
    def counts(banks: list[Tensor], edges: Tensor) -> Tensor:
        return counts_of_banks(banks, edges, Similarity(eps=1e-2), backend) + 1

    torch._dynamo.reset()
    compiled = torch.compile(counts, fullgraph=True, backend="aot_eager")
    for filters in (2, 3):  # the second size makes the dimension dynamic
        banks, edges = [double(filters, 2, 3), torch.randn(2, 3, 2, 2), double(1, 3)], torch.tensor([0.2, 0.6])
        assert torch.equal(compiled(banks, edges), counts(banks, edges))


def test_counts_of_banks_on_the_meta_device():
    banks = [torch.empty(4, 2, 3, device="meta"), torch.empty(9, 3, 3, 3, device="meta", dtype=torch.float64)]
    counts = counts_of_banks(banks, torch.tensor([0.2, 0.6]), Similarity(), None)
    assert (counts.shape, counts.dtype, counts.device.type) == ((2, 4), torch.int64, "meta")


# ---- memory layouts --------------------------------------------------------------------------------------------------


def misaligned(w: torch.Tensor) -> torch.Tensor:
    buffer = torch.empty(w.numel() + 1, dtype=w.dtype)
    return buffer[1:].copy_(w.flatten()).view(w.shape)


LAYOUTS = {
    "channels last": lambda w: w.to(memory_format=torch.channels_last),
    "transposed": lambda w: w.transpose(0, 1).contiguous().transpose(0, 1),
    "positions outermost": lambda w: w.permute(2, 3, 0, 1).contiguous().permute(2, 3, 0, 1),
    "every second": lambda w: torch.stack([w, torch.full_like(w, math.nan)], -1).flatten(-2)[..., ::2],
    "every second filter": lambda w: torch.stack([w, torch.full_like(w, math.nan)], 1).flatten(0, 1)[::2],
    "flipped twice": lambda w: w.flip(3).contiguous().flip(3),
    "misaligned": misaligned,
    "inside a larger tensor": lambda w: nn.functional.pad(w, (1, 1, 2, 1, 1, 0), value=math.nan)[:, 1:, 2:-1, 1:-1],
}


@pytest.mark.exhaustive_on("triton")
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_memory_layouts(layout, dtype, backend):
    w = torch.randn(5, 4, 3, 3).to(dtype)
    other = LAYOUTS[layout](w)
    assert torch.equal(other, w)
    atol = 1e-12 if dtype == torch.float64 else 1e-6
    pairs = torch.tensor([[4, 0], [1, 2]])
    for function in (
        lambda w: pairwise_psi(w, eps=1e-2, backend=backend),
        lambda w: cross_psi(w, w[:3], eps=1e-2, backend=backend),
        lambda w: psi_of_pairs(w, pairs, eps=1e-2, backend=backend),
    ):
        plain, strided = w.clone().requires_grad_(), other.detach().requires_grad_()
        expected, actual = function(plain), function(strided)
        assert_same(actual, expected, atol)
        (expected,) = torch.autograd.grad(expected.sum(), plain)
        (actual,) = torch.autograd.grad(actual.sum(), strided)
        assert_same(actual.float(), expected.float(), 1e-2 if dtype == torch.bfloat16 else 1e-5)
    assert torch.equal(redundancy(other, 0.3, backend=backend), redundancy(w, 0.3, backend=backend))


def test_expanded_weights(backend):
    filters = double(1, 3, 3, 3).expand(4, 3, 3, 3)
    assert_same(pairwise_psi(filters, backend=backend), torch.ones(6))
    slices = double(4, 1, 3, 3).expand(4, 5, 3, 3)
    assert_same(pairwise_psi(slices, backend=backend), omega(slices[:, :1], Psi()))
    positions = double(4, 3, 1, 1).expand(4, 3, 3, 3)
    assert_same(pairwise_psi(positions, backend=backend), omega(positions[..., :1, :1], Psi()))
    row = double(4, 3, 1, 3).expand(4, 3, 3, 3)
    assert_same(pairwise_psi(row, backend=backend), omega(row, Psi()))


@pytest.mark.parametrize("tail", [(), (1,), (9,), (3, 3), (1, 3, 3), (3, 1, 3)], ids=str)
def test_the_shape_of_the_positions_does_not_matter(tail, backend):
    w = double(4, 3, *tail)
    expected = omega(w.reshape(4, 3, -1), Psi())
    assert_same(pairwise_psi(w, backend=backend), expected)


# ---- autograd and autocast -------------------------------------------------------------------------------------------


def test_grad_is_tracked_only_when_asked(backend):
    w = double(4, 2, 3)
    assert not pairwise_psi(w, backend=backend).requires_grad
    w.requires_grad_()
    assert pairwise_psi(w, backend=backend).requires_grad
    assert not pairwise_psi(w.detach(), backend=backend).requires_grad
    assert not redundancy(w, backend=backend).requires_grad
    assert not psi_histogram(w, backend=backend).requires_grad
    with torch.no_grad():
        assert not pairwise_psi(w, backend=backend).requires_grad
    with torch.inference_mode():
        inferred = pairwise_psi(w, backend=backend)
        assert inferred.is_inference()
    assert_same(inferred, pairwise_psi(w, backend=backend).detach())


def test_cross_gives_gradients_to_those_that_need_them(backend):
    a, b = double(3, 2, 3), double(4, 2, 3)
    grad = double(3, 4)
    both = [t.clone().requires_grad_() for t in (a, b)]
    expected = torch.autograd.grad(cross_psi(*both, backend="reference"), both, grad)
    for needed in ((True, False), (False, True), (True, True)):
        inputs = [t.clone().requires_grad_(n) for t, n in zip((a, b), needed, strict=True)]
        cross_psi(*inputs, backend=backend).backward(grad)
        for tensor, gradient in zip(inputs, expected, strict=True):
            if tensor.requires_grad:
                assert_same(tensor.grad, gradient, 1e-11)
            else:
                assert tensor.grad is None
    same = a.clone().requires_grad_()
    cross_psi(same, same, backend=backend).sum().backward()
    assert torch.autograd.gradcheck(lambda w: cross_psi(w, w, backend=backend), same, fast_mode=True)


def test_gradients_accumulate(backend):
    w = double(4, 2, 3).requires_grad_()
    packed = pairwise_psi(w, backend=backend)
    packed.sum().backward(retain_graph=True)
    once = w.grad.clone()
    packed.sum().backward()
    assert_same(w.grad, 2 * once)


def test_incoming_gradients_of_any_stride(backend):
    w = double(5, 2, 3).requires_grad_()
    packed = pairwise_psi(w, backend=backend)
    for grad in (double(1).expand(10), double(20)[::2], double(3, 10).T[:, 1]):
        (expected,) = torch.autograd.grad(packed, w, grad.contiguous(), retain_graph=True)
        (actual,) = torch.autograd.grad(packed, w, grad, retain_graph=True)
        assert_same(actual, expected)
    square = cross_psi(w, w.detach(), backend=backend)
    for grad in (double(1, 1).expand(5, 5), double(5, 5).T, double(5, 10)[:, ::2], double(5).expand(5, 5)):
        (expected,) = torch.autograd.grad(square, w, grad.contiguous(), retain_graph=True)
        (actual,) = torch.autograd.grad(square, w, grad, retain_graph=True)
        assert_same(actual, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_leaves_the_result_float32(dtype, backend):
    w = torch.randn(5, 3, 3, 3, requires_grad=True)
    pairs = torch.tensor([[0, 1]])
    expected = pairwise_psi(w, backend=backend)
    with torch.autocast("cpu", dtype=dtype):
        actual = pairwise_psi(w, backend=backend)
        listed = psi_of_pairs(w, pairs, backend=backend)
        square = cross_psi(w, w, backend=backend)
    assert actual.dtype == listed.dtype == square.dtype == torch.float32
    assert torch.equal(actual, expected)
    (under_autocast,) = torch.autograd.grad(actual.sum(), w)
    (plain,) = torch.autograd.grad(expected.sum(), w)
    assert torch.equal(under_autocast, plain)


def test_a_weight_is_never_changed(backend):
    w = double(5, 3, 3, 3).requires_grad_()
    before, version = w.detach().clone(), w._version
    pairwise_psi(w, scale_free=True, backend=backend).sum().backward()
    redundancy(w, backend=backend)
    assert torch.equal(w, before)
    assert w._version == version


@pytest.mark.exhaustive_on("triton")
def test_training_on_psi_separates_filters(backend):
    w = torch.randn(6, 3, 3, 3) * 0.1
    w[3:] = w[:3] + 0.001 * torch.randn(3, 3, 3, 3)
    w = nn.Parameter(w)
    optimiser = torch.optim.Adam([w], lr=0.01)
    assert redundancy(w, backend=backend) > 0
    for _ in range(60):
        optimiser.zero_grad()
        pairwise_psi(w, backend=backend).relu().square().mean().backward()
        optimiser.step()
    assert redundancy(w, backend=backend) == 0


@pytest.mark.exhaustive_on("triton")
@pytest.mark.parametrize("reentrant", [False, True])
def test_gradients_inside_a_checkpoint(reentrant, backend):
    a, b, pairs = double(5, 2, 3), double(3, 2, 3), torch.tensor([[0, 1], [3, 2]])
    for function in (
        lambda w: pairwise_psi(w, backend=backend).square().sum(),
        lambda w: cross_psi(w, b, backend=backend).square().sum(),
        lambda w: psi_of_pairs(w, pairs, backend=backend).square().sum(),
    ):
        expected, within = (a.clone().requires_grad_() for _ in range(2))
        function(expected).backward()
        checkpoint(function, within, use_reentrant=reentrant).backward()
        assert_same(within.grad, expected.grad)


# ---- torch.func ------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("backend", ["cpu", "triton"])  # in plain PyTorch, counting is no operator that vmap can take
def test_vmap_counts_as_a_loop(backend, cpu_kernels):
    stack, thresholds = torch.randn(3, 5, 2, 3), torch.tensor([0.2, 0.5])
    for function in (
        lambda w: redundancy(w, thresholds, backend=backend),
        lambda w: psi_histogram(w, 7, backend=backend),
    ):
        assert_same(torch.func.vmap(function)(stack), torch.stack([function(w) for w in stack]))


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_vmap_is_a_loop(backend):
    stack, pairs = double(3, 4, 2, 3), torch.tensor([[0, 1], [3, 2]])
    for function in (
        lambda w: pairwise_psi(w, backend=backend),
        lambda w: pairwise_psi(w, layout="square", scale_free=True, backend=backend),
        lambda w: cross_psi(w, stack[0], backend=backend),
        lambda w: psi_of_pairs(w, pairs, backend=backend),
    ):
        assert_same(torch.func.vmap(function)(stack), torch.stack([function(w) for w in stack]))


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_reverse_mode_transforms_are_right_or_refused(backend):
    w, other, pairs = double(4, 2, 3), double(3, 2, 3), torch.tensor([[0, 1], [3, 2]])
    for function in (
        lambda w: pairwise_psi(w, scale_free=True, backend=backend).sum(),
        lambda w: cross_psi(other, w, backend=backend).sum(),
        lambda w: psi_of_pairs(w, pairs, backend=backend).sum(),
    ):
        leaf = w.clone().requires_grad_()
        function(leaf).backward()
        try:
            assert_same(torch.func.grad(function)(w), leaf.grad)
            assert_same(torch.func.vmap(torch.func.grad(function))(w[None]), leaf.grad[None])
        except NotImplementedError as error:
            assert 'backend="reference" has' in str(error)  # noqa: PT017
            assert backend != "reference"
            with pytest.raises(NotImplementedError, match=r"torch\.func"):
                torch.func.grad(lambda stack, f=function: torch.func.vmap(f)(stack).sum())(w[None])
        # what is not differentiated needs no derivative
        assert torch.func.grad(lambda t, f=function: t * f(w))(torch.tensor(2.0)) == pytest.approx(function(w).item())


def test_the_hessian_of_the_reference():
    w = double(3, 2, 3)

    def function(flat: Tensor) -> Tensor:
        return pairwise_psi(flat.view_as(w), backend="reference").sum()

    expected = torch.autograd.functional.hessian(function, w.flatten())
    torch.testing.assert_close(torch.func.hessian(function)(w.flatten()), expected)


@pytest.mark.parametrize("make_dual", ["torch.func.jvp", "torch.autograd.forward_ad"])
def test_forward_mode_is_right_or_refused(make_dual, backend):
    """A kernel without a forward-mode derivative must not pass for a constant."""
    a, b, pairs = double(4, 2, 3), double(3, 2, 3), torch.tensor([[0, 1], [3, 2]])
    for function, w in (
        (lambda w: pairwise_psi(w, backend=backend), a),
        (lambda w: pairwise_psi(w, scale_free=True, backend=backend), a),
        (lambda w: cross_psi(w, b, backend=backend), a),
        (lambda w: cross_psi(a, w, backend=backend), b),
        (lambda w: psi_of_pairs(w, pairs, backend=backend), a),
    ):
        direction = torch.randn_like(w)
        try:
            if make_dual == "torch.func.jvp":
                _, tangent = torch.func.jvp(function, (w,), (direction,))
            else:
                with forward_ad.dual_level():
                    dual = forward_ad.make_dual(w, direction)
                    tangent = forward_ad.unpack_dual(function(dual)).tangent
        except NotImplementedError as error:
            assert "backend" in str(error)  # noqa: PT017
            continue
        step = 1e-6
        expected = (function(w + step * direction) - function(w - step * direction)) / (2 * step)
        torch.testing.assert_close(tangent, expected, rtol=1e-5, atol=1e-6)
