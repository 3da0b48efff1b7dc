from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
from definition import Psi, omega
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ckrm_kernels import RedundantGroups, pairwise_psi, redundant_groups
from ckrm_kernels.groups import _greedy


def square(weight: torch.Tensor) -> torch.Tensor:
    """Psi of all pairs by the definition, zeros on the diagonal."""
    filters = weight.shape[0]
    result = torch.zeros(filters, filters, dtype=torch.float64)
    i, j = torch.triu_indices(filters, filters, 1)
    result[i, j] = omega(weight, Psi())
    return result + result.T


def greedy(similar: list[set[int]]) -> list[int]:
    """The rule in sets: keep the one with the most undecided neighbours, the first of equals, and drop those."""
    undecided, kept = set(range(len(similar))), []
    while undecided:
        best = min(undecided, key=lambda i: (-len(similar[i] & undecided), i))
        kept.append(best)
        undecided -= similar[best] | {best}
    return sorted(kept)


def planted(filters: int, shared: int, seed: int, slices: int = 3) -> torch.Tensor:
    """Filters that share slices by chance: each slice is one of a few."""
    generator = torch.Generator().manual_seed(seed)
    few = torch.randn(slices, shared, 9, generator=generator, dtype=torch.float64)
    which = torch.randint(shared, (filters, slices), generator=generator)
    return few[torch.arange(slices), which]


def assert_consistent(groups: RedundantGroups, psi: torch.Tensor, threshold: float) -> None:
    kept, dropped = groups.kept.tolist(), groups.dropped.tolist()
    assert sorted(kept + dropped) == list(range(len(psi)))
    assert kept == sorted(kept)
    assert dropped == sorted(dropped)
    assert not (psi[kept][:, kept] > threshold).any()
    for index in kept:
        assert groups.representative[index] == index
    for index in dropped:
        representative = int(groups.representative[index])
        assert representative in kept
        assert psi[index, representative] > threshold
        assert psi[index, representative] == pytest.approx(float(psi[index, kept].max()), abs=1e-9)


@given(seed=st.integers(0, 1000), filters=st.integers(2, 9), threshold=st.sampled_from([0.3, 0.55, 0.6, 0.8, 0.999]))
@settings(max_examples=12)
@pytest.mark.exhaustive_on("triton")
def test_groups_follow_the_definition(seed, filters, threshold, backend):
    weight = planted(filters, 2, seed)
    psi = square(weight)
    groups = redundant_groups(weight, threshold, backend=backend)
    assert_consistent(groups, psi, threshold)
    similar = [set((row > threshold).nonzero().flatten().tolist()) for row in psi]
    assert groups.kept.tolist() == greedy(similar)


@pytest.mark.exhaustive_on("triton")
@pytest.mark.parametrize("filters", [63, 64, 65, 150])
def test_groups_of_more_filters_than_a_block(filters, backend):
    weight = planted(filters, 5, 0)
    psi = pairwise_psi(weight, layout="square", backend=backend) - torch.eye(filters, dtype=torch.float64)
    groups = redundant_groups(weight, 0.5, backend=backend)
    assert_consistent(groups, psi, 0.5)
    similar = [set((row > 0.5).nonzero().flatten().tolist()) for row in psi]
    assert groups.kept.tolist() == greedy(similar)
    assert 1 < groups.kept.numel() < filters


@given(filters=st.integers(0, 200), edges=st.lists(st.tuples(st.integers(0, 199), st.integers(0, 199)), max_size=150))
def test_the_choice_among_pairs_follows_the_rule(filters, edges):
    """Few pairs among many filters, so that most of them repeat one other or none."""
    above = np.zeros((filters, filters), dtype=np.bool_)
    for i, j in edges:
        if i != j and max(i, j) < filters:
            above[i, j] = above[j, i] = True
    expected = greedy([set(row.nonzero()[0].tolist()) for row in above])
    assert sorted(_greedy(np.packbits(above, axis=1), filters)) == expected


def test_the_hub_of_a_chain_is_kept(backend):
    """a and c each share one slice with b, and none with each other."""
    p, q, x, y = torch.eye(4, 9, dtype=torch.float64)
    groups = redundant_groups(torch.stack([torch.stack(f) for f in ((p, x), (p, q), (y, q))]), 0.49, backend=backend)
    assert groups.kept.tolist() == [1]
    assert groups.representative.tolist() == [1, 1, 1]


def test_repeats_with_either_sign_point_to_their_original(backend):
    original = torch.randn(20, 8, 3, 3)
    weight = torch.cat([original, -original[3:7], original[[11, 11]]])
    groups = redundant_groups(weight, 0.95, scale_free=True, eps=0.0, backend=backend)
    assert groups.kept.tolist() == list(range(20))
    assert groups.dropped.tolist() == list(range(20, 26))
    assert groups.representative[20:].tolist() == [3, 4, 5, 6, 11, 11]


def test_groups_of_a_grouped_module_stay_within(backend):
    conv = nn.Conv2d(8, 12, 3, groups=2)
    with torch.no_grad():
        conv.weight[6:] = conv.weight[:6]  # repeats of the other group do not count
        conv.weight[10] = conv.weight[7]
        conv.weight[4] = conv.weight[0]
    groups = redundant_groups(conv, 0.9, backend=backend)
    assert groups.dropped.tolist() == [4, 10]
    assert groups.representative[[4, 10]].tolist() == [0, 7]


def test_groups_of_a_transposed_module_count_output_channels(backend):
    conv = nn.ConvTranspose2d(4, 6, 3)
    with torch.no_grad():
        conv.weight[:, 5] = conv.weight[:, 1]
    groups = redundant_groups(conv, 0.9, backend=backend)
    assert groups.dropped.tolist() == [5]
    assert groups.representative[5] == 1


@pytest.mark.parametrize("filters", [0, 1])
def test_too_few_filters_to_repeat(filters, backend):
    groups = redundant_groups(torch.randn(filters, 2, 3), backend=backend)
    assert groups.kept.tolist() == list(range(filters))
    assert groups.dropped.numel() == 0
    assert groups.representative.dtype == torch.int64


def test_dead_filters_repeat_each_other(backend):
    weight = torch.randn(5, 2, 3, 3)
    weight[[1, 3, 4]] = 0
    assert redundant_groups(weight, backend=backend).dropped.tolist() == [3, 4]


def test_the_choice_does_not_depend_on_earlier_calls_or_change_the_weight(backend):
    weight = planted(40, 3, 1).requires_grad_()
    before = weight.detach().clone()
    first, second = (redundant_groups(weight, 0.5, backend=backend) for _ in range(2))
    assert torch.equal(first.representative, second.representative)
    assert torch.equal(weight, before)
    assert not first.representative.requires_grad


def test_groups_are_equal_by_their_indices():
    weight = planted(40, 3, 1)
    first, second, other = (redundant_groups(weight, threshold) for threshold in (0.5, 0.5, 0.999))
    assert first == second
    assert hash(first) == hash(second)
    assert first != other
    assert first != 3


def test_memory_grows_by_one_bit_a_pair():
    """Of all that is held at once: the bits, and a block of filters against all."""
    filters, block = 4096, 64
    sizes = []

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            sizes.extend(each.nbytes for each in tree_leaves(result) if isinstance(each, torch.Tensor))
            return result

    weight = torch.randn(filters, 1, 3) * 0.1
    with Sizes():
        redundant_groups(weight[:100])  # torch imports what it needs under such a mode
    sizes.clear()
    tracemalloc.start()
    with Sizes():
        groups = redundant_groups(weight)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert groups.kept.numel() < filters / 10  # so that many repeat
    assert max(sizes) <= block * filters * 8
    assert peak < filters**2 / 8 + 8 * block * filters


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_no_choice_with_nan(bad):
    weight = torch.randn(4, 2, 3)
    weight[2, 1, 0] = bad
    with pytest.raises(ValueError, match=r"NaN or Inf in filters \[2\]"):
        redundant_groups(weight)


def test_no_choice_where_psi_overflows():
    weight = torch.randn(3, 2, 3).repeat(30, 1, 1) * 1e30  # squares of it are beyond float32
    with pytest.raises(ValueError, match="weight overflows its precision; scale_free=True"):
        redundant_groups(weight, backend="reference")
    assert redundant_groups(weight, scale_free=True, backend="reference").kept.tolist() == [0, 1, 2]
    assert redundant_groups(weight[:1], backend="reference").kept.tolist() == [0]


@pytest.mark.parametrize(
    ("weight", "threshold", "error", "message"),
    [
        (torch.randn(3, 2, 3), 1.5, ValueError, "threshold must lie in"),
        (torch.randn(3, 2, 3), torch.tensor([0.5, 0.6]), ValueError, "threshold must be one number, got 2"),
        (torch.randn(3, 2, 3), "high", TypeError, "threshold must be a number"),
        (torch.randn(3, 2, 3, device="meta"), 0.6, ValueError, "meta device"),
        (torch.ones(3, 2, 3, dtype=torch.int64), 0.6, TypeError, "torch.int64"),
        (nn.ReLU(), 0.6, TypeError, "ReLU has no filters"),
    ],
    ids=["range", "two", "text", "meta", "integer", "module"],
)
def test_bad_input(weight, threshold, error, message):
    with pytest.raises(error, match=message):
        redundant_groups(weight, threshold)


# ---- signed similarities ---------------------------------------------------------------------------------------------


def test_a_filter_does_not_repeat_its_negative_where_the_sign_counts(backend):
    original = torch.randn(20, 8, 3, 3)
    weight = torch.cat([original, -original[3:7], original[[11, 11]]])
    for options in ({"eps": 0.0, "scale_free": True}, {"similarity": "cosine"}):
        groups = redundant_groups(weight, 0.95, signed=True, backend=backend, **options)
        assert groups.kept.tolist() == list(range(24))
        assert groups.representative[24:].tolist() == [11, 11]
        assert redundant_groups(weight, 0.95, backend=backend, **options).dropped.tolist() == list(range(20, 26))


@pytest.mark.exhaustive_on("triton")
@pytest.mark.parametrize("threshold", [-1.0, -0.3, 0.0, 0.3])
def test_groups_at_signed_thresholds_follow_the_definition(threshold, backend):
    weight = planted(9, 3, 1)
    weight[::2] *= -1
    psi = torch.zeros(9, 9, dtype=torch.float64)
    i, j = torch.triu_indices(9, 9, 1)
    psi[i, j] = psi[j, i] = omega(weight, Psi(signed=True))
    groups = redundant_groups(weight, threshold, signed=True, backend=backend)
    pairs = [{b for b in range(9) if b != a and psi[a, b] > threshold} for a in range(9)]
    assert groups.kept.tolist() == greedy(pairs)
