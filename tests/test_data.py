import sys

import pytest
import torch

from ckrm_kernels.data import digits, split_by_class


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


def test_digits_are_what_scikit_learn_has():
    from sklearn.datasets import load_digits

    data = digits()
    parts = (data.train, data.validation, data.held_out)
    assert [len(part) for part in parts] == [1258, 180, 359]
    assert data.image_shape == (1, 8, 8)
    assert data.classes == 10
    counts = sum(part.labels.bincount(minlength=10) for part in parts)
    assert counts.tolist() == torch.from_numpy(load_digits().target).bincount().tolist()
    # undone, the normalisation gives the original images back, each of them once
    original = torch.from_numpy(load_digits().images).float().flatten(1)
    pixels = torch.cat([part.images for part in parts]).flatten(1)
    scale = (original.max() - original.min()) / (pixels.max() - pixels.min())
    restored = ((pixels - pixels.min()) * scale).round()
    assert sorted(map(tuple, restored.tolist())) == sorted(map(tuple, original.tolist()))


def test_digits_are_normalised_by_the_training_part_alone():
    data = digits()
    assert data.train.images.mean().abs() < 1e-5
    assert (data.train.images.std(correction=0) - 1).abs() < 1e-5
    assert data.held_out.images.mean().abs() > 1e-5


def test_another_split_of_the_digits():
    assert not torch.equal(digits(0).held_out.images, digits(1).held_out.images)


def test_without_scikit_learn_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r'pip install "ckrm-kernels\[train\]"'):
        digits.__wrapped__()
