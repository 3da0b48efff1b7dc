"""The weight that a layer's forward pass uses, against what its forward is written to do; and that nothing changes."""

from __future__ import annotations

import copy
import threading

import pytest
import torch
from definition import Psi, omega
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize, prune

from ckrm_kernels import measure, redundancy
from ckrm_kernels.layers import model_layers
from ckrm_kernels.used_weights.forward import AS_USED, DRAWN, HOOKED, OVERRIDDEN, REPLACED, used_weight


def standardised(weight: Tensor) -> Tensor:
    """Each filter with mean 0 and variance 1."""
    flat = weight.flatten(1)
    return ((flat - flat.mean(1, keepdim=True)) / (flat.var(1, keepdim=True, unbiased=False) + 1e-5).sqrt()).view_as(
        weight
    )


class Standardised(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, standardised(self.weight), self.bias, self.stride, self.padding, self.dilation, self.groups)


class StandardisedBelow(nn.Conv1d):
    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(x, standardised(weight), bias)


class Halved(nn.ConvTranspose2d):
    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        return F.conv_transpose2d(x, weight=self.weight / 2, stride=self.stride)


class Ternary(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(F.linear(x, self.weight.sign() * self.weight.abs().mean(), self.bias))


class Renormed(nn.Conv2d):
    """Changes its own parameter in place."""

    def forward(self, x: Tensor) -> Tensor:
        self.weight.data.mul_(0.5)
        self.weight.data = torch.renorm(self.weight.data, 2, 0, 0.1)
        return super().forward(x)


class Factored(nn.Conv2d):
    """Without a weight of its own: a product of two factors."""

    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes)
        del self.weight
        self.u = nn.Parameter(torch.randn(self.out_channels, 2))
        self.v = nn.Parameter(torch.randn(2, self.in_channels * 9))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, (self.u @ self.v).view(self.out_channels, self.in_channels, 3, 3), self.bias)


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (Standardised(4, 6, 3, padding=1), lambda m: standardised(m.weight)),
        (Standardised(4, 6, 3, groups=2, padding=2, padding_mode="reflect"), lambda m: standardised(m.weight)),
        (StandardisedBelow(3, 5, 4, dilation=2), lambda m: standardised(m.weight)),
        (Halved(3, 5, 3), lambda m: m.weight / 2),
        (Ternary(5, 4), lambda m: m.weight.sign() * m.weight.abs().mean()),
        (Renormed(3, 5, 3), lambda m: torch.renorm(m.weight / 2, 2, 0, 0.1)),
        (Factored(3, 5, 3), lambda m: (m.u @ m.v).view(5, 3, 3, 3)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_the_weight_that_a_forward_computes(module, expected):
    before = {name: (tensor.clone(), tensor._version) for name, tensor in module.named_parameters()}
    weight, note = used_weight(module)
    assert note == AS_USED
    assert weight.requires_grad
    for name, tensor in module.named_parameters():
        assert torch.equal(tensor, before[name][0])
        assert tensor._version == before[name][1]
    torch.testing.assert_close(weight, expected(module))
    weight.square().sum().backward()
    assert any(parameter.grad is not None for name, parameter in module.named_parameters() if name != "bias")


def test_the_same_function_has_the_same_redundancy_at_any_scale_of_what_is_stored():
    conv = Standardised(2, 8, 3)
    rows = []
    for scale in (1.0, 0.5):
        with torch.no_grad():
            conv.weight.mul_(scale)
        (row,) = measure(conv, 0.3, alpha=0.0).layers
        rows.append(row)
        expected = (omega(standardised(conv.weight), Psi(alpha=0.0)) > 0.3).double().mean().item()
        assert row.redundancy == pytest.approx(expected)
        assert row.reason == AS_USED
    assert redundancy(conv, 0.3, alpha=0.0).item() == rows[1].redundancy


def test_a_grouped_layer_that_computes_its_weight_is_compared_within_its_groups():
    (row,) = measure(Standardised(4, 6, 3, groups=2)).layers
    assert (row.pairs, row.reason) == (6, f"2 groups, compared within each; {AS_USED}")


class SamePadding(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, (1, 1, 1, 1)))


def test_a_forward_that_uses_the_weight_as_it_is_has_no_note():
    conv = SamePadding(3, 4, 3)
    weight, note = used_weight(conv)
    assert weight is conv.weight
    assert note == ""


def test_inside_inference_autocast_and_a_default_device_without_values():
    conv = Standardised(3, 4, 3)
    expected = measure(conv).layers
    with torch.inference_mode():
        assert measure(conv).layers == expected
        assert measure(Standardised(3, 4, 3)).layers[0].reason == AS_USED
    with torch.autocast("cpu", torch.bfloat16):
        assert measure(conv).layers == expected
    with torch.device("meta"):
        assert measure(conv).layers == expected


# ---- quantisation-aware training -------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
def test_quantisation_aware_layers_are_measured_as_they_round():
    quantization = torch.ao.quantization
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Linear(4, 4)).train()
    model.qconfig = quantization.get_default_qat_qconfig("x86")
    model = quantization.prepare_qat(model)
    before = copy.deepcopy(model.state_dict())
    conv, _ = layers = model_layers(model)
    assert [layer.note for layer in layers] == [AS_USED, AS_USED]
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    rounded = copy.deepcopy(model[0].weight_fake_quant)(model[0].weight)
    assert torch.equal(conv.banks[0], rounded)
    assert not torch.equal(conv.banks[0], model[0].weight)


# ---- what can't be had so --------------------------------------------------------------------------------------------


class Conditional(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * x.mean(), self.bias)


class WithBranch(nn.Linear):
    """As loralib's Linear: an update that never becomes a part of the weight."""

    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes)
        self.a, self.b = nn.Parameter(torch.randn(2, sizes[0])), nn.Parameter(torch.randn(sizes[1], 2))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias) + x @ self.a.T @ self.b.T


class NeedsMore(nn.Conv2d):
    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * scale)


class Cached(nn.Conv2d):
    """Keeps what it has seen, in all the ways that a module can."""

    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes)
        self.calls, self.seen, self.by_name, self.lock = 0, [], {"all": []}, threading.Lock()
        self.register_buffer("mean", torch.zeros(()))
        self.norm = nn.BatchNorm2d(sizes[1])

    def forward(self, x: Tensor) -> Tensor:
        with self.lock:
            self.calls += 1
            self.seen.append(x)
            self.by_name["all"].append(x)
            self.mean += x.mean()
        return self.norm(F.conv2d(x, self.weight * 2))


@pytest.mark.parametrize("module", [Conditional(3, 4, 3), WithBranch(4, 5), NeedsMore(3, 4, 3)])
def test_what_a_forward_does_not_say_is_measured_as_stored_and_says_so(module):
    weight, note = used_weight(module)
    assert weight is module.weight
    assert note == OVERRIDDEN


def test_running_a_forward_in_private_leaves_no_trace():
    conv = Cached(3, 4, 3).train()
    outputs = []
    conv.register_forward_hook(lambda *_: outputs.append(1))
    weight, note = used_weight(conv)
    assert torch.equal(weight, conv.weight * 2)
    assert note == AS_USED
    assert (conv.calls, conv.seen, conv.by_name, outputs) == (0, [], {"all": []}, [])
    assert conv.mean == 0
    assert conv.norm.num_batches_tracked == 0
    assert conv.training
    assert conv.norm.training


def test_unknown_hooks_and_replaced_forwards_do_not_run_and_are_named():
    hooked, replaced = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)
    hooked.register_forward_pre_hook(lambda *_: pytest.fail("ran"))
    replaced.forward = lambda _: pytest.fail("ran")
    for module, note in ((hooked, HOOKED), (replaced, REPLACED)):
        assert used_weight(module) == (module.weight, note)


def test_a_hook_that_computes_another_tensor_is_no_unknown_one():
    conv = prune.l1_unstructured(nn.Conv2d(3, 4, 3), "bias", 1)
    weight, note = used_weight(conv)
    assert weight is conv.weight
    assert note == ""


@pytest.mark.filterwarnings("ignore")
def test_an_overridden_forward_gets_the_weight_that_a_hook_computes():
    conv = prune.l1_unstructured(Standardised(3, 4, 3), "weight", 0.5)
    with torch.no_grad():
        conv.weight_orig.mul_(torch.linspace(0.5, 2, 108).view(4, 3, 3, 3))
    torch.testing.assert_close(used_weight(conv).weight, standardised(conv.weight_orig * conv.weight_mask))


class Equalised(nn.Conv2d):
    """Its weight is a property."""

    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes)
        self.stored, self.reads = nn.Parameter(self._parameters.pop("weight").detach()), 0

    @property
    def weight(self) -> Tensor:
        self.reads += 1
        return self.stored * 3

    @weight.setter
    def weight(self, value: Tensor) -> None:
        self._parameters["weight"] = value


def test_a_weight_that_is_a_property_is_read_in_private():
    conv = Equalised(3, 4, 3)
    reads = conv.reads
    assert torch.equal(used_weight(conv).weight, conv.stored * 3)
    assert conv.reads == reads


@pytest.mark.parametrize("kind", [Standardised, Equalised, nn.Conv2d])
def test_layers_that_compute_one_weight_from_the_same_parameters_share_it(kind):
    first, second = kind(3, 4, 3), kind(3, 4, 3)
    second._parameters.update({name: each for name, each in first._parameters.items() if name != "bias"})
    assert [layer.shared_with for layer in model_layers(nn.Sequential(first, second))] == [None, "0"]


# ---- parametrisations ------------------------------------------------------------------------------------------------


class Doubled(nn.Module):
    """Owns a lock, and keeps its last output."""

    def __init__(self) -> None:
        super().__init__()
        self.lock, self.last = threading.Lock(), None

    def forward(self, weight: Tensor) -> Tensor:
        self.last = weight * 2
        return self.last


def test_a_parametrisation_that_no_deep_copy_can_copy():
    conv = nn.Conv2d(3, 4, 3)
    parametrize.register_parametrization(conv, "weight", Doubled())
    conv(torch.randn(1, 3, 3, 3))
    last = conv.parametrizations.weight[0].last
    weight, note = used_weight(conv)
    assert note == ""
    assert conv.parametrizations.weight[0].last is last
    assert torch.equal(weight, conv.parametrizations.weight.original * 2)
    weight.sum().backward()
    assert torch.equal(conv.parametrizations.weight.original.grad, torch.full((4, 3, 3, 3), 2.0))


def test_weight_norm_whose_direction_is_pruned():
    conv = parametrizations.weight_norm(nn.Conv2d(3, 4, 3))
    inner = conv.parametrizations.weight
    prune.l1_unstructured(inner, "original1", 0.5)
    direction = inner.original1_orig * inner.original1_mask
    expected = inner.original0 * direction / direction.flatten(1).norm(dim=1).view(4, 1, 1, 1)
    torch.testing.assert_close(used_weight(conv).weight, expected)


class Raises(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        if parametrize._cache_enabled is None or weight.sum() > 1e9:
            return weight
        raise KeyError("no such\nkey")


def test_a_parametrisation_that_raises_stops_no_other_layer():
    broken = nn.Conv2d(3, 4, 3)
    parametrize.register_parametrization(broken, "weight", Doubled())
    broken.parametrizations.weight[0] = Raises()
    first, second = measure(nn.Sequential(broken, nn.Conv2d(4, 4, 3))).layers
    assert first.reason == "its weight can't be computed: 'no such\\nkey'"
    assert second.status == "measured"


class Noisy(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight + torch.randn_like(weight) + torch.empty_like(weight).uniform_() + torch.rand(weight.shape)


class NoisyConv(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight + torch.normal(0.0, 1.0, self.weight.shape), self.bias)


def test_random_weights_are_drawn_from_a_generator_of_their_own():
    conv, drawn = nn.Conv2d(3, 4, 3), NoisyConv(3, 4, 3)
    parametrize.register_parametrization(conv, "weight", Noisy())
    torch.manual_seed(5)
    state = torch.get_rng_state()
    (first, note), (second, _) = used_weight(conv), used_weight(conv)
    assert note == DRAWN
    assert torch.equal(first, second)
    assert not torch.equal(first, conv.parametrizations.weight.original)
    assert used_weight(drawn).note == f"{AS_USED}; {DRAWN}"
    assert torch.equal(torch.get_rng_state(), state)


class DropsOut(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return torch.native_dropout(weight, 0.5, True)[0]


def test_random_numbers_that_take_no_generator_give_a_reason():
    conv = nn.Conv2d(3, 4, 3)
    parametrize.register_parametrization(conv, "weight", DropsOut())
    state = torch.get_rng_state()
    (layer,) = model_layers(conv)
    assert layer.banks == ()
    assert "draws random numbers" in layer.note
    assert torch.equal(torch.get_rng_state(), state)


def test_the_draws_of_another_thread_are_as_without_measuring():
    noisy = nn.Conv2d(3, 4, 3)
    parametrize.register_parametrization(noisy, "weight", Noisy())
    model = nn.Sequential(parametrizations.weight_norm(nn.Conv2d(3, 4, 3)), noisy, NoisyConv(3, 4, 3))
    torch.manual_seed(3)
    expected = [torch.rand(()).item() for _ in range(3000)]
    stop = threading.Event()

    def measuring() -> None:
        while not stop.is_set():
            model_layers(model)

    thread = threading.Thread(target=measuring)
    torch.manual_seed(3)
    thread.start()
    drawn = [torch.rand(()).item() for _ in range(3000)]
    stop.set()
    thread.join()
    assert drawn == expected


# ---- low-rank adapters -----------------------------------------------------------------------------------------------


class Adapted(nn.Module):
    """As the layers of the package peft."""

    def __init__(self, merged: bool = False) -> None:
        super().__init__()
        self.base_layer = nn.Conv2d(3, 6, 3)
        self.lora_A = nn.ModuleDict({"default": nn.Conv2d(3, 2, 3, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Conv2d(2, 6, 1, bias=False)})
        self.active_adapters, self.merged, self.disable_adapters = ["default", "absent"], merged, False

    def get_delta_weight(self, name: str) -> Tensor:
        up, down = self.lora_B[name].weight.data, self.lora_A[name].weight.data
        return torch.einsum("oa,aikl->oikl", up.squeeze(), down)

    def forward(self, x: Tensor) -> Tensor:
        return self.base_layer(x) + self.lora_B["default"](self.lora_A["default"](x))


def test_low_rank_adapters_are_part_of_the_weight():
    model = nn.Sequential(Adapted(), nn.Conv2d(6, 4, 3))
    base, down, up, plain = model_layers(model)
    with torch.no_grad():  # the layer is linear: what it does to impulses is its weight
        impulses = torch.eye(27).view(27, 3, 3, 3)
        response = model[0](impulses) - model[0](torch.zeros(1, 3, 3, 3))
    torch.testing.assert_close(base.banks[0], response.view(27, 6).T.reshape(6, 3, 3, 3), atol=1e-6, rtol=1e-5)
    assert (base.name, base.note) == ("0.base_layer", "with its adapters default")
    assert [layer.note for layer in (down, up)] == ["a part of the weight of 0"] * 2
    assert plain.note == ""


def test_a_compiled_model_with_adapters():
    base, down, up = model_layers(torch.compile(Adapted()))
    assert (base.name, base.note) == ("base_layer", "with its adapters default")
    assert down.note == up.note == "a part of the weight of (whole)"


def test_adapters_that_are_merged_already_are_not_added_again():
    model = Adapted(merged=True)
    base = model_layers(model)[0]
    assert base.banks[0] is model.base_layer.weight
    assert base.note == ""
