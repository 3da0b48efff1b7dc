"""Training on a GPU: it learns at every precision, repeats, and goes on where it was."""

import dataclasses

import pytest
import torch
from small_training import CONFIG, killed_after, network, same_weights, stripes

from ckrm_kernels.training import Runtime, UnfinishedRun, evaluate, train

if not torch.cuda.is_available():
    pytest.skip("no GPU that torch can use", allow_module_level=True)

LONGER = dataclasses.replace(CONFIG, epochs=10)
CONFIGS = {
    "float32": LONGER,
    "bfloat16": dataclasses.replace(LONGER, precision="bfloat16", channels_last=True),
    "float16": dataclasses.replace(LONGER, precision="float16", optimizer="adamw", learning_rate=0.01),
    "compiled": dataclasses.replace(LONGER, compile=True),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_it_learns(config):
    model = network().cuda()
    history = train(model, stripes(), config, seed=0, runtime=Runtime(data_workers=2))
    assert history[-1].loss < history[0].loss / 2
    assert evaluate(model, stripes().held_out, 3).accuracy > 0.9


@pytest.mark.parametrize("config", [CONFIGS["float32"], CONFIGS["float16"]])
def test_interrupted_it_ends_the_same(tmp_path, monkeypatch, config):
    unbroken = network().cuda()
    history = train(unbroken, stripes(), config, seed=4)
    unfinished = UnfinishedRun(tmp_path, {})
    killed_after(9, monkeypatch, network().cuda(), stripes(), config, 4, unfinished=unfinished)
    resumed = network().cuda()
    assert train(resumed, stripes(), config, 4, unfinished=unfinished) == history
    assert same_weights(unbroken, resumed)
