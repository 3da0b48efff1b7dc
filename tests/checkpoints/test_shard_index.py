"""An index of Hugging Face's form against the shards that it lists."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ckrm_kernels.checkpoints import CheckpointError, read_checkpoints

STEMS = {
    "model.safetensors": "model-{0:05}-of-00002.safetensors",
    "pytorch_model.bin": "pytorch_model-{0:05}-of-00002.bin",
}


@pytest.fixture(params=STEMS)
def sharded(request, tmp_path):
    """An index, and a state dict in two shards beside it; a test may change both before it reads."""
    shards = [STEMS[request.param].format(number) for number in (1, 2)]
    weights = [
        {"conv.weight": torch.randn(5, 3, 3, 3), "conv.bias": torch.ones(5)},
        {"last.weight": torch.randn(4, 5, 3, 3)},
    ]

    def write(held, listed) -> Path:
        for name, state in zip(shards, held, strict=True):
            (save_file if name.endswith("safetensors") else torch.save)(state, tmp_path / name)
        weight_map = {tensor: shards[at] for at, names in enumerate(listed) for tensor in names}
        index = tmp_path / f"{request.param}.index.json"
        index.write_text(json.dumps({"metadata": {"total_size": 0}, "weight_map": weight_map}))
        return index

    return write, weights, shards


def test_the_shards_of_an_index_are_one_checkpoint(sharded, tmp_path):
    write, weights, shards = sharded
    index = write(weights, weights)
    for given in (index, tmp_path):
        (checkpoint,) = read_checkpoints([given])
        found = {layer.name: layer.banks[0] for layer in checkpoint.layers if layer.banks}
        assert list(found) == ["conv", "last"]
        assert torch.equal(found["last"], weights[1]["last.weight"])
        assert [Path(source.name).name for source in checkpoint.sources] == shards


def refused(index: Path) -> str:
    with pytest.raises(CheckpointError, match=f"^{re.escape(str(index))}: ") as caught:
        read_checkpoints([index])
    return str(caught.value)


def test_an_index_that_disagrees_with_its_shards(sharded, tmp_path):
    write, weights, shards = sharded
    words = refused(write(weights, [weights[0], [*weights[1], "gone.weight"]]))
    assert f"lists tensors that {tmp_path / shards[1]} does not hold, such as gone.weight: " in words
    assert words.endswith("save the checkpoint anew, or pass its shards themselves")
    words = refused(write(weights, [["conv.weight"], weights[1]]))
    assert f"does not list tensors that {tmp_path / shards[0]} holds, such as conv.bias" in words
    swapped = refused(write(weights, [weights[1], weights[0]]))
    assert f"lists tensors that {tmp_path / shards[0]} does not hold, such as last.weight" in swapped
    assert read_checkpoints([tmp_path / name for name in shards])[0].layers  # as the message says


def test_a_shard_that_is_gone_or_cut_off_is_named(sharded, tmp_path):
    write, weights, shards = sharded
    index, shard = write(weights, weights), tmp_path / shards[1]
    shard.write_bytes(shard.read_bytes()[:-40])
    with pytest.raises(CheckpointError, match=f"^{re.escape(str(shard))}: is a"):
        read_checkpoints([index])
    shard.unlink()
    assert refused(index).endswith(f"lists files that are not there: {shards[1]}")
