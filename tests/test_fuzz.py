"""All operators against the float64 reference on whatever hypothesis finds: shapes, strides, dtypes, exponents, eps."""

from __future__ import annotations

import math

import pytest
import torch
from compare import DTYPES, all_pairs, check_counts, check_cross, check_pairs, check_pairwise, ops
from definition import Psi
from hypothesis import given, settings
from hypothesis import strategies as st

from ckrm_kernels.ops import result_dtype

pytestmark = pytest.mark.usefixtures("cpu_kernels")

TAILS = [(), (1,), (2,), (3,), (5,), (9,), (1, 1), (2, 2), (3, 3), (3, 1), (4, 4), (5, 5), (7, 7), (2, 3, 3), (3, 3, 3)]

exponents = st.sampled_from([0.0, 0.1, 0.5, 1.0, 2.0, 2.5]) | st.floats(0, 4)
epsilons = st.sampled_from([0.0, 1e-12, 1e-8, 1e-4, 1e-2]) | st.floats(1e-12, 1e-2)
psis = st.one_of(
    st.builds(Psi, st.just(0.1), st.just(1.0), st.just(1.0), epsilons),
    st.builds(Psi, exponents, st.just(1.0), st.just(1.0), epsilons),  # beta = gamma = 1 has kernels of its own
    st.builds(Psi, exponents, exponents, exponents, epsilons),
)


@st.composite
def banks(draw, filters=(2, 40), tail=None, slices=None, dtype=None):
    """Filter banks (F2, F1, *K) of any strides and offset, with special slices and repeated filters among them."""
    shape = (
        draw(st.integers(*filters)),
        draw(st.integers(1, 12)) if slices is None else slices,
        *(draw(st.sampled_from(TAILS)) if tail is None else tail),
    )
    dtype = draw(st.sampled_from(DTYPES)) if dtype is None else dtype
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    scale = draw(st.sampled_from([1e-3, 1e-1, 1.0, 10.0] + ([] if dtype == torch.float16 else [1e-6, 1e4])))
    w = torch.randn(shape, dtype=torch.float64, generator=generator) + draw(st.sampled_from([0.0, 0.1, 1.0, -10.0]))
    if draw(st.booleans()):
        kind = torch.randint(0, 8, shape[:2], generator=generator)
        kind = kind.view(*kind.shape, *[1] * (len(shape) - 2))
        w = torch.where(kind == 0, 0.0, w)
        w = torch.where(kind == 1, 0.7, w)
        w = torch.where(kind == 2, w.sign(), w)
    if draw(st.booleans()):
        source = torch.randint(0, shape[0], (shape[0],), generator=generator)
        w = torch.where(torch.rand(shape[0], generator=generator).view(-1, *[1] * (len(shape) - 1)) < 0.3, w[source], w)
    return draw(restrided((w * scale).to(dtype)))


@st.composite
def restrided(draw, w):
    """The same values with the dimensions in any order in memory, gaps between the numbers, and an offset."""
    order = draw(st.permutations(range(w.dim())))
    steps = [draw(st.sampled_from([1, 1, 1, 2, 3])) for _ in order]
    padded = [
        size * step + draw(st.integers(0, 2)) for size, step in zip((w.shape[d] for d in order), steps, strict=True)
    ]
    offset = draw(st.integers(0, 3))
    memory = torch.full((offset + math.prod(padded),), math.nan).to(w.dtype)
    view = memory[offset:].view(padded)
    for d, (size, step) in enumerate(zip((w.shape[d] for d in order), steps, strict=True)):
        view = view.narrow(d, 0, size * step).unflatten(d, (size, step)).select(d + 1, 0)
    view = view.permute([order.index(d) for d in range(w.dim())])
    view.copy_(w)
    return view


def gradient(draw, *shape: int, dtype: torch.dtype) -> torch.Tensor:
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    grad = torch.randn(shape, dtype=result_dtype(dtype), generator=generator)
    if draw(st.booleans()):
        grad = torch.where(torch.rand(shape, generator=generator) < 0.5, 0.0, grad)
    return draw(restrided(grad)) if grad.dim() > 1 else grad


def test_restrided_banks_are_really_strided():
    seen = set()

    @given(w=banks(tail=(3, 3)))
    @settings(max_examples=30)
    def look(w):
        seen.update({w.is_contiguous(), w.storage_offset() > 0, w.stride(0) < w.stride(1), w.stride(-1) != 1})

    look()
    assert seen == {True, False}


@given(data=st.data(), psi=psis)
@settings(max_examples=60)
def test_pairwise_psi(data, psi):
    w = data.draw(banks())
    filters = w.shape[0]
    check_pairwise(w, psi, gradient(data.draw, filters * (filters - 1) // 2, dtype=w.dtype))


@given(data=st.data(), psi=psis)
@settings(max_examples=50)
def test_cross_psi(data, psi):
    a = data.draw(banks(filters=(1, 40)))
    b = data.draw(banks(filters=(1, 20), slices=a.shape[1], tail=a.shape[2:], dtype=a.dtype))
    check_cross(a, b, psi, gradient(data.draw, a.shape[0], b.shape[0], dtype=a.dtype))


@given(data=st.data(), psi=psis)
@settings(max_examples=40)
def test_psi_of_pairs(data, psi):
    w = data.draw(banks())
    count, generator = data.draw(st.integers(1, 200)), torch.Generator().manual_seed(data.draw(st.integers(0, 2**32)))
    i = torch.randint(w.shape[0], (count,), generator=generator)
    j = (i + torch.randint(1, w.shape[0], (count,), generator=generator)) % w.shape[0]
    pairs = data.draw(restrided(torch.stack([i, j], 1)))
    check_pairs(w, pairs, psi, gradient(data.draw, count, dtype=w.dtype))


@given(data=st.data(), psi=psis)
@settings(max_examples=30)
def test_psi_counts(data, psi):
    w = data.draw(banks(filters=(2, 45)))
    dtype = result_dtype(w.dtype)
    edges = data.draw(st.lists(st.floats(0, 1), min_size=1, max_size=5))
    values = ops.pairwise_psi(w, *psi.arguments)
    if data.draw(st.booleans()):  # edges on the values themselves
        edges += values[:: max(1, len(values) // 3)].tolist()
    check_counts(w, torch.tensor(sorted(edges), dtype=dtype), psi)


@given(data=st.data(), psi=psis)
@settings(max_examples=30)
def test_cross_psi_counts(data, psi):
    a = data.draw(banks(filters=(1, 40)))
    b = data.draw(banks(filters=(1, 20), slices=a.shape[1], tail=a.shape[2:], dtype=a.dtype))
    values = ops.cross_psi(a, b, *psi.arguments)
    edges = data.draw(st.lists(st.floats(0, 1), max_size=9)) + values[0, ::3].tolist()  # some on the values themselves
    limits = torch.tensor(sorted(edge for edge in edges if edge == edge), dtype=values.dtype)
    counted = ops.cross_psi_counts(a, b, limits, *psi.arguments)
    between = zip([-math.inf, *limits.tolist()], [*limits.tolist(), math.inf], strict=True)
    expected = [int(((values > low) & (values <= high)).sum()) for low, high in between]
    assert counted.tolist() == [*expected, int(values.isnan().sum())]


@given(data=st.data(), psi=psis)
@settings(max_examples=40)
def test_the_operators_agree_with_each_other(data, psi):
    """All pairs, a x b and a list of pairs are one function: equal up to the order of the sum over slices."""
    w = data.draw(banks())
    i, j = all_pairs(w.shape[0]).T
    packed, square = ops.pairwise_psi(w, *psi.arguments), ops.cross_psi(w, w, *psi.arguments)
    listed, turned = (ops.psi_of_pairs(w, torch.stack(p, 1), *psi.arguments) for p in ((i, j), (j, i)))
    atol = 1e-13 if w.dtype == torch.float64 else 1e-6
    torch.testing.assert_close(square[i, j], packed, rtol=0, atol=atol)
    torch.testing.assert_close(square[j, i], packed, rtol=0, atol=atol)
    torch.testing.assert_close(listed, packed, rtol=0, atol=atol)
    torch.testing.assert_close(turned, packed, rtol=0, atol=atol)
    lowest = -1 - 1e-5 if psi.signed else 0
    assert bool(((packed >= lowest) & (packed <= 1 + 1e-5)).all())
