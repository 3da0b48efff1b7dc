"""The small model is an ordinary one: what exports the original exports it, and computes the same."""

import numpy as np
import pytest
import torch
from torch import nn

from ckrm_kernels import load_shrunk, plan_shrink, save_shrunk


class Net(nn.Module):
    """A residual block and a depthwise convolution, their sum flattened into a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.inner, self.outer = nn.Conv2d(8, 6, 3, padding=1), nn.Conv2d(6, 8, 3, padding=1)
        self.depthwise, self.head = nn.Conv2d(8, 8, 3, groups=8), nn.Linear(8 * 9, 5)

    def forward(self, x):
        x = self.norm(self.stem(x)).relu()
        x = (x + self.outer(self.inner(x).relu())).relu()
        return self.head(nn.functional.max_pool2d(self.depthwise(x), 2).flatten(1))


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    torch.manual_seed(0)
    model, images = Net().eval(), torch.randn(16, 3, 8, 8)
    plan = plan_shrink(model, images[:2], calibration=images, parameters=0.5)
    folder = tmp_path_factory.mktemp("small")
    applied = plan.apply()
    save_shrunk(folder, plan, applied)
    loaded = load_shrunk(Net, folder)
    assert torch.equal(loaded(images), applied(images))
    assert loaded.stem.out_channels < 8 or loaded.inner.out_channels < 6
    return loaded


IMAGES = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def test_torch_export_of_it_agrees(small):
    batch = {0: torch.export.Dim("N")}
    program = torch.export.export(small, (IMAGES[:2],), dynamic_shapes=(batch,))
    assert torch.allclose(program.module()(IMAGES), small(IMAGES), atol=1e-6)


@pytest.mark.exhaustive
def test_onnx_of_it_agrees(small, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    program = torch.onnx.export(
        small, (IMAGES[:2],), dynamo=True, verbose=False, dynamic_shapes=({0: torch.export.Dim("N")},)
    )
    program.save(tmp_path / "small.onnx")
    session = runtime.InferenceSession(tmp_path / "small.onnx")
    (found,) = session.run(None, {session.get_inputs()[0].name: IMAGES.numpy()})
    assert np.allclose(found, small(IMAGES).detach(), atol=1e-5)
