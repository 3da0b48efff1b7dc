"""Curves of couplings from the weights alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ckrm_kernels.shrinking.curves import weight_curves
from ckrm_kernels.shrinking.graph import trace


@pytest.mark.parametrize("choose", ["l1", "random"])
@pytest.mark.parametrize("bias", [False, True])
def test_the_share_of_the_weights_that_has_left(choose, bias):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5, bias=bias), nn.ReLU(), nn.Linear(5, 2)).eval()
    graph = trace(model, torch.randn(2, 3))
    curve = weight_curves(model, graph, graph.couplings, choose, 0)["0"]
    tensors = [tensor.detach().double().reshape(5, -1) for tensor in model[0].parameters()]
    energy = sum(tensor.square().sum(1) for tensor in tensors)
    expected = [energy[list(curve.order[: count + 1])].sum() / energy.sum() for count in range(len(curve.order))]
    assert curve.error == pytest.approx([share.item() for share in expected])
