"""The metric, alone and among torchmetrics' own."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

torchmetrics = pytest.importorskip("torchmetrics", reason="torchmetrics is not installed")

from ckrm_kernels import redundancy
from ckrm_kernels.integrations.torchmetrics import RedundancyMetric


def network() -> nn.Module:
    first, second = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 6, 3)
    with torch.no_grad():
        first.weight[3] = first.weight[0]
        second.weight[4:] = second.weight[:2]
    return nn.Sequential(first, second, nn.Linear(2, 2))


def above(model: nn.Module, **options) -> list[float]:
    return [redundancy(model[0], **options).item() * 6, redundancy(model[1], **options).item() * 15]


def test_lambda_of_all_pairs_and_of_several_updates_together():
    first, second = network(), network()
    metric = RedundancyMetric()
    metric.update(model=first)
    assert metric.compute().item() == pytest.approx(sum(above(first)) / 21)
    assert metric.compute().item() > 0
    metric.update(model=second)
    assert metric.compute().item() == pytest.approx(sum(above(first) + above(second)) / 42)
    metric.reset()
    metric.update(model=second)
    assert metric.compute().item() == pytest.approx(sum(above(second)) / 21)


def test_options():
    model = network()
    metric = RedundancyMetric(0.4, scale_free=True, pointwise="vector", sync_on_compute=False)
    metric.update(model=model)
    linear = redundancy(model[2].weight.unsqueeze(1), 0.4, scale_free=True).item()
    expected = sum(above(model, threshold=0.4, scale_free=True)) + linear
    assert metric.compute().item() == pytest.approx(expected / 22)


def test_two_thresholds_in_a_collection():
    """After a batch with no pair above either, torchmetrics would take metrics of equal states for one."""
    torch.manual_seed(0)
    unlike, alike = nn.Conv2d(1, 4, 3), network()[0]
    with torch.no_grad():
        unlike.weight.copy_(torch.eye(9)[:4].view(4, 1, 3, 3) * 10)
        alike.weight[1] = alike.weight[0] + 0.3 * alike.weight[0].flip(-1)
    collection = torchmetrics.MetricCollection({"low": RedundancyMetric(0.3), "high": RedundancyMetric(0.99)})
    collection.update(model=unlike)
    assert not any(collection.compute().values())
    collection.update(model=alike)
    expected = {name: redundancy(alike, t).item() / 2 for name, t in (("low", 0.3), ("high", 0.99))}
    assert expected["low"] > expected["high"] > 0
    assert {name: value.item() for name, value in collection.compute().items()} == pytest.approx(expected)


def test_in_a_collection():
    model, labels = network(), torch.tensor([0, 1, 1])
    collection = torchmetrics.MetricCollection(
        {"accuracy": torchmetrics.classification.BinaryAccuracy(), "redundancy": RedundancyMetric()}
    )
    collection.update(torch.tensor([0.1, 0.9, 0.2]), labels, model=model)
    found = collection.compute()
    assert found["accuracy"].item() == pytest.approx(2 / 3)
    assert found["redundancy"].item() == pytest.approx(sum(above(model)) / 21)
    batch = collection(torch.tensor([0.1, 0.9, 0.8]), labels, model=model)  # of this batch alone
    assert batch["accuracy"].item() == 1


def test_processes_are_counted_together():
    first, second = network(), network()
    other = RedundancyMetric()
    other.update(model=second)

    def gathered(value, group=None):
        name = "above" if value is metric.above else "pairs"
        return [value, getattr(other, name)]

    metric = RedundancyMetric(dist_sync_fn=gathered, distributed_available_fn=lambda: True)
    metric.update(model=first)
    assert metric.compute().item() == pytest.approx(sum(above(first) + above(second)) / 42)


def test_it_can_be_copied_and_pickled():
    model, metric = network(), RedundancyMetric()
    metric.update(model=model)
    for copied in (copy.deepcopy(metric), pickle.loads(pickle.dumps(metric)), metric.clone()):
        assert copied.compute() == metric.compute()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"threshold": 2}, ValueError, r"threshold must lie in \[0, 1\], got 2"),
        ({"pointwise": "no"}, ValueError, "pointwise must be one of skip, slices, vector, got 'no'"),
        ({"eps": -1}, ValueError, "eps must be a finite number >= 0"),
        ({"epsilon": 1}, ValueError, "epsilon"),
    ],
)
def test_wrong_options_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        RedundancyMetric(**options)
