"""Modules of every kind have their row: measured, or with the reason why not; and none keeps the others from it."""

from __future__ import annotations

import threading
import warnings
from dataclasses import dataclass

import pytest
import torch
import torch.multiprocessing
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.nn import functional as F

from ckrm_kernels import measure
from ckrm_kernels.layers import descriptions, model_layers
from ckrm_kernels.measurement import structure_of


def plain_rows(model: nn.Module) -> list[tuple]:
    return [(each.name, each.filters, each.pairs, each.redundancy) for each in measure(model, 0.2).measured]


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(4, 6, 3, groups=2), nn.BatchNorm2d(6), nn.ConvTranspose2d(6, 4, 3), nn.Conv2d(4, 4, 3, groups=4)
    ).eval()


# ---- traced, scripted, exported --------------------------------------------------------------------------------------


def traced(model: nn.Module) -> nn.Module:
    return torch.jit.trace(model, torch.randn(1, 4, 9, 9))


def exported(model: nn.Module) -> nn.Module:
    return torch.export.export(model, (torch.randn(1, 4, 9, 9),)).module()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("how", [torch.jit.script, traced, exported, torch.fx.symbolic_trace])
def test_a_traced_model_is_measured_as_the_model(how):
    model = network()
    report = measure(how(model), 0.2)
    assert plain_rows(how(model)) == plain_rows(model)
    assert report.layers[1].reason == "normalisation, no filters"
    assert len(report.layers) == 4


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("how", [torch.jit.script, traced, exported])
def test_a_single_traced_convolution(how):
    conv = nn.Conv2d(4, 6, 3, groups=2)
    (row,) = measure(how(conv), 0.2).layers
    assert (row.name, row.pairs, row.redundancy) == ("", 6, measure(conv, 0.2).layers[0].redundancy)


@pytest.mark.filterwarnings("ignore")
def test_frozen_and_nested_scripts():
    model = network()
    del model[1]  # which freezing would fold
    frozen = torch.jit.freeze(torch.jit.script(model))
    assert plain_rows(frozen) == plain_rows(model)
    assert all("frozen TorchScript" in row.reason for row in measure(frozen).layers)
    both = nn.ModuleDict({"script": torch.jit.script(network()), "frozen": frozen, "conv": nn.Conv2d(3, 4, 3)})
    names = [layer.name for layer in measure(both).measured]
    assert names == ["script.0", "script.2", "script.3", "frozen.0", "frozen.1", "frozen.2", "conv"]


class Standardised(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight - self.weight.mean(), self.bias)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("how", [torch.jit.script, traced])
def test_what_a_script_does_with_its_weight_is_not_guessed(how):
    (row,) = measure(how(nn.Sequential(Standardised(4, 6, 3)))).layers
    assert (row.kind, row.status) == ("Standardised", "skipped")
    assert "measure the module that it was made from" in row.reason


@pytest.mark.filterwarnings("ignore")
def test_a_script_without_weights_of_its_own_says_what_to_measure():
    (row,) = measure(torch.jit.freeze(torch.jit.script(nn.Sequential(nn.PReLU()).eval()))).layers
    assert "measure the module that it was made from" in row.reason


@pytest.mark.filterwarnings("ignore")
def test_an_exported_program_is_no_module():
    program = torch.export.export(network(), (torch.randn(1, 4, 9, 9),))
    with pytest.raises(TypeError, match=r"got ExportedProgram: measure its module\(\)"):
        measure(program)


# ---- tensors that say themselves what operators do -----------------------------------------------------------------


class Rounded(Tensor):
    """A weight kept in int8 that implements next to nothing, as those of quantisation packages."""

    @staticmethod
    def __new__(cls, stored: Tensor, scale: float, readable: bool) -> Rounded:
        return torch.Tensor._make_wrapper_subclass(cls, stored.shape, dtype=torch.float32)

    def __init__(self, stored: Tensor, scale: float, readable: bool) -> None:
        self.stored, self.scale, self.readable = stored, scale, readable

    def dequantize(self) -> Tensor:
        if not self.readable:
            raise NotImplementedError("no way back")
        return self.stored.float() * self.scale

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.detach.default:
            return args[0]
        raise NotImplementedError(f"{func} is not implemented")


def with_rounded(module: nn.Module, readable: bool = True) -> nn.Module:
    stored = torch.randint(-100, 100, module.weight.shape, dtype=torch.int8)
    module.weight = nn.Parameter(Rounded(stored, 0.01, readable), requires_grad=False)
    return module


def test_a_module_that_answers_every_attribute_with_an_error_does_not_stop_the_others():
    class Closed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self._parameters["weight"] = nn.Parameter(torch.randn(4))

        def __getattr__(self, name):
            raise RuntimeError(f"getattr {name}")

    first, second = model_layers(nn.Sequential(nn.Conv2d(3, 4, 3), Closed()))
    assert first.shape == (4, 3, 3, 3)
    assert second.banks == ()


def test_a_quantised_tensor_is_measured_as_the_numbers_that_it_stands_for():
    conv = with_rounded(nn.Conv2d(3, 6, 3))
    plain = nn.Conv2d(3, 6, 3)
    plain.weight = nn.Parameter(conv.weight.dequantize())
    report = measure(nn.Sequential(conv, with_rounded(nn.Linear(4, 4)), nn.Conv2d(6, 4, 3)))
    assert [row.status for row in report.layers] == ["measured", "skipped", "measured"]
    assert report.layers[0].reason == "Rounded, dequantised"
    assert report.layers[0].histogram == measure(plain).layers[0].histogram


def test_a_tensor_that_can_not_be_read_stops_no_other_layer():
    model = nn.Sequential(with_rounded(nn.Linear(4, 4), readable=False), nn.Conv2d(6, 4, 3))
    first, second = measure(model).layers
    assert first.reason == "its weight can't be computed: no way back"
    assert second.status == "measured"


class Named(Tensor):
    """A subclass with numbers of its own."""


def test_a_subclass_with_numbers_of_its_own_is_measured():
    conv = nn.Conv2d(3, 4, 3)
    expected = measure(conv).layers
    conv.weight = nn.Parameter(conv.weight.detach().as_subclass(Named))
    assert measure(conv).layers == expected


def _sharded_rows(rank: int, path: str) -> None:
    warnings.simplefilter("ignore")
    torch.distributed.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=2)
    for kept in (True, False):
        model = FullyShardedDataParallel(
            nn.Sequential(nn.Conv2d(3, 6, 3)), use_orig_params=kept, device_id=torch.device("cpu")
        )
        (layer,) = model_layers(model)
        assert (layer.name, layer.banks, layer.note) == (
            "0",
            (),
            "sharded by FSDP1, measure within its summon_full_params",
        )


@pytest.mark.exhaustive
def test_the_shards_of_two_processes_are_named(tmp_path):
    torch.multiprocessing.spawn(_sharded_rows, (str(tmp_path / "meeting"),), 2)


def test_a_weight_whose_storage_was_freed_is_not_read():
    conv = nn.Conv2d(3, 6, 3)
    conv.weight.untyped_storage().resize_(0)  # as FSDP leaves it between two passes
    (layer,) = model_layers(conv)
    assert (layer.banks, layer.note) == ((), "sharded by FSDP1, measure within its summon_full_params")


# ---- modules that are no convolution by their class ---------------------------------------------------------------


class Holder(nn.Module):
    """With the tensors and the settings given."""

    def __init__(self, settings: dict | None = None, **tensors: Tensor) -> None:
        super().__init__()
        for name, value in (settings or {}).items():
            setattr(self, name, value)
        for name, tensor in tensors.items():
            if name.startswith("running") or not tensor.is_floating_point():
                self.register_buffer(name, tensor)
            else:
                self.register_parameter(name, nn.Parameter(tensor))


class FrozenBatch(Holder):
    pass


class LlamaRMSNorm(Holder):
    pass


def settings(kernel: object = (3, 3), groups: int = 1) -> dict:
    return {"in_channels": 4, "out_channels": 6, "kernel_size": kernel, "groups": groups}


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (FrozenBatch(weight=torch.ones(4), running_mean=torch.ones(4)), "normalisation, no filters"),
        (LlamaRMSNorm(weight=torch.ones(4)), "normalisation, no filters"),
        (
            Holder(settings() | {"num_experts": 4}, weight=torch.randn(4, 216)),
            "conditional convolution, each pass mixes its weight from experts",
        ),
        (Holder(weight=torch.randn(6, 4, 3, 3)), "a weight of shape (6, 4, 3, 3), whose use is not known"),
        (Holder(settings(), weight=torch.randn(4, 6, 3, 3)), "a weight of shape (4, 6, 3, 3), whose use is not known"),
        (Holder(kernels=torch.randn(6, 4, 3)), "a parameter kernels of shape (6, 4, 3), whose use is not known"),
        (Holder(weight=torch.randn(6, 4)), "not a convolution"),
    ],
)
def test_what_is_no_convolution_says_what_it_is(module, reason):
    (row,) = measure(module).layers
    assert (row.status, row.reason) == ("skipped", reason)


@pytest.mark.parametrize(
    "module",
    [Holder(position=torch.randn(1, 9, 4)), Holder(scale=torch.ones(4)), Holder(temperature=torch.ones(4, 1, 1))],
)
def test_other_parameters_are_no_layers(module):
    assert measure(module).layers == ()


@pytest.mark.parametrize("kernel", [3, (3, 3)])
def test_a_module_with_the_settings_and_the_shape_of_a_convolution_is_measured_as_one(kernel):
    """Such as a deformable convolution."""
    weight = torch.randn(6, 2, 3, 3)
    conv = nn.Conv2d(4, 6, 3, groups=2)
    conv.weight = nn.Parameter(weight)
    (row,), (expected,) = measure(Holder(settings(kernel, 2), weight=weight)).layers, measure(conv).layers
    assert row.histogram == expected.histogram
    assert row.reason == "2 groups, compared within each; taken for a convolution by its shape"


class WithoutWeight(nn.Conv2d):
    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes)
        self.weight = None
        self.register_buffer("weight_fp8", torch.zeros(self.out_channels, 9).to(torch.float8_e4m3fn))

    def forward(self, x: Tensor) -> Tensor:
        raise NotImplementedError


def test_a_convolution_without_a_weight_of_its_own_stops_no_other_layer():
    bare = nn.Conv2d(3, 4, 3)
    del bare.weight
    rows = measure(nn.Sequential(WithoutWeight(3, 4, 3), bare, nn.Conv2d(4, 4, 3))).layers
    assert rows[0].reason == "it has no weight that can be had, and holds weight_fp8 float8_e4m3fn (4, 9)"
    assert rows[1].reason == "it has no weight that can be had, and holds no tensor"
    assert rows[2].status == "measured"


# ---- the shape of the model ------------------------------------------------------------------------------------------


class Child(nn.Module):
    def __init__(self, parent: nn.Module) -> None:
        super().__init__()
        self.parent, self.conv = parent, nn.Conv2d(3, 4, 3)


class Parent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.child, self.conv = Child(self), nn.Conv2d(4, 4, 3)


def test_a_module_that_registers_its_parent_is_entered_once():
    assert [layer.name for layer in model_layers(Parent())] == ["child.conv", "conv"]


class OverridingChild(nn.Conv2d):
    """Its private copy holds the parent, which holds it."""

    def __init__(self, parent: nn.Module) -> None:
        super().__init__(3, 4, 3)
        self.parent, self.lock = parent, threading.Lock()

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * self.parent.scale)


def test_a_weight_that_is_computed_from_the_parent():
    parent = nn.Module()
    parent.scale, parent.conv = nn.Parameter(torch.tensor(3.0)), OverridingChild(parent)
    (layer,) = model_layers(parent)
    assert torch.equal(layer.banks[0], parent.conv.weight * 3)


@dataclass(eq=True)
class Unhashable(nn.Module):
    width: int

    def __post_init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, self.width, 3)

    __hash__ = None


def test_a_module_without_a_hash():
    assert [layer.name for layer in model_layers(Unhashable(4))] == ["conv"]


# ---- structure -------------------------------------------------------------------------------------------------------


def tied(order: str) -> nn.Module:
    convs = {"a": nn.Conv2d(3, 4, 3), "b": nn.Conv2d(3, 4, 3), "c": nn.Conv2d(3, 5, 3)}
    convs["b"].weight = convs["a"].weight
    return nn.ModuleDict({name: convs[name] for name in order})


def test_structure_does_not_depend_on_the_order():
    first, second = model_layers(tied("abc")), model_layers(tied("cba"))
    assert structure_of(first) == structure_of(second)
    assert hash(structure_of(first)) == hash(structure_of(second))
    untied = nn.ModuleDict({"a": nn.Conv2d(3, 4, 3), "b": nn.Conv2d(3, 4, 3), "c": nn.Conv2d(3, 5, 3)})
    assert structure_of(first) != structure_of(model_layers(untied))
    assert structure_of(first) != structure_of(first[:2])
    assert descriptions(first)["b"] == "layer 'b' (Conv2d, (4, 3, 3, 3), shared by a, b)"


def test_layers_are_compared_by_identity():
    first, second = model_layers(nn.Conv2d(3, 4, 3)) * 2
    assert first == second
    assert first != model_layers(nn.Conv2d(3, 4, 3))[0]
    assert len({first, second}) == 1
