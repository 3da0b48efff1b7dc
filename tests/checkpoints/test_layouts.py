"""safetensors files in the layout that they declare."""

from __future__ import annotations

import json
import struct

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from ckrm_kernels.checkpoints import CheckpointError, read_checkpoints

WEIGHTS = [torch.randn(6, 3, 5), torch.randn(6, 4, 3, 2), torch.randn(6, 2, 3, 4, 5), torch.randn(6, 3)]


def to_mlx(weight: Tensor) -> Tensor:
    """(O, I, *K) to (O, *K, I); a linear layer's stays."""
    return weight.movedim(1, -1).contiguous()


def to_flax(weight: Tensor) -> Tensor:
    """(O, I, *K) to (*K, I, O)."""
    return weight.movedim(1, -1).movedim(0, -1).contiguous()


@pytest.mark.parametrize(
    ("declared", "name", "change"),
    [
        (None, "{}.weight", lambda weight: weight),
        ({"format": "pt"}, "{}.weight", lambda weight: weight),
        ({"format": "np"}, "{}.weight", lambda weight: weight),
        ({"format": "PyTorch"}, "{}.weight", lambda weight: weight),
        ({"made_by": "someone"}, "{}.weight", lambda weight: weight),
        ({"format": "mlx"}, "{}.weight", to_mlx),
        ({"format": "flax"}, "block.{}.kernel", to_flax),
        ({"format": "jax"}, "block/{}/kernel", to_flax),
        ({"format": "tf"}, "model/{}/kernel:0", to_flax),
    ],
)
def test_the_declared_layout_is_put_into_torchs(declared, name, change, tmp_path):
    state = {name.format(f"layer{at}"): change(weight) for at, weight in enumerate(WEIGHTS)}
    state |= {f"norm.{leaf}": torch.randn(6) for leaf in ("scale", "bias")}
    save_file(state, tmp_path / "w.safetensors", metadata=declared)
    (checkpoint,) = read_checkpoints([tmp_path / "w.safetensors"])
    expected = [name.format(f"layer{at}").replace(":0", "").rpartition("kernel")[0][:-1] for at in range(4)]
    names = [layer.name for layer in checkpoint.layers]
    assert names == (expected if "kernel" in name else [f"layer{at}" for at in range(4)])
    for layer, weight in zip(checkpoint.layers, WEIGHTS, strict=True):
        assert torch.equal(layer.banks[0], weight)
    layout = (declared or {}).get("format")
    assert any(f"declares the format {layout}" in note for note in checkpoint.notes) == (
        layout not in (None, "pt", "PyTorch")
    )


def test_a_layout_that_is_not_known_is_refused_by_name(tmp_path):
    save_file({"a.weight": torch.randn(3, 3, 3)}, tmp_path / "w.safetensors", metadata={"format": "paddle"})
    with pytest.raises(CheckpointError, match="declares the format 'paddle', whose layout isn't known; known are flax"):
        read_checkpoints([tmp_path / "w.safetensors"])


def test_a_weight_is_in_the_declared_layout_whatever_its_name(tmp_path):
    kernel = torch.randn(3, 3, 4, 8)
    state = {"conv.weight": kernel, "haiku/conv/w": kernel * 2, "query.kernel": torch.randn(8, 2, 4)}
    save_file(state, tmp_path / "w.safetensors", metadata={"format": "flax"})
    found = {layer.name: layer for layer in read_checkpoints([tmp_path / "w.safetensors"])[0].layers}
    assert torch.equal(found["conv"].banks[0], kernel.permute(3, 2, 0, 1))
    assert torch.equal(found["haiku/conv/w"].banks[0], 2 * kernel.permute(3, 2, 0, 1))
    assert found["query"].note == "attention, a projection to heads"


def test_what_is_no_kernel_is_listed(tmp_path):
    state = {"conv.kernel": torch.randn(3, 3, 4, 8), "embed.embedding": torch.randn(9, 4), "gate": torch.randn(2, 4, 4)}
    save_file(state, tmp_path / "w.safetensors", metadata={"format": "flax"})
    found = {layer.name: layer for layer in read_checkpoints([tmp_path / "w.safetensors"])[0].layers}
    assert found["conv"].shape == (8, 4, 3, 3)
    assert found["embed.embedding"].note == "not a weight by its name"
    assert found["gate"].note == "not a kernel by its name"


@pytest.mark.parametrize(
    ("declared", "change"), [("flax", to_flax), ("tf", lambda weight: weight.movedim((0, 1), (-2, -1)).contiguous())]
)
def test_a_transposed_kernel_has_the_layout_of_its_library(declared, change, tmp_path):
    weight = torch.randn(6, 4, 3, 3)  # Flax writes (*K, I, O) as of any convolution, Keras (*K, O, I)
    save_file({"conv_transpose.kernel": change(weight)}, tmp_path / "w.safetensors", metadata={"format": declared})
    (layer,) = read_checkpoints([tmp_path / "w.safetensors"])[0].layers
    assert torch.equal(layer.banks[0], weight)


def test_a_depthwise_kernel_of_tensorflow(tmp_path):
    kernel = torch.randn(3, 3, 5, 2)
    save_file({"c/depthwise_kernel:0": kernel}, tmp_path / "w.safetensors", metadata={"format": "tf"})
    (layer,) = read_checkpoints([tmp_path / "w.safetensors"])[0].layers
    assert layer.shape == (10, 1, 3, 3)
    assert torch.equal(layer.banks[0][2 * 3 + 1, 0], kernel[:, :, 3, 1])


def test_types_are_named(tmp_path):
    kinds = (torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e8m0fnu, torch.int8, torch.complex64, torch.bool)
    state = {f"{at}.weight": torch.ones(4, 3, 3).to(dtype) for at, dtype in enumerate(kinds)}
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match=r"float8_e4m3fn, .*; float8_e5m2, .*; float8_e8m0fnu, .*; int8, "):
        read_checkpoints([tmp_path / "w.safetensors"])


@pytest.mark.parametrize(
    ("dtype", "size", "message"),
    [
        ("F4", 18, "F4, which torch does not have"),
        ("F6_E2M3", 27, "F6_E2M3, which torch does not have"),
        ("F8_E4M3FNUZ", 36, "float8_e4m3fnuz, measured are"),
        ("I4", 18, "holds tensors of the type I4, which this safetensors does not know"),
    ],
)
def test_types_that_torch_lacks_are_named(dtype, size, message, tmp_path):
    header = json.dumps({"a.weight": {"dtype": dtype, "shape": [4, 3, 3], "data_offsets": [0, size]}}).encode()
    (tmp_path / "w").write_bytes(struct.pack("<q", len(header)) + header + bytes(size))
    with pytest.raises(CheckpointError, match=message):
        read_checkpoints([tmp_path / "w"])
