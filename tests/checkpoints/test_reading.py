from __future__ import annotations

import argparse
import os
import pickle
import re
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from ckrm_kernels import measure
from ckrm_kernels.checkpoints import CheckpointError, pickles, read_checkpoints
from ckrm_kernels.layers import Layer, model_layers
from ckrm_kernels.measurement import measure_layers
from ckrm_kernels.similarity import Similarity


def checkpoint_layers(path: Path, **options: object) -> list[Layer]:
    (checkpoint,) = read_checkpoints([path], **options)
    return list(checkpoint.layers)


def model() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv1d(8, 4, 5), nn.Conv2d(4, 4, 1), nn.Linear(4, 2))


def optimiser_state() -> dict[str, object]:
    net = model()
    optimiser = torch.optim.AdamW(net.parameters())
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimiser.step()
    return optimiser.state_dict()


def save_safetensors(state: dict[str, Tensor], path: Path) -> None:
    save_file(state, path)


def save_torch(state: object, path: Path) -> None:
    torch.save(state, path)


def save_legacy(state: object, path: Path) -> None:
    torch.save(state, path, _use_new_zipfile_serialization=False)


FORMATS = pytest.mark.parametrize("save", [save_safetensors, save_torch, save_legacy])


def by_name(layers: list[Layer]) -> dict[str, Layer]:
    return {layer.name: layer for layer in layers}


# ---- what is read ----------------------------------------------------------------------------------------------------


@FORMATS
def test_a_state_dict_is_read_by_shape(save, tmp_path):
    net, path = model(), tmp_path / "weights.any"
    save(net.state_dict(), path)
    layers = by_name(checkpoint_layers(path))
    kinds = {name: layer.kind for name, layer in layers.items()}
    assert kinds == {"0": "conv2d", "1": "vector", "2": "conv1d", "3": "conv2d", "4": "linear"}
    for name in ("0", "2", "3", "4"):
        (bank,) = layers[name].banks
        assert torch.equal(bank, net[int(name)].weight)
    assert layers["1"].banks == ()


@FORMATS
def test_measured_as_the_model_itself(save, tmp_path):
    net, path = model(), tmp_path / "weights"
    save(net.state_dict(), path)
    report = measure_layers([checkpoint_layers(path)], 0.3, "skip", Similarity())
    rows = {row.name: row for row in report.layers}
    for row in measure(net, 0.3).measured:
        ours = rows[row.name]
        assert (ours.redundancy, ours.chance, ours.histogram) == (row.redundancy, row.chance, row.histogram)
    assert "pointwise" in rows["3"].reason
    assert "pointwise" in rows["4"].reason
    assert "no filters" in rows["1"].reason


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": state, "optimizer": {"state": {0: {"exp_avg": torch.zeros(2, 2, 2)}}}},
        lambda state: {"model_state_dict": state, "optim": {"x": torch.zeros(2, 2, 2)}, "loss": 0.5},
        lambda state: {"model": {"module": state}, "best": np.float64(0.5), "step": np.int64(3)},
        lambda state: {"net": state, "args": argparse.Namespace(lr=0.1)},
        lambda state: {f"module.{name}": value for name, value in state.items()},
        lambda state: {"state_dict": {f"module._orig_mod.{name}": value for name, value in state.items()}},
        lambda state: {"n_averaged": torch.tensor(3)} | {f"module.{name}": value for name, value in state.items()},
        lambda state: {"epoch": 1, "something_else": state, "optimizer_2": optimiser_state()},
    ],
    ids=["state_dict", "model", "optim", "deep", "args", "module", "compiled", "averaged", "unknown"],
)
def test_a_state_dict_is_found_wherever_it_is(wrap, tmp_path):
    net, path = model(), tmp_path / "weights.pt"
    torch.save(wrap(net.state_dict()), path)
    names = [layer.name.removeprefix("something_else.") for layer in checkpoint_layers(path)]
    assert names == ["0", "1", "2", "3", "4"]


def test_several_networks_in_one_file_are_all_read(tmp_path):
    torch.save({"generator": model().state_dict(), "critic": model().state_dict()}, tmp_path / "gan.pt")
    names = {layer.name for layer in checkpoint_layers(tmp_path / "gan.pt")}
    assert {"generator.0", "critic.0"} <= names


def test_what_is_no_weight_by_name_is_listed_with_the_reason(tmp_path):
    state = {
        "conv.weight": torch.randn(4, 3, 3, 3),
        "pos_embed": torch.randn(1, 5, 8),
        "cls_token": torch.randn(1, 1, 8),
        "attn.bias": torch.randn(1, 1, 8, 8),
        "table": torch.zeros(4, 4, dtype=torch.int64),
        "norm.bias": torch.randn(4),
        "step": torch.tensor(3),
    }
    torch.save(state, tmp_path / "weights.pt")
    notes = {layer.name: layer.note for layer in checkpoint_layers(tmp_path / "weights.pt")}
    assert set(notes) == {"conv", "pos_embed", "cls_token", "attn.bias", "table"}
    assert notes["conv"] == "groups not known"
    assert notes["pos_embed"] == notes["cls_token"] == notes["attn.bias"] == "not a weight by its name"
    assert "int64" in notes["table"]


def test_shared_weights_are_measured_once(tmp_path):
    weight = torch.randn(4, 3, 3, 3)
    torch.save({"a.weight": weight, "b.weight": weight}, tmp_path / "weights.pt")
    first, second = checkpoint_layers(tmp_path / "weights.pt")
    assert len(first.banks) == 1
    assert (second.banks, second.note) == ((), "shares its weight with a")


def test_half_precision_weights(tmp_path):
    save_file(nn.Conv2d(3, 8, 3).bfloat16().state_dict(), tmp_path / "weights")
    (row,) = measure_layers([checkpoint_layers(tmp_path / "weights")], 0.6, "skip", Similarity()).layers
    assert row.status == "measured"


def test_nan_names_the_layer(tmp_path):
    torch.save({"conv.weight": torch.full((4, 3, 3, 3), torch.nan)}, tmp_path / "weights.pt")
    with pytest.raises(ValueError, match="layer 'conv' has NaN or Inf"):
        measure_layers([checkpoint_layers(tmp_path / "weights.pt")], 0.6, "skip", Similarity())


# ---- what is refused -------------------------------------------------------------------------------------------------


class Malicious:
    """Unpickling it would create a file."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self):
        return Path.touch, (self.witness,)


@pytest.mark.parametrize("how", ["zip", "legacy", "pickle 2", "pickle 4", "beside weights"])
def test_a_malicious_pickle_is_refused_and_does_not_run(how, tmp_path):
    path, witness = tmp_path / "evil.pt", tmp_path / "witness"
    evil = Malicious(witness)
    if how.startswith("pickle"):
        path.write_bytes(pickle.dumps({"conv.weight": evil}, protocol=int(how[-1])))
    elif how == "beside weights":
        torch.save({"state_dict": model().state_dict(), "extra": evil}, path)
    else:
        (save_legacy if how == "legacy" else save_torch)({"conv.weight": evil}, path)
    with pytest.raises(CheckpointError) as caught:
        checkpoint_layers(path)
    assert str(caught.value).startswith(str(path))
    assert re.search("holds (builtins.getattr|pathlib.Path.touch), and reading that could run code", str(caught.value))
    assert not witness.exists()


@FORMATS
@pytest.mark.parametrize("share", [0.02, 0.3, 0.7, 0.99])
def test_a_truncated_file_names_its_path(save, share, tmp_path):
    path = tmp_path / "weights"
    save(model().state_dict(), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: max(int(len(whole) * share), 1)])
    with pytest.raises(CheckpointError) as caught:
        checkpoint_layers(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert any(word in message for word in ("truncated", "damaged", "not a checkpoint"))
    assert "\n" not in message


def _write_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: None, "no such file"),
        (lambda path: path.mkdir(), "is a folder"),
        (lambda path: path.write_bytes(b""), "is empty"),
        (lambda path: path.write_text("epoch,loss\n1,0.5\n"), "is a text, not a checkpoint"),
        (lambda path: path.write_bytes(bytes(range(256))), "is not a checkpoint"),
        (lambda path: path.write_bytes(b"\x80"), "checkpoint"),
        (lambda path: path.write_bytes(b"\xff" * 8 + b"{"), "is a safetensors file, truncated or damaged"),
        (lambda path: path.write_bytes(b"\x02\0\0\0\0\0\0\0{}"), "no weights of convolutions .* among its 0 tensors"),
        (lambda path: path.write_bytes(pickle.dumps([1, 2], protocol=2)), "checkpoint"),
        (_write_zip, r"is a zip archive \(readme.txt\): unpack it"),
        (lambda path: torch.save(torch.randn(3), path), "no weights"),
        (lambda path: torch.save([1, 2], path), "no weights"),
        (lambda path: torch.save({"bias": torch.randn(3), 5: 6}, path), r"among its 1 tensors, .* \(3,\)"),
        (lambda path: torch.save({"x.weight": torch.ones(3, 3, 3, dtype=torch.int8)}, path), "can be measured: int8,"),
    ],
)
def test_what_is_no_checkpoint_says_so(write, message, tmp_path):
    path = tmp_path / "file"
    write(path)
    with pytest.raises(CheckpointError, match=message) as caught:
        checkpoint_layers(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_an_unreadable_file_says_so(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"{}")

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(CheckpointError, match="can't be read: Permission denied"):
        checkpoint_layers(tmp_path / "file")


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_what_ends_the_process_is_no_damage(error, tmp_path, monkeypatch):
    def interrupted(*_: object) -> None:
        raise error

    torch.save(model().state_dict(), tmp_path / "w.pt")
    monkeypatch.setattr(pickles.Unpickler, "load", interrupted)
    with pytest.raises(error):
        read_checkpoints([tmp_path / "w.pt"])


def test_a_checkpoint_that_contains_itself(tmp_path):
    state: dict[str, object] = {"epoch": 1}
    state["model"] = state
    torch.save(state, tmp_path / "loop.pt")
    with pytest.raises(CheckpointError, match="no weights"):
        checkpoint_layers(tmp_path / "loop.pt")


def test_safetensors_layers_come_in_the_order_of_their_numbers(tmp_path):
    names = ["stem", "blocks.0.conv", "blocks.2.conv", "blocks.10.conv", "head"]
    weights = {f"{name}.weight": torch.randn(4, 3, 3, 3) for name in names}
    save_safetensors(weights, tmp_path / "model.safetensors")
    found = [layer.name for layer in checkpoint_layers(tmp_path / "model.safetensors")]
    assert found == ["blocks.0.conv", "blocks.2.conv", "blocks.10.conv", "head", "stem"]


@given(st.lists(st.integers(0, 10**30), min_size=2, max_size=5, unique=True))
def test_safetensors_names_may_hold_any_number_and_any_character(tmp_path, numbers):
    weights = {f"²{number}³.{'0' * (number % 3)}{number}.weight": torch.ones(2, 2, 3) for number in numbers}
    save_safetensors(weights, tmp_path / "model.safetensors")
    found = [layer.name for layer in checkpoint_layers(tmp_path / "model.safetensors")]
    assert [int(name.split("³")[0].lstrip("²")) for name in found] == sorted(numbers)


@given(data=st.data())
@settings(max_examples=150)
@pytest.mark.parametrize("kind", [save_safetensors, save_torch, save_legacy])
def test_damage_anywhere_gives_layers_or_a_clear_error(kind, data, tmp_path):
    path = tmp_path / "weights"
    kind({"conv.weight": torch.ones(2, 2, 3)}, path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    message = ""
    try:
        assert checkpoint_layers(path)
    except CheckpointError as error:
        message = str(error)
    assert message == "" or message.startswith(f"{path}: ")


# ---- several files, pipes, models ------------------------------------------------------------------------------------


def grouped() -> nn.Module:
    return nn.Sequential(nn.Conv2d(4, 8, 3, groups=2), nn.ConvTranspose2d(8, 3, 3), nn.BatchNorm2d(3))


def test_like_a_model_groups_and_transposition_are_known(tmp_path):
    net = grouped()
    torch.save({"model": {f"module.{name}": value for name, value in net.state_dict().items()}}, tmp_path / "w.pt")
    (plain,) = read_checkpoints([tmp_path / "w.pt"])
    assert [layer.shape for layer in plain.layers if layer.banks] == [(8, 2, 3, 3), (8, 3, 3, 3)]
    assert any("--like module:constructor" in note for note in plain.notes)
    (checkpoint,) = read_checkpoints([tmp_path / "w.pt"], like=grouped)
    assert checkpoint.notes == ()
    for ours, theirs in zip(checkpoint.layers, model_layers(net), strict=True):
        assert (ours.name, ours.kind, ours.note) == (theirs.name, theirs.kind, theirs.note)
        assert all(torch.equal(a, b) for a, b in zip(ours.banks, theirs.banks, strict=True))


def test_like_takes_an_averaged_models_weights(tmp_path):
    average = torch.optim.swa_utils.AveragedModel(grouped())
    torch.save({"model": grouped().state_dict(), "ema": average.state_dict()}, tmp_path / "w.pt")
    (checkpoint,) = read_checkpoints([tmp_path / "w.pt"], like=grouped, weights="ema")
    assert torch.equal(torch.cat(checkpoint.layers[0].banks), average.module[0].weight)
    assert checkpoint.sources[0].weights == "ema"


def test_like_a_model_that_has_a_module_of_that_name(tmp_path):
    def wrapped() -> nn.Module:
        net = nn.Module()
        net.module = grouped()
        return net

    net = wrapped()
    torch.save(net.state_dict(), tmp_path / "w.pt")
    layers = read_checkpoints([tmp_path / "w.pt"], like=wrapped)[0].layers
    assert [layer.name for layer in layers] == ["0", "1", "2"]


def test_a_model_that_does_not_fit_names_the_file(tmp_path):
    torch.save(model().state_dict(), tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match=rf"^{tmp_path / 'w.pt'}: does not fit"):
        read_checkpoints([tmp_path / "w.pt"], like=grouped)


@FORMATS
def test_shards_are_one_checkpoint_put_together_over_files(save, tmp_path):
    conv = parametrizations.weight_norm(nn.Conv2d(3, 4, 3))
    state = {**nn.Sequential(conv).state_dict(), "1.weight": torch.randn(4, 4, 3, 3)}
    names = sorted(state)
    paths = [tmp_path / f"model-0000{at}-of-00002.bin" for at in (1, 2)]
    for at, path in enumerate(paths):
        save({name: state[name] for name in names[at::2]}, path)
    (checkpoint,) = read_checkpoints(paths)
    assert {layer.name for layer in checkpoint.layers if layer.banks} == {"0", "1"}
    assert [source.name for source in checkpoint.sources] == [str(path) for path in paths]
    torch.testing.assert_close(by_name(checkpoint.layers)["0"].banks[0], conv.weight.detach())


def test_shards_with_the_same_weight_are_an_error(tmp_path):
    paths = [tmp_path / f"model-0000{at}-of-00002.bin" for at in (1, 2)]
    for path in paths:
        torch.save({"0.weight": torch.randn(4, 4, 3, 3)}, path)
    with pytest.raises(CheckpointError, match=r"model-00001-of-00002.bin.*0\.weight"):
        read_checkpoints(paths)


def test_several_checkpoints_are_tracked(tmp_path):
    paths = [tmp_path / "a.pt", tmp_path / "b.pt"]
    for path in paths:
        torch.save(model().state_dict(), path)
    seen = []

    def track(items):
        for item in items:
            seen.append(item)
            yield item

    checkpoints = read_checkpoints([str(path) for path in paths], track=track)
    assert [checkpoint.sources[0].name for checkpoint in checkpoints] == [str(path) for path in paths]
    assert len(seen) == 2
    assert checkpoints[0].sources[0].size == paths[0].stat().st_size


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes")
@FORMATS
def test_a_pipe_is_read(save, tmp_path):
    net = model()
    save(net.state_dict(), tmp_path / "w")
    os.mkfifo(tmp_path / "pipe")
    content = (tmp_path / "w").read_bytes()
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(content,))
    writer.start()
    (checkpoint,) = read_checkpoints([tmp_path / "pipe"])
    writer.join()
    assert torch.equal(by_name(checkpoint.layers)["0"].banks[0], net[0].weight)
    assert (checkpoint.sources[0].name, checkpoint.sources[0].size) == (str(tmp_path / "pipe"), len(content))


def test_the_formats_agree(tmp_path):
    state = {f"{name}.{n}.weight": torch.randn(4, 3, 3) for name in ("optimal_block", "ema.conv", "stem") for n in "ab"}
    found = []
    for at, save in enumerate((save_safetensors, save_torch, save_legacy)):
        save(state | {"x.exp_avg": torch.randn(4, 3, 3)}, tmp_path / f"{at}")
        found.append(sorted((layer.name, layer.kind, layer.note) for layer in checkpoint_layers(tmp_path / f"{at}")))
    assert found[0] == found[1] == found[2]
    assert [name for name, *_ in found[0]] == sorted(name.removesuffix(".weight") for name in state)


@pytest.mark.parametrize("kind", [str, Path])
def test_a_single_path_is_refused_by_name(kind):
    with pytest.raises(TypeError, match=r"paths must be a sequence of paths, got 'a\.pt': pass \[path\]"):
        read_checkpoints(kind("a.pt"))
