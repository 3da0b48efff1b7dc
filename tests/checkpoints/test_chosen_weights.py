"""Which weights are read where a file holds several, and what is left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

from ckrm_kernels.checkpoints import Checkpoint, CheckpointError, read_checkpoints


def state(seed: int, prefix: str = "") -> dict[str, Tensor]:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv1d(4, 4, 3))
    return {f"{prefix}{name}": value for name, value in net.state_dict().items()}


def states(count: int) -> list[dict[str, Tensor]]:
    return [state(seed) for seed in range(count)]


def read(content: Any, path: Path, **options: Any) -> Checkpoint:
    torch.save(content, path / "w.pt")
    (checkpoint,) = read_checkpoints([path / "w.pt"], **options)
    return checkpoint


def which(checkpoint: Checkpoint, of: list[dict[str, Tensor]]) -> dict[str, int]:
    """For each layer with filters, the number of the state dict that it is from, by its name without the last part."""
    found = {}
    for layer in checkpoint.layers:
        if layer.banks:
            prefix, _, leaf = layer.name.rpartition(".")
            (number,) = [at for at, each in enumerate(of) if torch.equal(each[f"{leaf}.weight"], layer.banks[0])]
            assert found.setdefault(prefix, number) == number
    return found


ORIGINAL, AVERAGE, OTHER = 0, 1, 2


@pytest.mark.parametrize(
    ("wrap", "default", "chosen"),
    [
        # as they are in the cases
        (lambda a, b: {"model": {"name": "r18"}, "weights": a}, {"": 0}, ""),
        (lambda a, b: {"params": {"lr": 0.1}, "net_g": a}, {"": 0}, ""),
        (lambda a, b: {"state_dict": {}, "ema": b}, {"": 1}, "ema"),
        (lambda a, b: {"folds": [a, b]}, {"": 0}, "folds.0"),
        # a well-known key, with others beside it
        (lambda a, b: {"state_dict": a, "state_dict_ema": b}, {"": 0}, "state_dict"),
        (lambda a, b: {"model": a, "model_ema": b}, {"": 0}, "model"),
        (lambda a, b: {"params": a, "params_ema": b}, {"": 0}, "params"),
        (lambda a, b: {"params_ema": b, "params": a}, {"": 0}, "params"),
        (lambda a, b: {"net": a, "teacher": b}, {"": 0}, "net"),
        (lambda a, b: {"state": {"ema_model": b, "network": a}}, {"": 0}, "state.network"),
        (lambda a, b: {"model": {"module": a}, "shadow": {"module": b}}, {"": 0}, "model.module"),
        (lambda a, b: {"weights": a, "averagedModel": b}, {"": 0}, "weights"),
        # a name that isn't known, beside an average
        (lambda a, b: {"net_g": a, "net_g_ema": b}, {"": 0}, "net_g"),
        (lambda a, b: {"unet": a, "ema": {"decay": 0.9, "shadow": b}}, {"": 0}, "unet"),
        # nothing to choose
        (lambda a, b: a, {"": 0}, ""),
        (lambda a, b: [a], {"": 0}, ""),
        (lambda a, b: list(a.items()), {"": 0}, ""),
        (lambda a, b: {"weights": tuple(a.items()), "names": ("conv", "x")}, {"": 0}, ""),
        (lambda a, b: (a, {"lr": 3}), {"": 0}, ""),
        (lambda a, b: {"a": {"b": [{"c": a}]}}, {"": 0}, ""),
        (lambda a, b: {"epoch": torch.tensor(3), "rng": torch.zeros(50, dtype=torch.uint8), "model": a}, {"": 0}, ""),
        (lambda a, b: {"metrics": np.zeros((3, 4)), "model": a}, {"": 0}, "model"),
        (lambda a, b: {"history": {"losses": np.zeros((9, 4, 3))}, "net_g": a}, {"": 0}, ""),
        (lambda a, b: {"state_dict": a, "callbacks": {"best": {"score": torch.tensor(1.0)}}}, {"": 0}, ""),
        # every part where none is better known
        (lambda a, b: {"generator": a, "discriminator": b}, {"generator": 0, "discriminator": 1}, ""),
        (lambda a, b: {"models": {"g": a, "d": b}, "epoch": 3}, {"g": 0, "d": 1}, ""),
        (lambda a, b: {"g": {"model": a}, "d": {"model": b}}, {"g.model": 0, "d.model": 1}, ""),
        (lambda a, b: [a, b], {"": 0}, "0"),
        (lambda a, b: {0: a, 1: b}, {"": 0}, "0"),
    ],
)  # fmt: skip
def test_the_model_is_read_unless_asked(wrap, default, chosen, tmp_path):
    of = states(2)
    checkpoint = read(wrap(*of), tmp_path)
    assert which(checkpoint, of) == default
    assert checkpoint.sources[0].weights == chosen
    said = [note for note in checkpoint.notes if "the weights under" in note]
    assert bool(said) == bool(chosen)
    assert all(f"the weights under {chosen}" in note and str(tmp_path) in note for note in said)


@pytest.mark.parametrize(
    ("wrap", "key", "expected", "others"),
    [
        (lambda a, b: {"model": a, "model_ema": b}, "ema", 1, "model"),
        (lambda a, b: {"model": a, "model_ema": b}, "model", 0, "model_ema"),
        (lambda a, b: {"model": a, "model_ema": b}, "model_ema", 1, "model"),
        (lambda a, b: {"net": a, "ema": b}, "model", 0, "ema"),
        (lambda a, b: {"params": a, "params_ema": b}, "ema", 1, "params"),
        (lambda a, b: {"state_dict": a, "x": {"deep": [{}, {"ema_state_dict": b}]}}, "ema", 1, "state_dict"),
        (lambda a, b: {"unet": a, "ema": {"decay": 0.9, "shadow": b}}, "ema", 1, "unet"),
        (lambda a, b: {"folds": [a, b]}, "folds.1", 1, "folds.0"),
        (lambda a, b: {"a.b": a, "c": b}, "a.b", 0, "c"),
        (lambda a, b: {"generator": a, "discriminator": b}, "discriminator", 1, "generator"),
        (lambda a, b: {"x": {"y": {"z": a, "w": b}}}, "x.y.w", 1, "x.y.z"),
        (lambda a, b: {f"ema.{k}": v for k, v in b.items()} | {f"net.{k}": v for k, v in a.items()}, "ema", 1, None),
        (lambda a, b: {f"ema.{k}": v for k, v in b.items()} | {f"net.{k}": v for k, v in a.items()}, "net", 0, None),
        (lambda a, b: {"model": {f"b.{k}": v for k, v in b.items()}, "x": a}, "model.b", 1, "x"),
    ],
)
def test_weights_are_chosen_by_their_key(wrap, key, expected, others, tmp_path):
    of = states(2)
    checkpoint = read(wrap(*of), tmp_path, weights=key)
    assert which(checkpoint, of) == {"": expected}
    (note,) = [note for note in checkpoint.notes if "the weights under" in note]
    assert others is None or f"there are also {others}: --weights KEY" in note


@pytest.mark.parametrize(
    ("content", "key"),
    [
        ({"generator": state(0), "folds": [state(1), state(2)]}, "nope"),
        ({"generator": state(0), "folds": [state(1), state(2)]}, "ema"),
        ({"generator": state(0), "folds": [state(1), state(2)]}, "folds.2"),
    ],
)
def test_a_wrong_key_says_what_there_is(content, key, tmp_path):
    with pytest.raises(CheckpointError, match=f"holds no weights '{key}'; it holds generator, folds.0, folds.1"):
        read(content, tmp_path, weights=key)


def test_a_key_where_there_is_nothing_to_choose(tmp_path):
    with pytest.raises(CheckpointError, match="holds no weights 'ema'; there is nothing to choose in it: leave out"):
        read(state(0), tmp_path, weights="ema")


def test_only_an_average_is_no_model(tmp_path):
    with pytest.raises(CheckpointError, match="holds no weights 'model'; it holds ema"):
        read({"ema": state(0)}, tmp_path, weights="model")


def test_averages_of_several_networks(tmp_path):
    of = states(4)
    content = {"net_g": of[0], "net_d": of[1], "net_g_ema": of[2], "net_d_ema": of[3]}
    assert which(read(content, tmp_path), of) == {"net_g": 0, "net_d": 1}
    assert which(read(content, tmp_path, weights="ema"), of) == {"net_g_ema": 2, "net_d_ema": 3}


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_wrappers_are_left_out_of_names_in_each_part(prefix, tmp_path):
    of = states(2)
    content = {"g": state(0, prefix), "d": state(1), "ema": {"module": state(1, prefix), "n_averaged": torch.tensor(3)}}
    assert which(read(content, tmp_path), of) == {"g": 0, "d": 1}
    assert which(read(content, tmp_path, weights="ema"), of) == {"": 1}


@pytest.mark.parametrize(
    "average",
    [
        lambda state: {f"model_ema.{name}": value for name, value in state.items()},
        # as latent diffusion: without dots
        lambda state: (
            {f"model_ema.{name.replace('.', '')}": value for name, value in state.items()}
            | {"model_ema.decay": torch.tensor(0.9)}
        ),
    ],
)
@pytest.mark.parametrize("prefix", ["", "model."])
def test_the_copies_in_flat_names_are_averages(prefix, average, tmp_path):
    of = states(2)
    content = {f"{prefix}{name}": value for name, value in of[0].items()} | average(of[1])
    save_file(content, tmp_path / "w.safetensors")
    torch.save(content, tmp_path / "w.pt")
    for name in ("w.safetensors", "w.pt"):
        (default,) = read_checkpoints([tmp_path / name])
        assert which(default, of) == {prefix[:-1]: 0}
        assert any("there are also model_ema: --weights KEY" in note for note in default.notes)
        (chosen,) = read_checkpoints([tmp_path / name], weights="ema")
        weights = [layer.banks[0] for layer in chosen.layers if layer.banks]
        assert all(any(torch.equal(weight, each) for each in of[1].values()) for weight in weights)
        assert len(weights) == 2


# ---- an optimiser's state --------------------------------------------------------------------------------------------


def optimiser_state(make: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3))
    optimiser = make(net.parameters())
    for _ in range(2):
        for parameter in net.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimiser.step()
    return net.state_dict(), optimiser.state_dict()


OPTIMISERS = {
    "adam": lambda parameters: torch.optim.Adam(parameters, amsgrad=True),
    "adamw": torch.optim.AdamW,
    "nadam": torch.optim.NAdam,
    "adamax": torch.optim.Adamax,
    "momentum": lambda parameters: torch.optim.SGD(parameters, 0.1, momentum=0.9),
    "rmsprop": lambda parameters: torch.optim.RMSprop(parameters, momentum=0.9, centered=True),
    "adagrad": torch.optim.Adagrad,
    "adadelta": torch.optim.Adadelta,
    "rprop": torch.optim.Rprop,
    "asgd": torch.optim.ASGD,
    "adafactor": torch.optim.Adafactor,
}


@pytest.mark.parametrize("kind", OPTIMISERS)
@pytest.mark.parametrize("key", ["optimizer", pytest.param("anything", marks=pytest.mark.exhaustive)])
def test_optimiser_state_is_told_by_its_structure(key, kind, tmp_path):
    weights, optimiser = optimiser_state(OPTIMISERS[kind])
    flat = {
        f"{key}.{name}.{leaf}": value
        for name, each in zip(weights, optimiser["state"].values(), strict=True)
        for leaf, value in each.items()
        if isinstance(value, Tensor)
    }
    for content in (
        {"thing": weights, key: optimiser},
        {"thing": weights, key: [optimiser]},
        {"thing": weights, key: optimiser["state"]},
        {"thing": weights, key: dict(zip(weights, optimiser["state"].values(), strict=True))},
    ):
        assert [layer.name for layer in read(content, tmp_path).layers] == ["0", "1"]
    assert [layer.name for layer in read({**weights, **flat}, tmp_path).layers] == ["0", "1"]
    save_file({**weights, **flat}, tmp_path / "w.safetensors")
    assert [layer.name for layer in read_checkpoints([tmp_path / "w.safetensors"])[0].layers] == ["0", "1"]


def test_no_layer_is_left_out_by_a_part_of_its_name(tmp_path):
    words = ["optimal_block", "optimizer", "optim", "momentum", "step", "exp_avg_pool", "ema", "maskrcnn", "tokenizer"]
    state = {f"{word}.{kind}.weight": torch.randn(4, 3, 3) for word in words for kind in ("conv", word)}
    names = [name.removesuffix(".weight") for name in state]
    assert [layer.name for layer in read(state, tmp_path).layers if layer.banks] == names
    save_file(state, tmp_path / "w.safetensors")
    checkpoint = read_checkpoints([tmp_path / "w.safetensors"])[0]
    assert sorted(layer.name for layer in checkpoint.layers if layer.banks) == sorted(names)


@pytest.mark.parametrize("save", [torch.save, save_file])
def test_a_layer_named_as_an_average_is_one_only_as_a_copy_of_the_model(save, tmp_path):
    names = ["stem.conv", "attn.conv", "mask_head.conv", "ema_head.conv", "neck.conv"]
    state = {f"{name}.weight": torch.randn(4, 4, 3, 3) for name in names}
    save(state, tmp_path / "w.bin")
    assert {layer.name for layer in read_checkpoints([tmp_path / "w.bin"])[0].layers if layer.banks} == set(names)


def test_a_nested_module_named_as_an_average_of_other_shapes_is_none(tmp_path):
    content = {"backbone": {"conv.weight": torch.randn(4, 3, 3, 3)}, "ema_block": {"conv.weight": torch.randn(4, 4, 3)}}
    assert [layer.name for layer in read(content, tmp_path).layers] == ["backbone.conv", "ema_block.conv"]


def test_the_average_of_one_of_two_networks(tmp_path):
    of = states(3)
    flat = {f"discriminator.{n}.{name}": value for n in range(3) for name, value in of[2].items()}
    flat |= {
        f"{part}.{name}": value
        for n, part in enumerate(("generator", "generator_ema"))
        for name, value in of[n].items()
    }
    checkpoint = read(flat, tmp_path)
    assert {layer.name.partition(".")[0] for layer in checkpoint.layers} == {"generator", "discriminator"}
    assert any("there are also generator_ema" in note for note in checkpoint.notes)


# ---- nested in any way -----------------------------------------------------------------------------------------------

JUNK = st.recursive(
    st.none() | st.integers() | st.floats() | st.text(max_size=3) | st.booleans() | st.just(Path("x")),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=2),
    max_leaves=4,
)


@st.composite
def nested(draw: st.DrawFn, content: Any) -> Any:
    """The content below any number of mappings and sequences, among junk."""
    for _ in range(draw(st.integers(0, 4))):
        junk = draw(st.lists(JUNK, max_size=2))
        at = draw(st.integers(0, len(junk)))
        if draw(st.booleans()):
            items = [*junk[:at], content, *junk[at:]]
            content = tuple(items) if draw(st.booleans()) else items
        else:
            key = draw(st.text(max_size=4) | st.integers() | st.sampled_from(["model", "ema", "state_dict"]))
            others = {f"{draw(st.text(max_size=4))}~{number}": value for number, value in enumerate(junk)}
            content = {**others, key: content}
    return content


@given(data=st.data())
@settings(max_examples=60)
def test_a_state_dict_is_found_at_any_place(data, tmp_path):
    part = st.text(st.characters(exclude_characters=".", codec="utf-8"), min_size=1, max_size=4)
    names = data.draw(st.lists(st.tuples(part, part), min_size=1, max_size=4, unique=True))
    state = {f"{a}~.{b}~.weight": torch.full((2, 1, 2), float(at)) for at, (a, b) in enumerate(names)}
    checkpoint = read(data.draw(nested(state)), tmp_path)
    found = {f"{layer.name}.weight": layer.banks[0] for layer in checkpoint.layers}
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], state[name]) for name in state)


def test_nested_parameters_without_dots_are_rows_with_their_keys(tmp_path):
    weight = torch.randn(4, 3, 3)
    content = {
        "params": {"net": {"weight": weight, "bias": torch.ones(4)}, "head": {"layers": [{"weight": weight + 1}]}}
    }
    assert [layer.name for layer in read(content, tmp_path).layers] == ["net", "head.layers.0"]


def test_many_references_to_one_object_do_not_multiply(tmp_path):
    content: Any = [torch.ones(2, 2, 2)]
    for _ in range(60):
        content = [content, content]
    with pytest.raises(CheckpointError, match="more than a million tensors"):
        read(content, tmp_path)


def test_what_is_nested_too_deeply_is_an_error(tmp_path):
    (tmp_path / "w.pt").write_bytes(b"\x80\2" + b"]" * 5000 + b"a" * 4999 + b".")
    with pytest.raises(CheckpointError, match="nested too deeply"):
        read_checkpoints([tmp_path / "w.pt"])
