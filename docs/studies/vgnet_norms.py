"""Is it the fixed kernels or the norm behind them? `python docs/studies/vgnet_norms.py`, after `ckrm ablate vgnet`.

Trains VGNetG as vgnet.json says the ablation did, with a batch norm behind each learnt depthwise convolution of its
half-identity blocks. It then differs from VGNetF1 and VGNetF3 in nothing but that its kernels are learnt. Writes
vgnet_norms.csv beside this file: the accuracy of each seed.
"""

from __future__ import annotations

import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from ckrm_kernels.models import VGNet
from ckrm_kernels.models.vgnet_blocks import HalfIdentityBlock
from ckrm_kernels.presentation.tables import csv_text
from ckrm_kernels.storage.files import write_atomically
from ckrm_kernels.storage.settings import typed
from ckrm_kernels.training import evaluate, train
from ckrm_kernels.training.runs import RunsConfig

HERE = Path(__file__).parent


def with_norms(model: VGNet) -> VGNet:
    """The model, its learnt depthwise convolutions that mix positions followed by a norm, as fixed ones are."""
    for block in model.modules():
        if isinstance(block, HalfIdentityBlock):
            block.spatial = nn.Sequential(block.spatial, nn.BatchNorm2d(len(block.spatial.weight)))
    return model


def accuracy(seed: int) -> float:
    """On the held-out images, trained from the seed."""
    torch.set_num_threads(1)
    settings = json.loads((HERE / "vgnet.json").read_text())["config"]
    settings.pop("version")
    config = typed(RunsConfig, settings, "vgnet.json")
    data = config.data.load()
    torch.manual_seed(seed)
    model = with_norms(replace(config.network, variant="g").build())
    train(model, data, config.training, seed)
    return evaluate(model, data.held_out, data.classes).accuracy


def main() -> None:
    """Two networks side by side."""
    seeds = range(5)
    with ProcessPoolExecutor(2) as pool:
        rows = list(zip(seeds, pool.map(accuracy, seeds), strict=True))
    text = csv_text(["seed", "accuracy"], rows)
    write_atomically(HERE / "vgnet_norms.csv", text.encode())
    print(text, end="")


if __name__ == "__main__":
    main()
