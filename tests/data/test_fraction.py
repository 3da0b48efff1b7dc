import pytest
import torch

from ckrm_kernels.data import DataConfig, Dataset, Normalization, Part
from ckrm_kernels.data.fraction import rows_by_class, with_fraction


def data() -> Dataset:
    labels = torch.tensor([0] * 20 + [1] * 10 + [2] * 3)
    rows = torch.arange(33)
    images = rows.to(torch.uint8)[:, None, None, None].expand(33, 1, 2, 2)
    gaze, regions = rows[:, None, None].float() / 33, (rows % 2 == 0)[:, None, None, None]
    part = Part(images, labels, gaze, regions, Normalization((3.0,), (2.0,)))
    return Dataset("numbers", 3, part, part, part, identity={"name": "numbers"})


def test_a_fraction_has_that_share_of_every_class_and_its_rows_belong_together():
    whole, reduced = data(), with_fraction(data(), 0.2, seed=0)
    train = reduced.train
    assert train.labels.bincount().tolist() == [4, 2, 1]
    rows = train.images[:, 0, 0, 0].long()
    assert torch.equal(whole.train.labels[rows], train.labels)
    assert torch.equal(whole.train.gaze[rows], train.gaze)
    assert torch.equal(whole.train.regions[rows], train.regions)
    assert train.normalization == whole.train.normalization
    assert len(reduced.validation) == len(reduced.held_out) == 33
    assert reduced.identity == {"name": "numbers", "fraction": 0.2}


def test_the_seed_decides_which_rows():
    labels = data().train.labels
    rows = [rows_by_class(labels, 0.5, seed).tolist() for seed in (0, 0, 1)]
    assert rows[0] == rows[1] != rows[2]
    assert rows[0] == sorted({*rows[0]})


def test_the_least_fraction_keeps_one_image_of_each_class_and_1_keeps_all():
    assert with_fraction(data(), 1e-9, 0).train.labels.tolist() == [0, 1, 2]
    whole = data()
    assert with_fraction(whole, 1.0, 0) is whole


@pytest.mark.parametrize("fraction", [0, 0.0, -0.5, 1.01, float("nan"), True, "0.5"])
def test_a_fraction_refused(fraction):
    with pytest.raises(ValueError, match="fraction must lie above 0 and be at most 1, got "):
        DataConfig(fraction=fraction)


def test_a_configuration_loads_it():
    whole, half = DataConfig().load(), DataConfig(fraction=0.5).load()
    assert len(half.train) == pytest.approx(len(whole.train) / 2, abs=5)
    assert half.identity["fraction"] == 0.5
    assert "fraction" not in whole.identity
