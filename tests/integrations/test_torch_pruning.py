"""The importance in torch-pruning's own pruners."""

from __future__ import annotations

import pytest
import torch
from torch import nn

tp = pytest.importorskip("torch_pruning", reason="torch-pruning is not installed")

from ckrm_kernels import pairwise_psi
from ckrm_kernels.integrations.torch_pruning import CKRMImportance

INPUTS = (torch.zeros(2, 3, 8, 8),)


def pruner(model: nn.Module, **options) -> tp.BasePruner:
    fresh = {"in_channel_groups": {}, "out_channel_groups": {}, "num_heads": {}}
    return tp.BasePruner(model, INPUTS, importance=CKRMImportance(), ignored_layers=[model[-1]], **fresh, **options)


def group_of(model: nn.Module, layer: nn.Module, filters: list[int] | None = None) -> tp.dependency.Group:
    graph = tp.DependencyGraph().build_dependency(model, INPUTS)
    return graph.get_pruning_group(layer, tp.prune_conv_out_channels, filters or list(range(layer.out_channels)))


def plain(filters: int = 6) -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(3, filters, 3), nn.BatchNorm2d(filters), nn.ReLU()),
        *(nn.Conv2d(filters, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)),
    )


class Added(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, images):
        features = self.first(images)
        return self.head(features + self.second(features).relu())


def test_of_copies_one_is_unimportant_and_of_negatives_none():
    model = plain()
    with torch.no_grad():
        model[0].weight[4] = 0.9 * model[0].weight[1]
        model[0].weight[5] = -model[0].weight[2]
    scores = CKRMImportance()(group_of(model, model[0]))
    assert scores.shape == (6,)
    assert scores.argmin() == 4  # the weaker of the two
    assert scores[4] < 0.02
    assert scores[[0, 1, 2, 3, 5]].min() > 0.3


def test_scores_are_one_less_the_psi_of_the_nearest_that_is_left():
    model = plain(4)
    scores = CKRMImportance(signed=False)(group_of(model, model[0]))
    psi = pairwise_psi(model[0], layout="square", scale_free=True).double()
    norms = model[0].weight.double().flatten(1).norm(dim=1)
    left = [0, 1, 2, 3]
    for _ in range(3):
        pairs = [(psi[i, j].item(), i, j) for i in left for j in left if i < j]
        highest, i, j = max(pairs)
        leaves = i if norms[i] < norms[j] else j
        assert scores[leaves].item() == pytest.approx(1 - highest)
        left.remove(leaves)
    assert scores[left[0]] == 1
    assert scores.argmax() == left[0]


def test_filters_that_leave_together_have_the_mean_of_their_similarities():
    model = Added()
    with torch.no_grad():
        model.first.weight[1] = model.first.weight[0]
        model.second.weight[1] = -model.second.weight[0]  # so that 0 and 1 are not to be exchanged
        for layer in (model.first, model.second):
            layer.weight[3] = layer.weight[2]
    scores = CKRMImportance()(group_of(model, model.first))
    assert scores.argmin() in (2, 3)
    assert scores.min() == pytest.approx(0, abs=1e-6)
    assert (scores < 0.5).sum() == 1


def test_a_part_of_the_channels():
    model = plain()
    with torch.no_grad():
        model[0].weight[5] = model[0].weight[2]
    scores = CKRMImportance()(group_of(model, model[0], [1, 2, 5]))
    assert scores.shape == (3,)
    assert scores.argmin() in (1, 2)


@pytest.mark.parametrize("global_pruning", [False, True])
def test_a_pruner_removes_the_copies(global_pruning):
    model = plain()
    with torch.no_grad():
        model[0].weight[3:] = model[0].weight[:3] * 0.99
        model[3].weight[2:] = model[3].weight[:2] * 0.99
    kept = [model[0].weight[:3].clone(), model[3].weight[:2, :3].clone()]
    pruner(model, pruning_ratio=0.5, global_pruning=global_pruning).step()
    assert torch.equal(model[0].weight, kept[0])
    assert torch.equal(model[3].weight, kept[1])


@pytest.mark.parametrize(
    "layer",
    [nn.Conv2d(4, 4, 3, groups=2), nn.Conv2d(4, 4, 3, groups=4), nn.ConvTranspose2d(4, 6, 3), nn.Conv2d(4, 6, 1)],
)
def test_kinds_of_layers(layer):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), layer, nn.Conv2d(layer.out_channels, 2, 1))
    before = [each.out_channels for each in model]
    pruner(model, pruning_ratio=0.5).step()
    assert [each.out_channels for each in model] == [before[0] // 2, before[1] // 2, 2]
    assert model(INPUTS[0]).shape[:2] == (2, 2)


def test_wrong_options_are_refused():
    with pytest.raises(TypeError, match=r"CKRMImportance\(\) got an unexpected keyword argument 'epsilon'"):
        CKRMImportance(epsilon=1)
