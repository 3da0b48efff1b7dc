import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ckrm_kernels.data import split_by_class
from ckrm_kernels.data.split import split_training

SHARES = (0.7, 0.1, 0.2)


def test_the_split_is_a_partition():
    labels = torch.tensor([0, 1, 2, 2, 1, 0] * 17)
    parts = split_by_class(labels, seed=3)
    assert torch.equal(torch.cat(parts).sort().values, torch.arange(labels.numel()))
    assert all(torch.equal(part, part.sort().values) for part in parts)


def test_every_class_is_split_by_the_same_shares():
    labels = torch.arange(5).repeat_interleave(torch.tensor([100, 50, 200, 10, 30]))
    train, validation, held_out = (labels[part].bincount(minlength=5) for part in split_by_class(labels, seed=0))
    assert train.tolist() == [70, 35, 140, 7, 21]
    assert validation.tolist() == [10, 5, 20, 1, 3]
    assert held_out.tolist() == [20, 10, 40, 2, 6]


def test_the_split_is_decided_by_its_seed():
    labels = torch.arange(3).repeat(40)
    first, again, other = (split_by_class(labels, seed)[0] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_split_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    split_by_class(torch.arange(3).repeat(40), 0)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("shares", [(0, 0.2), (0.1, 0), (0.5, 0.5), (-0.1, 0.2), (float("nan"), 0.2)])
def test_shares_refused(shares):
    with pytest.raises(ValueError, match="validation and held_out must be positive and sum to < 1"):
        split_by_class(torch.zeros(4, dtype=torch.int64), 0, validation=shares[0], held_out=shares[1])


def test_training_files_too_small_for_a_validation_part():
    with pytest.raises(ValueError, match="the validation part is empty: 6 images for training are too few"):
        split_training(torch.tensor([0, 0, 0, 1, 1, 1]), 0)


@st.composite
def grouped(draw):
    """Labels and groups of up to 60 images, and a seed."""
    rows = draw(st.lists(st.tuples(st.integers(0, 3), st.integers(-5, 25)), max_size=60))
    labels, groups = torch.tensor(rows, dtype=torch.int64).reshape(-1, 2).T
    return labels.contiguous(), groups.contiguous(), draw(st.integers(0, 2**63 - 1))


def distance(labels, parts):
    """The squared difference from the wanted number over that number, summed over parts and classes.

    The wanted numbers are those of a split without groups.
    """
    total = 0
    for label in set(labels.tolist()):
        count = int((labels == label).sum())
        wanted = [count - round(count * 0.3), round(count * 0.3) - round(count * 0.2), round(count * 0.2)]
        for part, number in zip(parts, wanted, strict=True):
            total += (int((labels[part] == label).sum()) - number) ** 2 / max(number, 1)
    return total


@given(grouped())
def test_a_split_by_groups_is_a_partition_that_no_group_crosses(case):
    labels, groups, seed = case
    parts = split_by_class(labels, seed, groups=groups)
    assert torch.equal(torch.cat(parts).sort().values, torch.arange(labels.numel()))
    assert all(torch.equal(part, part.sort().values) for part in parts)
    sides = [set(groups[part].tolist()) for part in parts]
    assert len(set.union(*sides)) == sum(map(len, sides))


@given(grouped())
def test_moving_a_group_brings_the_shares_no_nearer(case):
    labels, groups, seed = case
    parts = split_by_class(labels, seed, groups=groups)
    reached = distance(labels, parts)
    for group in set(groups.tolist()):
        members = (groups == group).nonzero().flatten()
        rest = [part[~torch.isin(part, members)] for part in parts]
        for target in range(3):
            moved = [torch.cat([part, members]) if side == target else part for side, part in enumerate(rest)]
            assert distance(labels, moved) >= reached - 1e-8


def test_groups_of_one_get_the_same_shares_as_no_groups():
    labels = torch.arange(3).repeat_interleave(torch.tensor([37, 110, 10]))
    groups = torch.randperm(157)
    for seed in range(5):
        plain, grouped = (split_by_class(labels, seed, groups=given) for given in (None, groups))
        for first, second in zip(plain, grouped, strict=True):
            assert torch.equal(labels[first].bincount(minlength=3), labels[second].bincount(minlength=3))


def test_patients_with_several_images_leave_the_shares_near():
    """As in EGD-CXR: 1,083 images of which few patients have more than one."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (1083,), generator=generator)
    patients = torch.randint(20_000, (1083,), generator=generator)
    counts = labels.bincount()
    for share, part in zip(SHARES, split_by_class(labels, 0, groups=patients), strict=True):
        assert (labels[part].bincount() - share * counts).abs().max() <= 1


def test_a_split_by_groups_is_decided_by_its_seed():
    labels, groups = torch.arange(3).repeat(40), torch.arange(60).repeat_interleave(2)
    first, again, other = (split_by_class(labels, seed, groups=groups)[2] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_groups_of_another_number_are_refused():
    with pytest.raises(ValueError, match=r"groups must have the shape of labels, \(4,\), got \(3,\)"):
        split_by_class(torch.zeros(4, dtype=torch.int64), 0, groups=torch.zeros(3, dtype=torch.int64))


def test_a_training_file_is_split_in_two():
    labels = torch.arange(4).repeat(50)
    train, validation = split_training(labels, 0)
    assert torch.equal(torch.cat([train, validation]).sort().values, torch.arange(200))
    assert labels[validation].bincount().tolist() == [5, 5, 5, 5]
