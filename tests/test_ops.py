from __future__ import annotations

import math
import os
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from compare import check_counts, check_cross, check_pairs, check_pairwise, ops, poisoned
from definition import Psi
from tolerances import gradient_allowance, packed_to_square, psi_allowance
from torch._subclasses.fake_tensor import FakeTensorMode

from ckrm_kernels import cross_psi, pairwise_psi, psi_of_pairs, reference
from ckrm_kernels.ops import result_dtype

pytestmark = pytest.mark.usefixtures("cpu_kernels")

DEFAULT = Psi()
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]

NAMES = [
    "pairwise_psi",
    "pairwise_psi_backward",
    "cross_psi",
    "cross_psi_backward",
    "psi_of_pairs",
    "psi_of_pairs_backward",
    "psi_counts",
]

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
    (33, 33, 3, 3),
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
EPSILONS = [0.0, 1e-12, 1e-4, 1e-2]


def weight(shape: tuple[int, ...], dtype: torch.dtype = torch.float32, scale: float = 0.1, seed: int = 0):
    """Random filters; where there are enough, some repeat, some are flipped, constant or zero."""
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(shape, dtype=torch.float64, generator=generator) * scale + 0.05 * scale
    if shape[0] >= 5:
        w[1], w[2] = w[0], -w[0]
        w[3, :1] = 0.3 * scale
        w[4, -1:] = 0
    return w.to(dtype)


def some_pairs(filters: int, count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    i = torch.randint(filters, (count,), generator=generator)
    step = torch.randint(1, filters, (count,), generator=generator)
    return torch.stack([i, (i + step) % filters], 1)


def check_all(w: torch.Tensor, psi: Psi) -> None:
    check_pairwise(w, psi)
    check_cross(w[: w.shape[0] // 2 + 1], w[w.shape[0] // 3 :], psi)
    check_pairs(w, some_pairs(w.shape[0], 67), psi)
    check_counts(w, torch.tensor([0.1, 0.35, 0.6, 0.95], dtype=result_dtype(w.dtype)), psi)


# ---- values and gradients --------------------------------------------------------------------------------------------


def test_poison_reaches_the_memory():
    with poisoned():
        assert torch.empty(8).isnan().all()
        assert torch.randn(2).new_empty(8).isnan().all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shapes(shape, dtype):
    check_all(weight(shape, dtype), DEFAULT)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", WIDE_SHAPES, ids=str)
def test_wide_shapes(shape, dtype):
    check_pairwise(weight(shape, dtype), DEFAULT)
    check_counts(weight(shape, dtype), torch.tensor([0.2, 0.6], dtype=dtype), DEFAULT)


@pytest.mark.parametrize(("left", "right"), [(1, 1), (1, 300), (300, 1), (2, 67), (67, 33), (8, 16), (130, 131)])
def test_cross_shapes(left, right):
    check_cross(weight((left, 3, 3, 3)), weight((right, 3, 3, 3), seed=1), DEFAULT)


@pytest.mark.parametrize("count", [1, 2, 63, 64, 65, 128, 1001])
def test_numbers_of_pairs(count):
    check_pairs(weight((33, 9, 3, 3)), some_pairs(33, count), DEFAULT)
    check_pairs(weight((33, 9, 3, 3)), torch.tensor([[7, 3]]).expand(count, 2), DEFAULT)  # one pair again and again


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("eps", EPSILONS)
@pytest.mark.parametrize("exponents", EXPONENTS, ids=str)
def test_exponents_and_eps(exponents, eps, dtype):
    psi = Psi(*(float(p) for p in exponents), eps)
    check_all(weight((9, 3, 3, 3), dtype), psi)
    check_all(weight((5, 9, 1), dtype, seed=1), psi)
    check_all(weight((6, 2, 2), dtype, seed=2), psi)


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


@pytest.mark.parametrize("eps", [1e-300, 1e-200, 1e-45, 1e-30, 1e-20, 1e10, 1e30, 1e150])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_eps(eps, dtype):
    check_all(weight((9, 5, 3, 3), dtype), Psi(eps=eps))


@pytest.mark.parametrize("eps", [5e-324, 1e-310])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_subnormal_eps(eps, dtype):
    """1 / eps is infinite: whether it then counts as 0 decides the gradient of dead slices, which stays finite."""
    w, pairs = weight((9, 5, 3, 3), dtype), some_pairs(9, 20)
    expected = ops.pairwise_psi(w, *Psi(eps=0.0))
    torch.testing.assert_close(ops.pairwise_psi(w, *Psi(eps=eps)), expected, rtol=0, atol=1e-6)
    grads = torch.randn(36, dtype=dtype), torch.randn(9, 9, dtype=dtype), torch.randn(20, dtype=dtype)
    assert ops.pairwise_psi_backward(grads[0], w, *Psi(eps=eps)).isfinite().all()
    assert all(of.isfinite().all() for of in ops.cross_psi_backward(grads[1], w, w, *Psi(eps=eps)))
    assert ops.psi_of_pairs_backward(grads[2], w, pairs, *Psi(eps=eps)).isfinite().all()


@pytest.mark.parametrize("exponent", [1e-6, 0.999999, 1.000001, 20.0])
def test_extreme_exponents(exponent):
    check_all(weight((9, 5, 3, 3)), Psi(exponent, exponent, exponent))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("eps", [0.0, 1e-4])
def test_degenerate_slices(eps, dtype):
    """Zero, constant, repeated, flipped and uncorrelated slices, and means of exactly zero, all against all."""
    rows = [
        [0, 0, 0, 0],
        [1, 1, 1, 1],
        [-1, -1, -1, -1],
        [0.5, 0.5, 0.5, 0.5],
        [1, -1, 1, -1],
        [1, 1, -1, -1],
        [1, 2, 3, 4],
        [4, 3, 2, 1],
        [-1, -2, -3, -4],
        [1, 2, 3, 4],
        [1, 0, 0, 0],
    ]
    w = torch.tensor(rows, dtype=dtype)[:, None]
    for exponents in EXPONENTS:
        check_all(w, Psi(*(float(p) for p in exponents), eps))
    check_all(torch.cat([w, w.flip(0), w.roll(1, 0)], 1), Psi(eps=eps))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [1 / 3, 0.1, 7e-7, 1e4])
def test_a_constant_slice_has_no_contrast_whatever_its_value(value, dtype):
    w = torch.full((6, 3, 7, 7), value, dtype=dtype) * torch.arange(1, 7, dtype=dtype).view(-1, 1, 1, 1)
    assert ops.pairwise_psi(w, 0.0, 1.0, 1.0, 0.0).eq(1).all()
    assert ops.pairwise_psi_backward(torch.ones(15, dtype=result_dtype(dtype)), w, 0.0, 1.0, 1.0, 0.0).eq(0).all()


@pytest.mark.parametrize("shape", [(40, 33, 3, 3), (70, 100, 3)], ids=str)
@pytest.mark.parametrize("edges", [[0.99], [0.01], [0.0], [1.0], [0.0, 1.0], [0.5, 0.5], [0.2, 0.21, 0.22]], ids=str)
def test_counts_decided_early_are_exact(shape, edges):
    w = weight(shape, scale=1.0)
    w[10:20] = w[:10] + 0.01 * w[20:30]
    check_counts(w, torch.tensor(edges), DEFAULT)
    w[5, 3] = math.nan
    check_counts(w, torch.tensor(edges), DEFAULT)


def test_counts_with_many_edges_on_the_values():
    w = weight((30, 5, 3, 3))
    check_counts(w, ops.pairwise_psi(w, *DEFAULT).sort().values, DEFAULT)
    check_counts(w, torch.linspace(0, 1, 1001), DEFAULT)


def test_counts_without_edges():
    assert ops.psi_counts(weight((9, 2, 3)), torch.zeros(0), *DEFAULT).tolist() == [36, 0]


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
            assert torch.equal(ops.pairwise_psi(w, *psi).isnan(), nan[i] | nan[j])
            assert torch.equal(ops.cross_psi(w, w[2:4], *psi).isnan(), nan[:, None] | nan[2:4])
            assert torch.equal(ops.psi_of_pairs(w, torch.stack([i, j], 1), *psi).isnan(), nan[i] | nan[j])
        finite = w[~nan]
        i, j = torch.triu_indices(len(finite), len(finite), 1)
        kept = torch.arange(shape[0])[~nan]
        square = torch.full((shape[0], shape[0]), math.nan, dtype=result_dtype(dtype))
        rows, columns = torch.triu_indices(shape[0], shape[0], 1)
        square[rows, columns] = ops.pairwise_psi(w, *psi)
        assert torch.equal(square[kept[i], kept[j]], ops.pairwise_psi(finite, *psi))
        # a list that avoids them has a finite gradient
        pairs = torch.stack([kept[i], kept[j]], 1)
        grad = torch.ones(len(pairs), dtype=result_dtype(dtype))
        of_weight = ops.psi_of_pairs_backward(grad, w, pairs, *psi)
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


def strided(w: torch.Tensor) -> dict[str, torch.Tensor]:
    """The same filters (F2, F1, 3, 3) in other memory."""
    buffer = torch.full((w.numel() + 1,), math.nan, dtype=w.dtype)
    buffer[1:] = w.flatten()
    return {
        "misaligned": buffer[1:].view(w.shape),
        "channels last": w.to(memory_format=torch.channels_last),
        "transposed": w.transpose(0, 1).contiguous().transpose(0, 1),
        "positions outermost": w.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0),
        "every second": torch.stack([w, torch.full_like(w, math.nan)], -1).flatten(-2)[..., ::2],
        "padded": torch.nn.functional.pad(w, (1, 1, 2, 1, 1, 0), value=math.nan)[:, 1:, 2:-1, 1:-1],
    }


@pytest.mark.parametrize("dtype", DTYPES)
def test_strides_do_not_change_a_bit(dtype):
    w = weight((19, 5, 3, 3), dtype)
    pairs, edges = some_pairs(19, 70), torch.tensor([0.3, 0.6], dtype=result_dtype(dtype))
    grads = [torch.randn(n, dtype=result_dtype(dtype)) for n in ((171,), (19, 19), (70,))]

    def results(w, pairs, grads):
        with poisoned():
            return [
                ops.pairwise_psi(w, *DEFAULT),
                ops.cross_psi(w, w, *DEFAULT),
                ops.psi_of_pairs(w, pairs, *DEFAULT),
                ops.psi_counts(w, edges, *DEFAULT),
                ops.pairwise_psi_backward(grads[0], w, *DEFAULT),
                *ops.cross_psi_backward(grads[1], w, w, *DEFAULT),
                ops.psi_of_pairs_backward(grads[2], w, pairs, *DEFAULT),
            ]

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
    memory = torch.empty(4 * stride, dtype=torch.float16)
    w = memory.as_strided((4, 2, 3), (stride, 7, 2))
    values = torch.randn(4, 2, 3).half()
    w.copy_(values)
    assert torch.equal(ops.pairwise_psi(w, *DEFAULT), ops.pairwise_psi(values, *DEFAULT))
    pairs = torch.tensor([[0, 3], [3, 1]])
    assert torch.equal(ops.psi_of_pairs(w, pairs, *DEFAULT), ops.psi_of_pairs(values, pairs, *DEFAULT))


def test_more_pairs_than_torch_pdist_can_differentiate():
    """torch.pdist's backward fails above N = 1448; 1500 and a smooth psi, so that nothing is ill-conditioned."""
    w, psi = torch.rand(1500, 1, 2) + 0.5, Psi(1.0, 1.0, 2.0, 1e-2)
    exact = w.double()[:, 0].requires_grad_()
    i, j = torch.triu_indices(1500, 1500, 1)
    expected = reference.psi(exact[:, None], exact[None], *psi)[i, j]
    packed = ops.pairwise_psi(w, *psi)
    torch.testing.assert_close(packed.double(), expected.detach(), rtol=0, atol=1e-5)
    grad = torch.randn(len(i))
    (expected,) = torch.autograd.grad(expected, exact, grad.double())
    actual = ops.pairwise_psi_backward(grad, w, *psi)[:, 0].double()
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


def test_more_pairs_than_32_bits_count():
    filters = 65_600
    assert filters * (filters - 1) // 2 > 2**31
    w = torch.zeros(filters, 1, 1)
    w[7] = math.nan
    counts = ops.psi_counts(w, torch.tensor([0.5]), 0.0, 1.0, 1.0, 1e-4).tolist()
    assert counts == [0, (filters - 1) * (filters - 2) // 2, filters - 1]


# ---- the same bits every time ----------------------------------------------------------------------------------------


def everything(w: torch.Tensor, psi: Psi) -> list[torch.Tensor]:
    """The results of all operators on w, with fixed gradients."""
    filters, dtype = w.shape[0], result_dtype(w.dtype)
    half, pairs = w[: filters // 2], some_pairs(filters, 3 * filters)
    generator = torch.Generator().manual_seed(1)
    shapes = (filters * (filters - 1) // 2,), (filters // 2, filters), (3 * filters,)
    grads = [torch.randn(shape, dtype=dtype, generator=generator) for shape in shapes]
    edges = torch.tensor([0.1, 0.3, 0.6], dtype=dtype)
    return [
        ops.pairwise_psi(w, *psi),
        ops.cross_psi(half, w, *psi),
        ops.psi_of_pairs(w, pairs, *psi),
        ops.psi_counts(w, edges, *psi),
        ops.pairwise_psi_backward(grads[0], w, *psi),
        *ops.cross_psi_backward(grads[1], half, w, *psi),
        ops.psi_of_pairs_backward(grads[2], w, pairs, *psi),
    ]


CASES = [
    (weight((130, 33, 3, 3)), DEFAULT),
    (weight((65, 9, 3, 3), torch.float64), DEFAULT),
    (weight((33, 17, 7, 7), torch.bfloat16), Psi(0.5, 2.0, 0.5, 1e-6)),
    (weight((200, 40, 1)), DEFAULT),
    (weight((40, 5, 2)), Psi(eps=0.0)),
]


@pytest.mark.parametrize("case", range(len(CASES)))
def test_bitwise_the_same_whatever_the_threads(case, threads):
    threads(1)
    expected = everything(*CASES[case])
    for count in (1, 2, 3, 4, 4):
        threads(count)
        noise = [torch.full((n,), math.nan) for n in (100, 10_000, 1_000_000)]
        del noise  # freed memory full of NaN, for whoever takes it next
        with poisoned():
            actual = everything(*CASES[case])
        for a, e in zip(actual, expected, strict=True):
            assert torch.equal(a, e), f"{count} threads"


def test_calls_from_several_threads_at_once():
    expected = [everything(*case) for case in CASES]
    with ThreadPoolExecutor(4) as pool:
        for case, actual in enumerate(pool.map(lambda k: everything(*CASES[k]), list(range(len(CASES))) * 4)):
            for a, e in zip(actual, expected[case % len(CASES)], strict=True):
                assert torch.equal(a, e)


def run_everything(tmp_path: Path, **environment: str) -> list[list[torch.Tensor]]:
    """`everything` on CASES in a process of its own, under other environment variables."""
    script = f"""
        import sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        import torch, test_ops
        from ckrm_kernels import native
        assert native.load_cpu(), native.cpu_failure()
        torch.save([test_ops.everything(*case) for case in test_ops.CASES], sys.argv[1])
    """
    out = tmp_path / "results.pt"
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(out)],
        env={**os.environ, **environment},
        cwd=Path(__file__).parent.parent,
        check=True,
    )
    return torch.load(out)


def test_bitwise_independent_of_what_malloc_returns(tmp_path):
    """glibc fills what it hands out with one byte and what it takes back with its complement."""
    for actual, case in zip(run_everything(tmp_path, MALLOC_PERTURB_="65"), CASES, strict=True):
        for a, e in zip(actual, everything(*case), strict=True):
            assert torch.equal(a, e)


@pytest.mark.parametrize("capability", ["default", "avx2"])
def test_every_instruction_set(capability, tmp_path):
    for (w, psi), actual in zip(CASES, run_everything(tmp_path, ATEN_CPU_CAPABILITY=capability), strict=True):
        for number, (a, e) in enumerate(zip(actual, everything(w, psi), strict=True)):
            if number == 3:  # counts: values on either side of an edge may change places
                assert a.sum() == e.sum()
                assert (a - e).abs().sum() <= 1e-3 * e.sum()
            elif number < 4:
                assert (a - e).abs().max() <= (1e-11 if w.dtype == torch.float64 else 1e-4)
            else:
                atol = 1e-9 if w.dtype == torch.float64 else 1e-2
                assert (a.double() - e.double()).abs().median() <= atol * e.double().abs().max()


# ---- memory ----------------------------------------------------------------------------------------------------------


MEBIBYTE = 2**20


def memory(field: str) -> int:
    """A size of this process, in bytes: VmRSS now, VmHWM at its peak."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split(field + ":")[1].split()[0])


def peak_growth(call) -> int:
    """Bytes that a call takes at its peak, its result included."""
    call()
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    except OSError:
        pytest.skip("this system does not tell a process its peak memory")
    before = memory("VmRSS")
    call()
    return memory("VmHWM") - before


def test_counts_use_no_memory_that_grows_with_the_pairs():
    w, edges = torch.randn(6000, 2, 3), torch.tensor([0.6])  # Omega would take 69 MiB
    assert peak_growth(lambda: ops.psi_counts(w, edges, *DEFAULT)) < 8 * MEBIBYTE


@pytest.mark.parametrize("name", NAMES)
def test_peak_memory_is_at_most_twice_the_weight(name):
    """Beyond inputs and outputs: 18 MiB of weight, few pairs."""
    w, pairs, grad = torch.randn(64, 8192, 3, 3), torch.tensor([[0, 1], [1, 2]]), torch.randn(2016)
    call, outputs = {
        "pairwise_psi": (lambda: ops.pairwise_psi(w, *DEFAULT), 0),
        "pairwise_psi_backward": (lambda: ops.pairwise_psi_backward(grad, w, *DEFAULT), 1),
        "cross_psi": (lambda: ops.cross_psi(w[:32], w[32:], *DEFAULT), 0),
        "cross_psi_backward": (lambda: ops.cross_psi_backward(grad[:1024].view(32, 32), w[:32], w[32:], *DEFAULT), 1),
        "psi_of_pairs": (lambda: ops.psi_of_pairs(w, pairs, *DEFAULT), 0),
        "psi_of_pairs_backward": (lambda: ops.psi_of_pairs_backward(grad[:2], w, pairs, *DEFAULT), 1),
        "psi_counts": (lambda: ops.psi_counts(w, torch.tensor([0.6]), *DEFAULT), 0),
    }[name]
    assert peak_growth(call) < (2 + outputs) * w.numel() * 4 + 4 * MEBIBYTE


# ---- torch.library ---------------------------------------------------------------------------------------------------


def arguments(name: str, dtype: torch.dtype, shape: tuple[int, ...], requires_grad: bool = True) -> tuple:
    """Arguments of an operator by its name."""
    w, result = weight(shape, dtype, 1.0), result_dtype(dtype)
    b, pairs, filters = weight((3, *shape[1:]), dtype, 1.0, seed=3), some_pairs(shape[0], 7), shape[0]
    w.requires_grad_(requires_grad)
    b.requires_grad_(requires_grad)
    return {
        "pairwise_psi": (w,),
        "pairwise_psi_backward": (torch.randn(filters * (filters - 1) // 2, dtype=result), w.detach()),
        "cross_psi": (w, b),
        "cross_psi_backward": (torch.randn(filters, 3, dtype=result), w.detach(), b.detach()),
        "psi_of_pairs": (w, pairs),
        "psi_of_pairs_backward": (torch.randn(7, dtype=result), w.detach(), pairs),
        "psi_counts": (w.detach(), torch.tensor([0.2, 0.6], dtype=result)),
    }[name] + tuple(DEFAULT)


@pytest.mark.parametrize("name", NAMES)
def test_opcheck(name):
    operator = getattr(ops, name).default
    result = torch.library.opcheck(operator, arguments(name, torch.float32, (4, 2, 3)))
    assert set(result.values()) == {"SUCCESS"}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_fake_and_meta_results_look_like_real_ones(name, dtype):
    operator = getattr(ops, name)

    def looks(result):
        results = result if isinstance(result, (tuple, list)) else (result,)
        return [(r.shape, r.stride(), r.dtype, r.is_contiguous()) for r in results]

    for shape in ((5, 3, 3, 3), (4, 2), (2, 1, 1)):
        plain = arguments(name, dtype, shape, requires_grad=False)
        variants = [plain]
        if len(shape) == 4:
            variants.append(
                tuple(
                    x.to(memory_format=torch.channels_last) if isinstance(x, torch.Tensor) and x.dim() == 4 else x
                    for x in plain
                )
            )
        for args in variants:
            real = looks(operator(*args))
            meta = looks(operator(*(x.to("meta") if isinstance(x, torch.Tensor) else x for x in args)))
            with FakeTensorMode() as mode:
                fake = looks(operator(*(mode.from_tensor(x) if isinstance(x, torch.Tensor) else x for x in args)))
            assert real == meta == fake


@pytest.mark.parametrize("psi", [DEFAULT, Psi(1.0, 0.5, 2.0, 1e-2), Psi(0.5, 0.5, 0.5, 0.0)], ids=str)
@pytest.mark.parametrize("shape", [(5, 3, 3, 3), (4, 9, 2), (5, 3)], ids=str)
def test_gradcheck(shape, psi):
    w = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    b = torch.randn(3, *shape[1:], dtype=torch.float64, requires_grad=True)
    pairs = some_pairs(shape[0], 6)
    assert torch.autograd.gradcheck(lambda w: ops.pairwise_psi(w, *psi), w)
    assert torch.autograd.gradcheck(lambda w, b: ops.cross_psi(w, b, *psi), (w, b))
    assert torch.autograd.gradcheck(lambda w: ops.psi_of_pairs(w, pairs, *psi), w)


FUNCTIONS = {
    "pairwise_psi": lambda w: pairwise_psi(w),
    "square": lambda w: pairwise_psi(w, layout="square"),
    "scale_free": lambda w: pairwise_psi(w, scale_free=True, alpha=1.0),
    "cross_psi": lambda w: cross_psi(w, w[:2]),
    "psi_of_pairs": lambda w: psi_of_pairs(w, torch.tensor([[0, 1], [2, 0]])),
    "in a loss": lambda w: (pairwise_psi(w * 2).relu() - 0.3).square().mean() + w.sum(),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_compiles_as_one_graph(name):
    torch._dynamo.reset()
    compiled = torch.compile(FUNCTIONS[name], fullgraph=True, backend="aot_eager")
    for filters in (5, 7, 9):  # the second size makes the dimension dynamic
        w = weight((filters, 3, 3, 3), torch.float64).requires_grad_()
        expected, actual = FUNCTIONS[name](w), compiled(w)
        torch.testing.assert_close(actual, expected)
        grad = torch.randn_like(expected)
        (expected,) = torch.autograd.grad(expected, w, grad)
        (actual,) = torch.autograd.grad(actual, w, grad)
        torch.testing.assert_close(actual, expected)


def test_compiles_a_module_as_one_graph():
    torch._dynamo.reset()
    conv = torch.nn.Conv2d(4, 6, 3, groups=2)
    compiled = torch.compile(lambda m: pairwise_psi(m).sum(), fullgraph=True, backend="aot_eager")
    compiled(conv).backward()
    actual, conv.weight.grad = conv.weight.grad, None
    pairwise_psi(conv).sum().backward()
    torch.testing.assert_close(actual, conv.weight.grad)


def test_compiles_with_inductor():
    torch._dynamo.reset()
    w = weight((7, 3, 3, 3)).requires_grad_()
    expected, actual = pairwise_psi(w), torch.compile(pairwise_psi, fullgraph=True)(w)
    assert torch.equal(actual, expected)
    grad = torch.randn_like(expected)
    assert torch.equal(torch.autograd.grad(actual, w, grad)[0], torch.autograd.grad(expected, w, grad)[0])


@pytest.mark.parametrize("name", ["pairwise_psi", "cross_psi", "psi_of_pairs"])
def test_double_backward_refuses(name):
    args = arguments(name, torch.float64, (5, 3, 3, 3))
    out = getattr(ops, name)(*args)
    (grad,) = torch.autograd.grad(out.sum(), args[0], create_graph=True)
    with pytest.raises(NotImplementedError, match=r"no double backward.*backend='reference'"):
        grad.sum().backward()


@pytest.mark.parametrize("name", ["pairwise_psi", "cross_psi", "psi_of_pairs"])
def test_changing_a_saved_weight_in_place_raises(name):
    args = arguments(name, torch.float64, (5, 3, 3, 3), requires_grad=False)
    leaf = args[0].clone().requires_grad_()
    w = leaf * 1
    out = getattr(ops, name)(w, *args[1:])
    w.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()
