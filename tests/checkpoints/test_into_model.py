"""A checkpoint's tensors in the model that they belong to."""

import sys

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils import parametrizations, prune

from ckrm_kernels import measure
from ckrm_kernels.checkpoints import read_model
from ckrm_kernels.checkpoints.into_model import constructor_of, load_into
from ckrm_kernels.checkpoints.stored import CheckpointError
from ckrm_kernels.layers import model_layers

MODULE = """
from safetensors.torch import save_file
from torch import nn
class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(4, 8, 3, groups=2), nn.BatchNorm2d(8))
    @classmethod
    def wide(cls):
        return cls()
def sized(width):
    return nn.Conv2d(3, width, 3)
model = nn.Conv2d(3, 4, 3)
number = 3
"""


@pytest.fixture
def importable(tmp_path, monkeypatch):
    def make(name: str, content: str) -> None:
        (tmp_path / f"{name}.py").write_text(content)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, name, raising=False)

    return make


def grouped() -> nn.Module:
    return nn.Sequential(nn.Conv2d(4, 8, 3, groups=2), nn.BatchNorm2d(8), nn.ConvTranspose2d(8, 6, 3))


def refused(make_model, tensors) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_into(make_model, tensors, "dir/a.pt")
    assert str(caught.value).startswith("dir/a.pt: ")
    return str(caught.value).removeprefix("dir/a.pt: ")


def changed(tensors, leave_out=(), **others):
    return {name: value for name, value in tensors.items() if name not in leave_out} | others


def test_the_tensors_are_in_the_model(tmp_path):
    state = grouped().state_dict()
    model = load_into(grouped, state, "a.pt")
    assert not model.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name])
    assert [layer.note for layer in model_layers(model)][:1] == ["2 groups, compared within each"]


def test_groups_and_transposition_are_known_in_the_model():
    """A layer of a ResNeXt has 192 pairs in its groups, 8,128 in all; a transposed one as many filters as outputs."""

    def model():
        return nn.Sequential(nn.Conv2d(128, 128, 3, groups=32), nn.ConvTranspose2d(32, 64, 3))

    rows = measure(load_into(model, model().state_dict(), "a.pt")).layers
    assert [row.pairs for row in rows] == [192, 64 * 63 // 2]
    assert [row.filters for row in rows] == [128, 64]


def test_dtypes_are_those_of_the_file():
    state = {name: value.to(torch.bfloat16) for name, value in nn.Conv2d(3, 4, 3).state_dict().items()}
    assert load_into(lambda: nn.Conv2d(3, 4, 3), state, "a.pt").weight.dtype == torch.bfloat16


def test_buffers_of_a_normalisation_may_lack():
    state = grouped().state_dict()
    load_into(grouped, changed(state, ("1.num_batches_tracked", "1.running_mean")), "a.pt")


def test_what_is_no_tensor_in_a_state_dict_may_lack():
    class Counting(nn.Conv2d):
        def get_extra_state(self):
            return {"calls": 3}

        def set_extra_state(self, state):
            pass

    state = {name: value for name, value in Counting(3, 4, 3).state_dict().items() if isinstance(value, torch.Tensor)}
    load_into(lambda: Counting(3, 4, 3), state, "a.pt")


@pytest.mark.parametrize(("saved", "built"), [("new", "new"), ("old", "new"), ("old", "old")])
def test_weight_norm_as_it_was_saved(saved, built):
    normed = {"new": parametrizations.weight_norm, "old": nn.utils.weight_norm}
    with pytest.warns(FutureWarning) if "old" in (saved, built) else torch.no_grad():
        source = normed[saved](nn.Conv2d(3, 4, 3))
        state = {name: value.detach() * 2 for name, value in source.state_dict().items()}
        model = load_into(lambda: normed[built](nn.Conv2d(3, 4, 3)), state, "a.pt")
    magnitude, direction = (value for name, value in state.items() if name != "bias")
    weight = magnitude * direction / direction.flatten(1).norm(dim=1)[:, None, None, None]
    torch.testing.assert_close(model_layers(model)[0].banks[0], weight)


def test_masks_are_part_of_a_weight():
    def pruned():
        conv = nn.Conv2d(3, 4, 3)
        prune.l1_unstructured(conv, "weight", 0.5)
        return conv

    source = pruned()
    model = load_into(pruned, source.state_dict(), "a.pt")
    torch.testing.assert_close(model_layers(model)[0].banks[0], source.weight)
    assert "it lacks weight_mask (of 3)" in refused(pruned, changed(source.state_dict(), ("weight_mask",)))


def test_a_shared_parameter_may_be_saved_once():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.head = nn.Embedding(9, 4), nn.Linear(4, 9, bias=False)
            self.head.weight = self.table.weight

    value = torch.randn(9, 4)
    model = load_into(Tied, {"table.weight": value}, "a.pt")
    assert torch.equal(model.head.weight, value)
    assert "it lacks table.weight, head.weight (of 2)" in refused(Tied, {})


def test_what_does_not_fit_is_named():
    state = grouped().state_dict()
    lacks = refused(grouped, changed(state, ("0.weight", "2.bias")))
    assert lacks.endswith(":grouped: it lacks 0.weight, 2.bias (of 9)")
    unexpected = refused(grouped, changed(state, extra=torch.zeros(1)))
    assert unexpected.endswith("the model has no extra (of 10)")
    both = refused(grouped, {f"net.{name}": value for name, value in state.items()})
    assert "it lacks 0.weight, 0.bias, 1.weight and 3 more (of 9); the model has no net.0.weight, " in both
    others = {"extra": torch.zeros(1), "0.weight": torch.zeros(8, 4, 3, 3)}
    all_three = refused(grouped, changed(state, ("0.bias",), **others))
    assert all_three.endswith(
        ":grouped: it lacks 0.bias (of 9); the model has no extra (of 9); "
        "other shapes than the model's: 0.weight (8, 4, 3, 3) for (8, 2, 3, 3) (of 9)"
    )


def test_lazy_modules_take_the_shapes_of_the_file():
    state = nn.Conv2d(3, 4, 3).state_dict()
    assert torch.equal(load_into(lambda: nn.LazyConv2d(4, 3), state, "a.pt").weight, state["weight"])


def test_tensors_that_no_parameter_can_be():
    state = changed(nn.Conv2d(3, 4, 3).state_dict(), weight=torch.zeros(4, 3, 3, 3, dtype=torch.int8))
    assert "does not fit " in refused(lambda: nn.Conv2d(3, 4, 3), state)


def test_a_model_that_can_not_be_made():
    def broken():
        raise OSError("no configuration")

    assert refused(broken, {}).endswith("<locals>.broken raised OSError: no configuration")
    assert "must make a torch.nn.Module, got an object of the type dict" in refused(dict, {})


def test_constructors_by_their_import_paths(importable):
    importable("some_models", MODULE)
    assert type(constructor_of("some_models:Net")()).__name__ == "Net"
    assert type(constructor_of("some_models:Net.wide")()).__name__ == "Net"
    own = constructor_of("some_models:model")
    assert isinstance(own(), nn.Conv2d)
    assert own() is not own()
    state = constructor_of("some_models:Net")().state_dict()
    assert load_into(constructor_of("some_models:Net"), state, "a.pt")[0].groups == 2


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("Net", "like must be module:constructor, such as my_models:Net, got 'Net'"),
        (":Net", "like must be module:constructor"),
        ("some_models:", "like must be module:constructor"),
        (
            "nowhere_models:Net",
            "like 'nowhere_models:Net' can't be imported: No module named 'nowhere_models'; install it, or put its "
            "folder on PYTHONPATH (the current one: PYTHONPATH=.)",
        ),
        ("some_models:Other", "can't be imported: module 'some_models' has no attribute 'Other'"),
        ("some_models:Net.other", "has no attribute 'other'"),
        ("some_models:number", "like must be what makes a model, got 'some_models:number', which is of the type int"),
        (
            "some_models:sized",
            "like must need no arguments, and 'some_models:sized' does (missing a required argument: ",
        ),
        ("breaks_models:Net", "can't be imported: ZeroDivisionError: division by zero"),
        ("exits_models:Net", "can't be imported: exits_models ends the program when it is imported"),
        ("needs_models:Net", "can't be imported: No module named 'nothing_like_it'"),
        ("..:Net", "can't be imported"),
    ],
)
def test_what_is_no_constructor(importable, path, words):
    importable("some_models", MODULE)
    importable("breaks_models", "1 / 0")
    importable("exits_models", "raise SystemExit(3)")
    importable("needs_models", "import nothing_like_it")
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        constructor_of(path)
    assert words in str(caught.value)


def test_the_current_folder_is_not_on_the_path_by_itself(tmp_path, monkeypatch):
    (tmp_path / "here_models.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"PYTHONPATH=\."):
        constructor_of("here_models:Net")


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Conv2d(2, 3, 1, bias=False), nn.Conv2d(2, 3, 1, bias=False)
        self.other.weight, self.norm = self.one.weight, nn.BatchNorm2d(3)


@pytest.mark.parametrize("kind", ["plain", "nested", "half", "one name"])
def test_a_model_is_read_with_its_types_and_shared_tensors(tmp_path, kind):
    state = Tied().state_dict()
    state["norm.running_var"].fill_(3)
    kept = {name: value for name, value in state.items() if kind != "one name" or name != "other.weight"}
    kept = {name: value.half() if kind == "half" else value for name, value in kept.items()}
    torch.save({"epoch": 1, "model": kept} if kind == "nested" else kept, tmp_path / "a.pt")
    model, checkpoint = read_model(tmp_path / "a.pt", Tied)
    assert model.one.weight is model.other.weight
    assert model.one.weight.dtype == torch.float32
    assert torch.equal(model.one.weight, kept["one.weight"].float())
    assert torch.equal(model.norm.running_var, torch.full((3,), 3.0))
    assert not model.training
    assert [source.name for source in checkpoint.sources] == [str(tmp_path / "a.pt")]


def test_a_model_lacks_no_buffer_that_it_computes_with(tmp_path):
    state = Tied().state_dict()
    torch.save(changed(state, ("norm.num_batches_tracked",)), tmp_path / "a.pt")
    read_model(tmp_path / "a.pt", Tied)
    torch.save(changed(state, ("norm.running_mean", "norm.running_var")), tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"a\.pt: lacks norm\.running_mean, norm\.running_var, which the model"):
        read_model(tmp_path / "a.pt", Tied)


def test_a_model_is_read_of_one_checkpoint(tmp_path):
    for seed in (0, 1):
        (tmp_path / f"seed-{seed}").mkdir()
        save_file(nn.Conv2d(1, 2, 1).state_dict(), tmp_path / f"seed-{seed}/weights.safetensors")
    with pytest.raises(CheckpointError, match=r"holds 2 checkpoints, such as .*weights\.safetensors: name one"):
        read_model(tmp_path, lambda: nn.Conv2d(1, 2, 1))
