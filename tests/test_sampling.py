from __future__ import annotations

import itertools
import math
import re
from functools import partial

import numpy as np
import pytest
import torch
from definition import Psi, omega
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import nn

from ckrm_kernels import chance_redundancy, estimate_redundancy, pairwise_psi, psi_histogram, redundancy, sampling
from ckrm_kernels.sampling import (
    _permuted,
    drawn_by_chance,
    packed_to_pairs,
    pairs_drawn,
    uniform_sample,
    wilson_interval,
)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ---- places of the packed order --------------------------------------------------------------------------------------


@pytest.mark.parametrize("filters", [2, 3, 4, 17, 100])
def test_packed_order_is_that_of_combinations(filters):
    count = filters * (filters - 1) // 2
    assert packed_to_pairs(torch.arange(count), filters).tolist() == [
        list(pair) for pair in itertools.combinations(range(filters), 2)
    ]


@given(filters=st.sampled_from([2**20, 2**20 - 1, 2**25, 1000003]), data=st.data())
def test_packed_order_is_exact_for_many_filters(filters, data):
    i = data.draw(st.one_of(st.integers(0, filters - 2), st.integers(0, 3), st.integers(filters - 5, filters - 2)))
    j = data.draw(st.one_of(st.just(i + 1), st.just(filters - 1), st.integers(i + 1, filters - 1)))
    packed = i * (2 * filters - i - 1) // 2 + j - i - 1
    assert packed_to_pairs(torch.tensor([packed]), filters).tolist() == [[i, j]]


# ---- the sample ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("population", "size"), [(10, 1), (10, 4), (10, 5), (10, 9), (2**39, 5000)])
def test_samples_are_without_replacement(population, size):
    sample = uniform_sample(population, size, seeded(0))
    assert sample.shape == (size,)
    assert len(set(sample.tolist())) == size
    assert sample.min() >= 0
    assert sample.max() < population


@pytest.mark.parametrize("size", [2, 4])  # by rejection, and by a permutation
def test_every_subset_is_as_likely(size):
    generator, counts = seeded(0), dict.fromkeys(itertools.combinations(range(6), size), 0)
    for _ in range(3000):
        counts[tuple(sorted(uniform_sample(6, size, generator).tolist()))] += 1
    assert stats.chisquare(list(counts.values())).pvalue > 1e-3


# ---- the interval ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("above", "count"), [(0, 1), (1, 1), (0, 100), (3, 100), (50, 100), (100, 100), (1, 10**7)])
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999999])
def test_wilson_interval(above, count, confidence):
    expected = stats.binomtest(above, count).proportion_ci(confidence, method="wilson")
    low, high = wilson_interval(above / count, count, confidence)
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-9)
    assert 0 <= low <= above / count <= high <= 1


@pytest.mark.parametrize("confidence", [1e-300, 1e-9, 1 - 2**-53])
def test_wilson_interval_is_finite_at_any_confidence(confidence):
    low, high = wilson_interval(0.25, 16, confidence)
    assert 0 <= low <= 0.25 <= high <= 1


def test_wilson_interval_covers():
    weight = torch.randn(60, 1, 3, 3)
    truth = redundancy(weight, 0.5, eps=0.0).item()
    covered = 0
    for seed in range(100):
        estimate = estimate_redundancy(weight, 0.5, num_pairs=300, generator=seeded(seed), eps=0.0)
        covered += estimate.low <= truth <= estimate.high
    assert 0.05 < truth < 0.95
    assert covered >= 90


# ---- the estimate ----------------------------------------------------------------------------------------------------


def test_estimate_counts_the_sampled_pairs(backend):
    weight = torch.randn(30, 2, 3, 3, dtype=torch.float64) * 0.2
    expected = pairwise_psi(weight, backend="reference")[uniform_sample(435, 200, seeded(5))] > 0.3
    estimate = estimate_redundancy(weight, 0.3, num_pairs=200, generator=seeded(5), backend=backend)
    assert estimate.value == pytest.approx(expected.double().mean().item())
    assert 0 < estimate.value < 1
    assert (estimate.sampled_pairs, estimate.pairs, estimate.confidence) == (200, 435, 0.95)
    assert estimate.low < estimate.value < estimate.high


@pytest.mark.parametrize("num_pairs", [28, 29, 10**12])
def test_estimate_is_exact_where_it_covers_all_pairs(num_pairs, backend):
    weight = torch.randn(8, 1, 3, 3, dtype=torch.float64)
    share = (omega(weight, Psi()) > 0.3).double().mean().item()
    estimate = estimate_redundancy(weight, 0.3, num_pairs=num_pairs, backend=backend)
    assert estimate.value == estimate.low == estimate.high == pytest.approx(share)
    assert estimate.sampled_pairs == estimate.pairs == 28


def test_estimate_is_reproducible_by_generator_and_leaves_the_global_one():
    weight = torch.randn(50, 1, 3, 3)
    state = torch.get_rng_state()
    first, same, other = (estimate_redundancy(weight, 0.3, num_pairs=100, generator=seeded(seed)) for seed in (1, 1, 2))
    assert first == same
    assert first != other
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(7)
    default = estimate_redundancy(weight, 0.3, num_pairs=100)
    torch.manual_seed(7)
    assert estimate_redundancy(weight, 0.3, num_pairs=100) == default


@pytest.mark.parametrize("function", [partial(estimate_redundancy, num_pairs=3), chance_redundancy])
def test_a_generator_is_one_of_torch(function):
    with pytest.raises(TypeError, match=r"generator must be a torch\.Generator or None, got 5"):
        function(torch.randn(5, 1, 3, 3), 0.3, generator=5)


def test_estimate_of_a_million_filters(backend):
    if backend == "triton":
        pytest.skip("takes minutes in Triton's interpreter")
    weight = torch.randn(2**20, 1, 2)
    weight[: 2**19] = torch.tensor([1.0, 2.0])  # a quarter of the pairs are of two of these
    options = {"alpha": 1.0, "eps": 0.0, "backend": backend}
    estimate = estimate_redundancy(weight, 0.999, num_pairs=4000, generator=seeded(0), **options)
    assert estimate.pairs == 2**19 * (2**20 - 1)
    assert estimate.low < 0.25 + 0.02
    assert estimate.high > 0.25


def test_estimate_of_a_grouped_module_samples_within_groups():
    conv = nn.Conv2d(6, 30, 3, groups=3)
    with torch.no_grad():
        conv.weight[10:20] = conv.weight[10]  # one group of three repeats itself: a third of the pairs
    exact = estimate_redundancy(conv, num_pairs=135, eps=1e-8)
    assert exact.value == pytest.approx(1 / 3, abs=0.05)
    assert exact.pairs == 135
    sampled = [estimate_redundancy(conv, num_pairs=67, generator=seeded(s), eps=1e-8).value for s in range(40)]
    assert sum(sampled) / 40 == pytest.approx(exact.value, abs=0.03)


@pytest.mark.parametrize("filters", [0, 1])
def test_estimate_without_pairs(filters):
    estimate = estimate_redundancy(torch.randn(filters, 2, 3), num_pairs=10)
    assert (estimate.value, estimate.low, estimate.high, estimate.pairs) == (0, 0, 0, 0)


@pytest.mark.parametrize("num_pairs", [1, 10**6])
def test_estimate_of_nan_is_nan(num_pairs):
    weight = torch.randn(100, 1, 3)
    weight[3, 0, 0] = torch.nan
    estimate = estimate_redundancy(weight, num_pairs=num_pairs)
    assert all(map(math.isnan, (estimate.value, estimate.low, estimate.high)))


def test_estimate_where_psi_overflows_is_nan():
    weight = torch.randn(3, 2, 3).repeat(30, 1, 1) * 1e30  # squares of it are beyond float32
    estimate = estimate_redundancy(weight, num_pairs=100, backend="reference")
    assert math.isnan(estimate.value)
    assert math.isnan(redundancy(weight, backend="reference").item())


def test_estimate_takes_the_scale_of_the_whole_layer():
    weight = torch.randn(20, 2, 3) * 1e-3
    options = {"num_pairs": 100, "scale_free": True}
    first = estimate_redundancy(weight, 0.3, generator=seeded(0), **options)
    assert estimate_redundancy(weight * 1000, 0.3, generator=seeded(0), **options) == first
    assert first.value < estimate_redundancy(weight, 0.3, num_pairs=100).value


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_pairs": 0}, ValueError, "num_pairs must be a whole number >= 1, got 0"),
        ({"num_pairs": 2.5}, ValueError, "num_pairs"),
        ({"num_pairs": True}, ValueError, "num_pairs"),
        ({"num_pairs": 5, "confidence": 1.0}, ValueError, "confidence must lie between 0 and 1, got 1.0"),
        ({"num_pairs": 5, "confidence": 0}, ValueError, "confidence"),
        ({"num_pairs": 5, "confidence": math.nan}, ValueError, "confidence"),
        ({"num_pairs": 5, "confidence": "0.9"}, ValueError, "confidence must lie between 0 and 1, got '0.9'"),
        ({"num_pairs": 5, "threshold": -0.1}, ValueError, "threshold"),
        ({"num_pairs": 5, "eps": -1.0}, ValueError, "eps"),
    ],
)
def test_estimate_with_bad_arguments(options, error, message):
    with pytest.raises(error, match=message):
        estimate_redundancy(torch.randn(5, 2, 3), **options)


# ---- chance ----------------------------------------------------------------------------------------------------------


def test_permuting_keeps_every_slice_and_its_numbers():
    bank = torch.randn(7, 5, 3, 4)
    permuted = _permuted(bank, seeded(0))
    assert permuted.shape == bank.shape
    assert torch.equal(permuted.flatten(2).sort(-1).values, bank.flatten(2).sort(-1).values)
    assert not torch.equal(permuted, bank)


def test_every_order_is_as_likely_and_slices_are_independent():
    bank = torch.arange(3.0).expand(1500, 2, 3)
    orders = _permuted(bank, seeded(0)) @ torch.tensor([9.0, 3.0, 1.0])
    pairs = orders[:, 0] * 100 + orders[:, 1]
    counts = pairs.unique(return_counts=True)[1]
    assert counts.numel() == 36
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3


def test_chance_of_one_shape_is_its_share_of_permutations(backend):
    """All slices are the same three numbers, so Psi of a pair is |S| of one of the six permutations."""
    x = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)
    similar = [
        omega(torch.stack([x, x[list(order)]]).view(2, 1, 3), Psi()).item() > 0.6
        for order in itertools.permutations(range(3))
    ]
    weight = x.expand(120, 1, 3)
    assert redundancy(weight, backend=backend) == 1
    chance = chance_redundancy(weight, rounds=4, generator=seeded(0), backend=backend)
    assert chance.item() == pytest.approx(sum(similar) / 6, abs=0.03)


def test_chance_is_the_mean_over_rounds():
    weight = torch.randn(20, 1, 3, 3)
    generator = seeded(3)
    rounds = [chance_redundancy(weight, 0.4, generator=generator) for _ in range(4)]
    together = chance_redundancy(weight, 0.4, rounds=4, generator=seeded(3))
    torch.testing.assert_close(together, torch.stack(rounds).mean(0), rtol=0, atol=1e-15)
    assert len({value.item() for value in rounds}) > 1


def test_chance_takes_thresholds_of_any_shape():
    weight = torch.randn(20, 1, 3, 3)
    curve = chance_redundancy(weight, torch.tensor([[0.2, 0.9], [0.5, 0.0]]), generator=seeded(0))
    assert curve.shape == (2, 2)
    assert curve.dtype == torch.float64
    assert curve[1, 1] >= curve[0, 0] >= curve[1, 0] >= curve[0, 1]
    assert curve[1, 0] == chance_redundancy(weight, 0.5, generator=seeded(0))


def test_chance_is_reproducible_and_leaves_the_weight_and_the_global_generator():
    weight = torch.randn(20, 1, 3, 3)
    before, state = weight.clone(), torch.get_rng_state()
    first, same = (chance_redundancy(weight, 0.4, generator=seeded(1)) for _ in range(2))
    assert first == same
    assert torch.equal(weight, before)
    assert torch.equal(torch.get_rng_state(), state)


def test_chance_separates_shape_from_scale(backend):
    shared = torch.randn(1, 4, 3, 3).expand(20, -1, -1, -1)
    weight = shared + 0.1 * torch.randn(20, 4, 3, 3)
    assert redundancy(weight, backend=backend) > 0.9
    assert chance_redundancy(weight, generator=seeded(0), backend=backend) < 0.3
    small = torch.randn(20, 4, 3, 3) * 1e-4  # eps decides: permuting changes nothing
    assert redundancy(small, backend=backend) == 1
    assert chance_redundancy(small, generator=seeded(0), backend=backend) == 1


@pytest.mark.parametrize("shape", [(6, 4), (6, 4, 1, 1)])
def test_chance_of_single_numbers_is_the_redundancy(shape):
    weight = torch.randn(shape)
    assert chance_redundancy(weight, 0.3) == redundancy(weight, 0.3)


def test_chance_of_a_grouped_module_stays_within_groups():
    conv = nn.Conv2d(4, 8, 3, groups=2)
    by_group = [chance_redundancy(conv.weight[:4], 0.2, generator=(g := seeded(0)))]
    by_group.append(chance_redundancy(conv.weight[4:], 0.2, generator=g))
    assert chance_redundancy(conv, 0.2, generator=seeded(0)).item() == pytest.approx(sum(map(float, by_group)) / 2)


@pytest.mark.parametrize("filters", [0, 1])
def test_chance_without_pairs(filters):
    assert chance_redundancy(torch.randn(filters, 2, 3)) == 0


def test_chance_of_nan_is_nan():
    assert chance_redundancy(torch.tensor([[[1.0, torch.nan]], [[1.0, 2.0]]])).isnan()


@pytest.mark.parametrize("rounds", [0, -1, 1.5, True])
def test_chance_with_bad_rounds(rounds):
    with pytest.raises(ValueError, match="rounds must be a whole number >= 1"):
        chance_redundancy(torch.randn(3, 2, 3), rounds=rounds)


@pytest.mark.parametrize("number", [np.int64, np.uint8, np.int32])
def test_whole_numbers_of_numpy(number):
    weight = torch.randn(20, 1, 3, 3)
    found = estimate_redundancy(weight, 0.3, num_pairs=number(50), generator=seeded(0))
    assert found == estimate_redundancy(weight, 0.3, num_pairs=50, generator=seeded(0))
    chance = chance_redundancy(weight, 0.3, rounds=number(2), generator=seeded(0))
    assert chance == chance_redundancy(weight, 0.3, rounds=2, generator=seeded(0))
    assert torch.equal(psi_histogram(weight, number(10)), psi_histogram(weight, 10))


@pytest.mark.parametrize("number", [np.bool_(True), True, np.float64(2), np.int64(0), "3", None])
def test_what_is_no_whole_number(number):
    weight = torch.randn(5, 1, 3, 3)
    for name, function in (("num_pairs", estimate_redundancy), ("rounds", chance_redundancy), ("bins", psi_histogram)):
        with pytest.raises(ValueError, match=f"{name} must be a whole number >= 1, got {re.escape(repr(number))}"):
            function(weight, **{name: number})


def test_estimates_are_equal_by_their_values():
    weight = torch.randn(100, 1, 3)
    weight[3, 0, 0] = torch.nan
    first, second = (
        estimate_redundancy(weight, num_pairs=number, generator=seeded(0)) for number in (50, np.int64(50))
    )
    assert first == second
    assert hash(first) == hash(second)
    assert first != estimate_redundancy(weight, num_pairs=51, generator=seeded(0))


def test_groups_are_permuted_and_counted_together(monkeypatch):
    """As many calls for a hundred groups as for one."""
    calls = []
    permuted = sampling._permuted
    monkeypatch.setattr(sampling, "_permuted", lambda *given: calls.append(given) or permuted(*given))
    conv = nn.Conv1d(100, 400, 3, groups=100)
    level = chance_redundancy(conv, 0.4, rounds=3, generator=seeded(0))
    assert [bank.shape for bank, _ in calls] == [(400, 1, 3)] * 3
    singles = [chance_redundancy(group, 0.4, rounds=3, generator=seeded(0)) for group in conv.weight.view(100, 4, 1, 3)]
    assert level.item() == pytest.approx(torch.stack(singles).mean().item(), abs=0.04)


# ---- the sample of a report ------------------------------------------------------------------------------------------


def marked(filters: int, slices: int, first: int = 0) -> torch.Tensor:
    """Filters of three numbers a slice, in order, that tell which filter and slice they are of."""
    places = torch.arange(first * slices, (first + filters) * slices, dtype=torch.float64)
    return 10 * places.view(filters, slices, 1) + torch.arange(3)


@pytest.mark.parametrize(
    ("filters", "groups", "pairs"),
    [
        (512, 32, 3840),
        (256, 8, 3968),
        (128, 2, 4032),
        (92, 1, 4186),
        (91, 2, 8190),
        (64, 3, 6048),
        (5, 16, 160),
        (1, 16, 0),
    ],
)
def test_filters_are_drawn_in_groups_of_one_size_all_as_often(filters, groups, pairs):
    drawn = list(drawn_by_chance([marked(filters, 2)]))
    sizes = [len(group) for group in drawn]
    assert len(drawn) == groups
    assert max(sizes) - min(sizes) <= 1
    assert sum(size * (size - 1) // 2 for size in sizes) == pairs
    found = torch.cat(drawn).sort(-1).values  # without the permutations
    times = sum(sizes) // filters
    assert torch.equal(found.flatten(1).unique(dim=0, return_counts=True)[1], torch.full((filters,), times))
    assert torch.equal(found.flatten(1).unique(dim=0), marked(filters, 2).flatten(1))


def test_at_least_so_many_pairs_are_drawn_as_their_error_is_taken_for():
    for filters in (*range(2, 300), 1000, 2047, 2048, 3000, 4096, 4097, 10000):
        sizes = [len(group) for group in drawn_by_chance([torch.zeros(filters, 1, 2)])]
        pairs = filters * (filters - 1) // 2
        assert sum(size * (size - 1) // 2 for size in sizes) >= pairs_drawn(pairs) == min(16 * pairs, 3072)
        assert sum(sizes) <= max(4096, 16 * filters)


def test_groups_of_filters_are_drawn_within_banks():
    banks = [marked(40, 1, 100 * bank) for bank in range(8)]
    banks[3] = banks[3][:20]
    drawn = list(drawn_by_chance(banks))
    assert sum(len(group) for group in drawn) == 300
    for group in drawn:
        assert len({int(filter[0, 0]) // 1000 for filter in group}) == 1


def test_permutations_of_two_filters_are_as_likely_whatever_the_slice():
    """Relative to each other, in one slice and in neighbouring ones together."""
    drawn = torch.cat(list(drawn_by_chance([marked(64, 100)]))) % 10
    first, second = drawn[::2], drawn[1::2]
    relative = (first.unsqueeze(-1) == second.unsqueeze(-2)).int().argmax(-1)  # where the second has what the first has
    which = relative[..., 0] * 2 + (relative[..., 1] > relative[..., 2])  # one of six
    both = which[:, 1:] * 6 + which[:, :-1]
    for found, number in ((which, 6), (both, 36)):
        assert stats.chisquare(torch.bincount(found.flatten().long(), minlength=number).numpy()).pvalue > 1e-3


@pytest.mark.parametrize("scale", [1.0, 0.05])
def test_the_level_of_a_sample_is_that_of_all_pairs_to_its_error(scale):
    """Of a layer whose filters differ in scale and partly repeat each other: by the public function, over all pairs."""
    torch.manual_seed(5)
    weight = torch.randn(150, 2, 3, 3) * torch.randn(150, 1, 1, 1).exp() * scale
    weight[:40] = weight[0]
    level = chance_redundancy(weight, 0.3, rounds=20, generator=seeded(0)).item()
    groups = list(drawn_by_chance([weight]))
    above = torch.cat([pairwise_psi(group) for group in groups]) > 0.3
    found = above.double().mean().item()
    assert 0.1 < level < 0.9
    assert found == pytest.approx(level, abs=3 * math.sqrt(level * (1 - level) / 3072))


def test_a_sample_does_not_depend_on_how_much_is_permuted_at_once(monkeypatch):
    weight = torch.randn(2, 40, 3, 3, 3)
    whole = list(drawn_by_chance(weight.unbind(0)))
    monkeypatch.setattr(sampling, "_PERMUTED_AT_ONCE", 50)
    assert all(map(torch.equal, drawn_by_chance(weight.unbind(0)), whole))


def test_a_sample_of_chosen_filters_is_that_of_a_layer_of_them():
    banks = torch.randn(2, 40, 3, 3, 3).transpose(1, 2).contiguous().transpose(1, 2).unbind(0)
    chosen = [torch.tensor([0, 3, 4, 17, 39]), torch.arange(7, 31)]
    found = list(drawn_by_chance(banks, chosen))
    expected = list(drawn_by_chance([bank[which] for bank, which in zip(banks, chosen, strict=True)]))
    assert len(found) == len(expected)
    assert all(map(torch.equal, found, expected))


def test_a_sample_of_long_slices_keeps_their_numbers():
    weight = torch.arange(30.0).view(3, 10).repeat(1, 500).view(3, 1, 5000)
    drawn = torch.cat(list(drawn_by_chance([weight])))
    assert torch.equal(drawn.sort(-1).values.unique(dim=0), weight.sort(-1).values.unique(dim=0))
    assert not torch.equal(drawn[0], drawn[3])


def test_a_sample_is_the_same_in_every_call_and_leaves_the_weight_and_the_global_generator():
    weight = torch.randn(20, 2, 3, 3)
    before, state = weight.clone(), torch.get_rng_state()
    first, same = (torch.stack(list(drawn_by_chance([weight]))) for _ in range(2))
    assert torch.equal(first, same)
    assert len(first.flatten(1).unique(dim=0)) == 16  # rounds, all different
    assert torch.equal(weight, before)
    assert torch.equal(torch.get_rng_state(), state)
