"""A small model written and loaded again: the same bit for bit, and nothing else passes for it."""

import copy
import json
from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from ckrm_kernels.shrinking.couplings import Coupling, Entries, Graph
from ckrm_kernels.shrinking.rows import ShrunkLayer
from ckrm_kernels.shrinking.saved import load_shrunk, save_shrunk
from ckrm_kernels.shrinking.surgery import without


class Net(nn.Module):
    """Two convolutions, a norm and two heads that share their weight."""

    def __init__(self, width=6):
        super().__init__()
        self.first = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.second = nn.Conv2d(width, 4, 3, bias=False)
        self.head, self.other = nn.Linear(4, 2), nn.Linear(4, 2)
        self.other.weight = self.head.weight
        self.register_buffer("scale", torch.full((width, 1, 1), 2.0), persistent=False)

    def forward(self, x):
        x = self.second(functional.relu(self.norm(self.first(x))) * self.scale).mean((2, 3))
        return self.head(x), self.other(x)


def along(tensor, dim, role, width=6):
    return Entries(tensor, dim, tuple((index,) for index in range(width)), role)


GRAPH = Graph(
    (),
    (
        Coupling(
            "first",
            6,
            (
                along("first.weight", 0, "produces"),
                *(along(f"norm.{name}", 0, "follows") for name in ("weight", "bias", "running_mean", "running_var")),
                along("scale", 0, "follows"),
                along("second.weight", 1, "consumes"),
            ),
        ),
    ),
    {},
)
REMOVED = {"first": (0, 3, 4)}


@dataclass
class Plan:
    model: nn.Module
    graph: Graph = GRAPH
    removed: dict = field(default_factory=lambda: REMOVED)
    layers: tuple = (ShrunkLayer("first", "Conv2d", "first", (1, 2, 5), 6, 3, 3, ""),)


def shrunk(seed=0, dtype=torch.float32):
    """The plan and the small model of a network with a past, its weights changed as by a fold."""
    torch.manual_seed(seed)
    model = Net().to(dtype)
    model(torch.randn(4, 3, 8, 8, dtype=dtype))
    small = without(model, GRAPH, REMOVED)
    with torch.no_grad():
        small.second.weight.mul_(1.5)
    return Plan(model.eval()), small.eval()


@pytest.fixture
def folder(tmp_path):
    plan, small = shrunk()
    save_shrunk(tmp_path, plan, small)
    return tmp_path


def edited(folder, **changes):
    path = folder / "plan.json"
    value = json.loads(path.read_text())
    path.write_text(json.dumps({**value, **changes}))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_loaded_model_is_the_saved_one_bit_for_bit(tmp_path, dtype):
    plan, small = shrunk(dtype=dtype)
    save_shrunk(tmp_path, plan, small)
    loaded = load_shrunk(Net, tmp_path)
    states = small.state_dict(), loaded.state_dict()
    assert list(states[0]) == list(states[1])
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert all(states[0][name].dtype == states[1][name].dtype for name in states[0])
    x = torch.randn(2, 3, 8, 8, dtype=dtype)
    if dtype == torch.float32:  # the buffer that is not saved is the constructor's
        assert all(torch.equal(a, b) for a, b in zip(small(x), loaded(x), strict=True))
    assert loaded.other.weight is loaded.head.weight
    assert not loaded.training
    assert loaded.first.out_channels == 3
    assert [p.requires_grad for p in loaded.parameters()] == [True] * 7


def test_a_model_that_is_given_stays_as_it_is(folder):
    torch.manual_seed(5)
    model = Net()
    before, draws = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    load_shrunk(model, folder)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training
    assert torch.equal(torch.get_rng_state(), draws)


def test_the_plan_says_what_stays_and_which_version_wrote_it(folder):
    import ckrm_kernels

    plan = json.loads((folder / "plan.json").read_text())
    assert plan["layers"] == {"first": [1, 2, 5]}
    assert plan["kept"]["second.weight"] == {"1": [1, 2, 5]}
    assert plan["original"]["second.weight"] == [4, 6, 3, 3]
    assert (plan["format"], plan["ckrm_kernels"]) == (1, ckrm_kernels.__version__)


def test_a_model_of_another_plan_is_not_saved(tmp_path):
    plan, small = shrunk()
    with pytest.raises(ValueError, match=r"first\.weight must be \(3, 3, 3, 3\), got \(6, 3, 3, 3\)"):
        save_shrunk(tmp_path, plan, plan.model)
    small.extra = nn.Parameter(torch.zeros(1))
    with pytest.raises(ValueError, match="another tensor extra"):
        save_shrunk(tmp_path, plan, small)
    assert not list(tmp_path.iterdir())


def test_what_is_no_plan_is_refused(tmp_path):
    small = shrunk()[1]
    with pytest.raises(TypeError, match="plan must be a ShrinkPlan, as plan_shrink gives it, got NoneType"):
        save_shrunk(tmp_path / "new", None, small)
    assert not list(tmp_path.iterdir())


class Renamed(Net):
    """Its state dict has other names than its tensors."""

    def state_dict(self, *arguments, **options):
        return {f"net.{name}": value for name, value in super().state_dict(*arguments, **options).items()}


class Stateful(Net):
    def get_extra_state(self):
        return {"step": 3}


def test_every_tensor_is_saved_whatever_the_state_dict_calls_it(tmp_path):
    plan = Plan(Renamed().eval())
    small = without(plan.model, GRAPH, REMOVED)
    save_shrunk(tmp_path, plan, small)
    loaded = load_shrunk(Renamed, tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), small.parameters(), strict=True))


def test_state_that_is_no_tensor_is_refused(tmp_path):
    plan = Plan(Stateful())
    with pytest.raises(ValueError, match="must hold its state in tensors, and it has get_extra_state"):
        save_shrunk(tmp_path, plan, without(plan.model, GRAPH, REMOVED))
    assert not list(tmp_path.iterdir())


def test_another_model_is_named_by_its_first_tensor_that_differs(folder):
    with pytest.raises(ValueError, match=r"plan\.json: is of another model: first\.weight is of shape \(6, 3, 3, 3\)"):
        load_shrunk(Net(7), folder)
    with pytest.raises(ValueError, match=r"is of another model: weight is not there in the plan's"):
        load_shrunk(nn.Conv2d(3, 6, 3), folder)
    with pytest.raises(TypeError, match=r"must be a torch\.nn\.Module or what makes one, got int"):
        load_shrunk(lambda: 3, folder)


def test_what_is_not_there(folder):
    with pytest.raises(FileNotFoundError, match=r"plan\.json: no such file"):
        load_shrunk(Net, folder / "nowhere")
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors: no such file"):
        load_shrunk(Net, folder)


KEPT = {"first.weight": {"0": [1, 2, 5]}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "format must be 1, which this version reads, got 2"),
        ({"layers": []}, r"layers must be of the type dict, got \[\]"),
        ({"sha256": 3}, "sha256 must be of the type str, got 3"),
        ({"kept": {"nothing": {}}}, "kept: nothing is no tensor of the model"),
        ({"kept": {"first.weight": [1]}}, "kept: first.weight must hold indices by dimension"),
        ({"kept": {"first.weight": {"4": [1]}}}, "kept: first.weight has no dimension '4'"),
        ({"kept": {"first.weight": {"-1": [1]}}}, "kept: first.weight has no dimension '-1'"),
        ({"kept": {"first.weight": {"0": []}}}, "dimension 0: must be a list of indices"),
        ({"kept": {"first.weight": {"0": [True]}}}, "dimension 0: must be a list of indices"),
        ({"kept": {"first.weight": {"0": [1.0]}}}, "dimension 0: must be a list of indices"),
        ({"kept": {"first.weight": {"0": [2, 1]}}}, "dimension 0: must be ascending indices below 6"),
        ({"kept": {"first.weight": {"0": [1, 1]}}}, "dimension 0: must be ascending indices below 6"),
        ({"kept": {"first.weight": {"0": [-1]}}}, "dimension 0: must be ascending indices below 6"),
        ({"kept": {"first.weight": {"0": [6]}}}, "dimension 0: must be ascending indices below 6"),
        ({"kept": KEPT}, r"norm\.weight must be \(6,\) in the small model, got \(3,\)"),
        ({"kept": {"first.weight": {"0": [1, 2]}}}, r"first\.weight must be \(2, 3, 3, 3\) in the small model"),
        ({"sha256": "0" * 64}, r"model\.safetensors: is not the file that plan\.json was written with"),
    ],
)
def test_a_plan_edited_by_hand_is_refused_by_its_key(folder, changes, message):
    edited(folder, **changes)
    with pytest.raises(ValueError, match=message) as raised:
        load_shrunk(Net, folder)
    assert str(folder) in str(raised.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\xff\xfe", b"[" * 100_000, b'{"format": 1'])
def test_a_foreign_or_truncated_plan_is_refused(folder, content):
    (folder / "plan.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"plan\.json: is n(o plan of a shrunk model|ot valid JSON)"):
        load_shrunk(Net, folder)


@given(st.data())
@settings(max_examples=60)
def test_a_plan_with_any_damage_is_refused_or_still_the_same(folder, data):
    """Whatever is changed: no other error, and no other model."""
    plan, small = shrunk()
    save_shrunk(folder, plan, small)
    content = bytearray((folder / "plan.json").read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place : place + data.draw(st.integers(0, 3))] = data.draw(
            st.sampled_from([b"", b"0", b"[", b"-1", b"9e9"])
        )
    (folder / "plan.json").write_bytes(content)
    loaded, refused = None, ""
    try:
        loaded = load_shrunk(Net, folder)
    except ValueError as error:
        refused = str(error)
    assert str(folder) in refused or loaded
    if loaded:
        assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), small.parameters(), strict=True))


def test_truncated_or_other_weights_are_refused(folder):
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(ValueError, match=r"model\.safetensors: is not the file that plan\.json was written with"):
        load_shrunk(Net, folder)
    from hashlib import sha256

    edited(folder, sha256=sha256(whole[:-1]).hexdigest())
    with pytest.raises(ValueError, match=r"model\.safetensors: is a safetensors file, truncated or damaged"):
        load_shrunk(Net, folder)


@pytest.mark.parametrize("dtype", [torch.bool, torch.int32, torch.float32])
def test_whole_numbers_of_another_dtype_are_refused(folder, dtype):
    from hashlib import sha256

    import safetensors.torch

    path = folder / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    name = next(name for name, tensor in tensors.items() if tensor.dtype == torch.int64)
    path.write_bytes(safetensors.torch.save({**tensors, name: tensors[name].to(dtype)}))
    edited(folder, sha256=sha256(path.read_bytes()).hexdigest())
    with pytest.raises(ValueError, match=f"{name} must be like torch.int64, got {dtype}"):
        load_shrunk(Net, folder)


@pytest.mark.parametrize(
    ("model", "error", "words"),
    [
        (lambda: Net().to("meta"), ValueError, "on the meta device"),
        (Net().to("meta"), ValueError, "on the meta device"),
        (nn.Sequential(nn.LazyConv2d(3, 3)), ValueError, "0 is a lazy layer"),
        ("models:Net", TypeError, "model must be a torch.nn.Module or what makes one, got str"),
        (lambda: None, TypeError, "model must be a torch.nn.Module or what makes one, got NoneType"),
    ],
)
def test_what_can_hold_no_values_is_refused(folder, model, error, words):
    with pytest.raises(error, match=words):
        load_shrunk(model, folder)


def test_a_write_that_fails_leaves_no_plan_of_other_weights(folder, monkeypatch):
    """Where the second file can't be written, the first one's weights have no plan that would not fit them."""
    plan, small = shrunk(seed=1)
    monkeypatch.setattr("ckrm_kernels.shrinking.saved.write_json", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save_shrunk(folder, plan, small)
    with pytest.raises(FileNotFoundError, match=r"plan\.json"):
        load_shrunk(Net, folder)
