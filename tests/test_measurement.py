from __future__ import annotations

import copy
import inspect
import math
import sys
from dataclasses import replace
from datetime import datetime, timezone

import pytest
import torch
import torch.distributed.fsdp
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

from ckrm_kernels import (
    chance_redundancy,
    distribution,
    estimate_redundancy,
    layer_numbers,
    measure,
    measurement,
    pairwise_psi,
    psi_histogram,
    redundancy,
    redundant_groups,
)
from ckrm_kernels.layers import model_layers
from ckrm_kernels.report import LayerRedundancy, RedundancyReport
from ckrm_kernels.report.result import TARGET, Source
from ckrm_kernels.similarity import Similarity
from ckrm_kernels.version import __version__


class Block(nn.Module):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3)
        self.norm = nn.BatchNorm2d(width)
        self.depthwise = nn.Conv2d(width, width, 3, groups=width)
        self.grouped = nn.Conv1d(width, 2 * width, 5, groups=2)
        self.up = nn.ConvTranspose2d(4, width, 2)
        self.point = nn.Conv2d(width, width, 1)
        self.head = nn.Linear(width, 4)


def by_name(report: RedundancyReport) -> dict[str, LayerRedundancy]:
    return {layer.name: layer for layer in report.layers}


def small() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Conv2d(6, 5, 3))


def pruned(module: nn.Module) -> nn.Module:
    return prune.random_unstructured(module, "weight", 0.5)


def assert_same_rows(report: RedundancyReport, other: RedundancyReport) -> None:
    assert report.layers == other.layers


# ---- one model -------------------------------------------------------------------------------------------------------


@pytest.mark.exhaustive_on("triton")
def test_every_layer_has_a_row_with_its_numbers(backend):
    model = Block().double()
    with torch.no_grad():
        model.conv.weight[5] = model.conv.weight[2]
        model.grouped.weight[9:12] = model.grouped.weight[8]
    report = measure(model, 0.5, backend=backend)
    rows = by_name(report)
    assert list(rows) == ["conv", "norm", "depthwise", "grouped", "up", "point", "head"]
    for name in ("conv", "depthwise", "grouped", "up"):
        module, row = getattr(model, name), rows[name]
        omega = pairwise_psi(module, backend=backend).detach().flatten()
        assert row.status == "measured"
        assert row.kind == type(module).__name__
        assert row.filters == module.out_channels
        assert row.kernel_size == module.kernel_size
        assert row.pairs == omega.numel()
        assert row.redundancy == pytest.approx((omega > 0.5).double().mean().item())
        assert row.per_model == (row.redundancy,)
        assert row.deviation is None
        assert row.distinct == redundant_groups(module, 0.5, backend=backend).kept.numel()
        counts = torch.histc(omega, 100, 0, 1)
        assert row.histogram == tuple(int(count) for count in counts)
        chance = chance_redundancy(module, 0.5, rounds=40, generator=torch.Generator().manual_seed(0)).item()
        assert row.chance == pytest.approx(chance, abs=4 * math.sqrt(chance * (1 - chance) / min(16 * row.pairs, 4096)))
    assert rows["conv"].redundancy >= 1 / 28
    assert rows["conv"].slices == 3
    assert rows["grouped"].slices == 4
    assert rows["up"].slices == 4
    assert rows["grouped"].distinct <= 13
    assert rows["depthwise"].reason == "depthwise, all filters compared"
    assert rows["grouped"].reason == "2 groups, compared within each"
    assert (report.threshold, report.models) == (0.5, 1)
    assert report.similarity == Similarity()
    assert [layer.name for layer in report.measured] == ["conv", "depthwise", "grouped", "up"]


def test_skipped_layers_say_why():
    model = nn.ModuleDict(
        {
            "norm": nn.BatchNorm2d(3),
            "layer_norm": nn.LayerNorm(3),
            "embedding": nn.Embedding(4, 3),
            "lstm": nn.LSTM(3, 4),
            "attention": nn.MultiheadAttention(4, 2),
            "bilinear": nn.Bilinear(2, 3, 4),
            "prelu": nn.PReLU(),
            "lazy": nn.LazyConv2d(4, 3),
            "point": nn.Conv2d(4, 4, 1),
            "linear": nn.Linear(4, 4),
            "meta": nn.Conv2d(3, 4, 3, device="meta"),
            "complex": nn.Conv2d(3, 4, 3, dtype=torch.complex64),
            "bare": nn.BatchNorm2d(3, affine=False),
            "activation": nn.ReLU(),
        }
    )
    rows = by_name(measure(model))
    reasons = {name: row.reason for name, row in rows.items()}
    assert "bare" not in reasons
    assert "activation" not in reasons
    assert {row.status for row in rows.values()} == {"skipped"}
    assert "normalisation" in reasons["norm"]
    assert "normalisation" in reasons["layer_norm"]
    assert "embedding" in reasons["embedding"]
    assert "recurrent" in reasons["lstm"]
    assert "attention" in reasons["attention"]
    assert reasons["bilinear"] == reasons["prelu"] == "not a convolution"
    assert "run a batch" in reasons["lazy"]
    assert "pointwise" in reasons["point"]
    assert "pointwise" in reasons["linear"]
    assert "pointwise" in reasons["attention.out_proj"]
    assert "meta" in reasons["meta"]
    assert "complex64" in reasons["complex"]
    assert (rows["point"].filters, rows["point"].slices, rows["point"].kernel_size) == (4, 4, (1, 1))
    assert (rows["norm"].filters, rows["norm"].histogram, rows["norm"].redundancy) == (None, None, None)


@pytest.mark.filterwarnings("ignore")
def test_a_quantised_layer_says_so():
    model = nn.Sequential(nn.Linear(4, 4), nn.Conv2d(3, 4, 3))
    quantised = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    first, second = measure(quantised).layers
    assert (first.status, second.status) == ("skipped", "measured")
    assert "quantised" in first.reason


def test_pointwise_layers_slice_by_slice():
    model = Block()
    rows = by_name(measure(model, 0.3, pointwise="slices"))
    for name in ("point", "head"):
        assert rows[name].redundancy == redundancy(getattr(model, name), 0.3).item()
        assert rows[name].chance is None  # there is nothing to permute
        assert rows[name].status == "measured"


def test_pointwise_layers_as_vectors():
    model = Block()
    rows = by_name(measure(model, 0.3, pointwise="vector"))
    for name in ("point", "head"):
        weight = getattr(model, name).weight.detach().flatten(1).unsqueeze(1)
        assert rows[name].redundancy == redundancy(weight, 0.3).item()
        assert rows[name].slices == 8
        assert rows[name].chance is not None
        assert rows[name].reason == "each filter as one slice"
    assert rows["conv"].redundancy == redundancy(model.conv, 0.3).item()


def test_scale_free_takes_a_layer_by_its_own_scale():
    model = Block()
    before = measure(model, 0.3, scale_free=True)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1e-3)
    after = measure(model, 0.3, scale_free=True)
    for one, other in zip(before.measured, after.measured, strict=True):
        assert one.redundancy == pytest.approx(other.redundancy)
        assert one.distinct == other.distinct
    assert measure(model, 0.3).layers[0].redundancy == 1
    assert after.layers[0].redundancy == pytest.approx(redundancy(model.conv, 0.3, scale_free=True).item())
    assert after.similarity.scale_free


@pytest.mark.parametrize("width", [0, 1])
def test_layers_with_too_few_filters_for_a_pair(width):
    (row,) = measure(nn.Conv2d(3, 1, 3) if width else _without_filters()).layers
    assert (row.status, row.pairs, row.redundancy, row.distinct) == ("measured", 0, 0, width)
    assert row.quantile(0.5) is None


def _without_filters() -> nn.Module:
    conv = nn.Conv2d(3, 1, 3)
    conv.weight = nn.Parameter(torch.empty(0, 3, 3, 3))
    return conv


def test_a_single_layer_and_an_empty_model():
    (row,) = measure(nn.Conv2d(3, 4, 3)).layers
    assert row.name == ""
    assert measure(nn.ReLU()).layers == ()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions(dtype):
    model = small().to(dtype)
    row = measure(model, 0.3).layers[0]
    assert row.redundancy == redundancy(model[0], 0.3).item()


def test_the_threshold_on_the_edge_of_a_bin_is_exact():
    weight = torch.randn(40, 1, 3, 3)
    conv = nn.Conv2d(1, 40, 3)
    conv.weight = nn.Parameter(weight)
    for threshold in (0.0, 0.1, 0.29, 0.3, 0.57, 0.58, 0.6, 0.9, 1.0, 1 / 3):
        row = measure(conv, threshold).layers[0]
        assert row.redundancy == redundancy(weight, threshold).item()
        assert len(row.histogram) == 100
        assert sum(row.histogram) == 780


# ---- names, wrappers, sharing ----------------------------------------------------------------------------------------


def test_wrappers_leave_no_trace_in_names():
    plain = measure(small())
    names = [layer.name for layer in plain.layers]
    assert names == ["0", "1", "2"]
    inner = small()
    inner[2] = torch.compile(inner[2])
    for wrapped in (
        torch.compile(small()),
        nn.DataParallel(small()),
        nn.DataParallel(torch.compile(small())),
        torch.optim.swa_utils.AveragedModel(small()),
        inner,
    ):
        report = measure(wrapped)
        assert [layer.name for layer in report.layers] == names
        assert [layer.kind for layer in report.layers] == ["Conv2d", "BatchNorm2d", "Conv2d"]


@pytest.fixture
def process_group():
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("process_group")
def test_distributed_data_parallel_is_named_as_without():
    model = small()
    wrapped = nn.parallel.DistributedDataParallel(model)
    assert_same_rows(measure(wrapped), measure(model))


@pytest.mark.usefixtures("process_group")
def test_a_sharded_model_is_measured_as_the_whole():
    model = small()
    expected = measure(model)
    mesh = torch.distributed.init_device_mesh("cpu", (1,))
    torch.distributed.fsdp.fully_shard(model, mesh=mesh)
    assert_same_rows(measure(model), expected)


def test_a_module_of_the_user_may_be_called_module():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = small()
            self.head = nn.ReLU()

    assert [layer.name for layer in measure(Net()).layers] == ["module.0", "module.1", "module.2"]
    assert [layer.name for layer in measure(nn.Sequential(Average(small()))).layers] == [
        *("0.module.0", "0.module.1", "0.module.2")
    ]


class Average(nn.Module):
    """As timm's ModelEma: a model around the model that has no parameter of its own."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.module = copy.deepcopy(model)
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))


@pytest.mark.parametrize(
    "wrap", [Average, lambda model: nn.DataParallel(Average(model)), lambda model: Average(torch.compile(model))]
)
def test_a_module_around_the_model_without_parameters_leaves_no_trace_in_names(wrap):
    assert [layer.name for layer in measure(wrap(small())).layers] == ["0", "1", "2"]


def test_shared_weights_are_measured_once():
    conv, tied = nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3)
    tied.weight = conv.weight
    model = nn.ModuleDict({"a": conv, "b": nn.Sequential(conv), "c": tied, "d": nn.Conv2d(4, 4, 3)})
    rows = by_name(measure(model))
    assert [rows[name].status for name in ("a", "b.0", "c", "d")] == ["measured", "skipped", "skipped", "measured"]
    assert rows["b.0"].reason == rows["c"].reason == "shares its weight with a"


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("wrap", [weight_norm, parametrizations.weight_norm, spectral_norm, pruned])
def test_a_shared_module_that_computes_its_weight_is_measured_once(wrap):
    conv = wrap(nn.Conv2d(4, 4, 3))
    rows = by_name(measure(nn.ModuleDict({"a": conv, "b": nn.Sequential(conv), "c": wrap(nn.Conv2d(4, 4, 3))})))
    assert [rows[name].status for name in ("a", "b.0", "c")] == ["measured", "skipped", "measured"]
    assert rows["b.0"].reason == "shares its weight with a"


def test_a_weight_that_is_no_parameter_has_its_row():
    conv = nn.Conv2d(4, 6, 3)
    weight = conv.weight.detach().clone()
    del conv.weight
    conv.weight = weight
    (row,) = measure(conv, 0.2).layers
    assert row.redundancy == redundancy(weight, 0.2).item()


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_computed_weights_are_measured_under_their_module():
    def conv() -> nn.Conv2d:
        return nn.Conv2d(4, 6, 3)

    model = nn.ModuleDict(
        {
            "hook": weight_norm(conv()),
            "parametrised": parametrizations.weight_norm(conv()),
            "spectral": spectral_norm(conv()),
            "spectral_parametrised": parametrizations.spectral_norm(conv()),
            "pruned": pruned(conv()),
        }
    )
    report = measure(model, 0.2)
    assert [layer.name for layer in report.layers] == list(model)
    for layer in report.layers:
        assert layer.status == "measured"
        assert layer.kind == "Conv2d"
    model.eval()
    for layer in report.layers:
        assert layer.redundancy == redundancy(model[layer.name], 0.2).item()


# ---- nothing changes -------------------------------------------------------------------------------------------------


class Noise(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight + torch.randn_like(weight)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_nothing_of_the_model_or_the_random_state_changes():
    model = Block()
    model.spectral = parametrizations.spectral_norm(nn.Conv2d(3, 4, 3))
    model.hook = spectral_norm(nn.Conv2d(3, 4, 3))
    model.noisy = nn.Conv2d(3, 4, 3)
    parametrize.register_parametrization(model.noisy, "weight", Noise())
    model.train()
    model.norm.eval()
    model.conv.weight.grad = torch.ones_like(model.conv.weight)
    model.up.requires_grad_(False)
    before = copy.deepcopy(model)
    gradients = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    modes = [module.training for module in model.modules()]
    versions = [tensor._version for tensor in model.state_dict().values()]
    state = torch.get_rng_state()
    measure(model, pointwise="vector", scale_free=True)
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in model.modules()] == modes
    assert [tensor._version for tensor in model.state_dict().values()] == versions
    for name, value in before.state_dict().items():
        assert torch.equal(model.state_dict()[name], value)
    for parameter, old, gradient in zip(model.parameters(), before.parameters(), gradients, strict=True):
        assert parameter.requires_grad == old.requires_grad
        assert (parameter.grad is None) == (gradient is None)
        assert gradient is None or torch.equal(parameter.grad, gradient)


def test_measuring_inside_training_and_inference():
    model = small()
    loss = model(torch.randn(2, 3, 8, 8)).sum()
    first = measure(model)
    loss.backward()  # nothing that backward needs was touched
    with torch.inference_mode():
        assert_same_rows(measure(model), first)
        frozen = small()
    assert measure(frozen).layers[0].status == "measured"


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_measuring_records_nothing_for_autograd():
    model = Block()
    model.normed, model.hook = parametrizations.weight_norm(nn.Conv2d(3, 4, 3)), weight_norm(nn.Conv2d(3, 4, 3))
    model.pruned = pruned(nn.Conv2d(3, 4, 3))
    layers = model_layers(model)
    assert all(bank.requires_grad for layer in layers for bank in layer.banks)
    with torch.autograd.graph.saved_tensors_hooks(lambda _: pytest.fail("recorded"), lambda saved: saved):
        measure(model, pointwise="vector", scale_free=True)
        measurement.measure_layers([layers], 0.6, "vector", Similarity(scale_free=True))


def test_a_default_device_without_values_changes_nothing():
    model, weight = nn.Sequential(nn.Conv2d(3, 20, 3), nn.Linear(4, 8)), torch.randn(20, 2, 3)

    def measured():
        generator = torch.Generator("cpu").manual_seed(0)
        return (
            str(replace(measure(model, 0.3, pointwise="vector"), created="")),
            redundancy(weight, 0.3).item(),
            psi_histogram(weight, 5).tolist(),
            estimate_redundancy(weight, 0.3, num_pairs=20, generator=generator),
            estimate_redundancy(weight, 0.3, num_pairs=1000),  # more than there are: all are counted
        )

    expected = measured()
    with torch.device("meta"):
        assert measured() == expected


def test_a_report_does_not_depend_on_what_was_measured_before():
    model = Block()
    whole = by_name(measure(model))
    torch.rand(5)
    assert measure(nn.ModuleDict({"up": model.up})).layers[0] == whole["up"]


# ---- several models --------------------------------------------------------------------------------------------------


def test_several_models_give_means_a_deviation_and_the_values_of_each():
    models = [small().double() for _ in range(3)]
    with torch.no_grad():
        models[1][0].weight[4] = models[1][0].weight[1]
    report, singles = measure(models, 0.4), [measure(model, 0.4) for model in models]
    assert report.models == 3
    for index in (0, 2):
        row, rows = report.layers[index], [single.layers[index] for single in singles]
        values = torch.tensor([r.redundancy for r in rows], dtype=torch.float64)
        assert row.per_model == tuple(values.tolist())
        assert row.redundancy == pytest.approx(values.mean().item())
        assert row.deviation == pytest.approx(values.std().item())
        assert row.chance == pytest.approx(sum(r.chance for r in rows) / 3)
        assert row.distinct == pytest.approx(sum(r.distinct for r in rows) / 3)
        assert row.histogram == tuple(map(sum, zip(*(r.histogram for r in rows), strict=True)))
        assert row.chance_per_model == tuple(r.chance for r in rows)
        assert row.distinct_per_model == tuple(r.distinct for r in rows)
        assert row.histogram_per_model == tuple(r.histogram for r in rows)
        assert row.pairs == rows[0].pairs
    assert report.layers[1].status == "skipped"
    assert report.layers[1].per_model == report.layers[1].histogram_per_model == ()


def test_what_is_not_measured_has_no_values_per_model():
    models = [nn.Sequential(nn.Conv2d(3, 6, 3), nn.Linear(6, 4)) for _ in range(2)]
    conv, linear = measure(models, pointwise="slices").layers
    assert len(conv.chance_per_model) == len(linear.distinct_per_model) == 2
    assert (linear.chance, linear.chance_per_model) == (None, ())
    conv, _ = measure(models, details=False).layers
    assert (conv.chance, conv.chance_per_model, conv.distinct, conv.distinct_per_model) == (None, (), None, ())
    assert len(conv.histogram_per_model) == len(conv.per_model) == 2


def test_a_list_of_one_model_is_a_single_model():
    model = small()
    assert measure([model]) == measure(model)


def test_models_may_be_a_generator():
    assert measure(small() for _ in range(2)).models == 2


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Conv2d(6, 7, 3)),
            r"layer '2'.*\(5, 6, 3, 3\).*model 1",
        ),
        (
            nn.Sequential(nn.Conv2d(3, 6, 3), nn.GroupNorm(2, 6), nn.Conv2d(6, 5, 3)),
            "layer '1'.*BatchNorm2d.*GroupNorm",
        ),
        (nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6)), "layer '2'.*model 1 has no such layer"),
        (nn.Sequential(*small(), nn.Conv2d(5, 4, 3)), "no such layer where model 1 has layer '3'"),
    ],
    ids=["width", "kind", "shorter", "longer"],
)
def test_models_of_different_structure(other, message):
    with pytest.raises(ValueError, match=message):
        measure([small(), other])


def test_layers_of_several_models_are_matched_by_name():
    def net(names: str) -> nn.Module:
        shapes = {"a": (3, 6, 3), "b": (6, 5, 3), "c": (3, 6, 3)}
        convs = {name: nn.Conv2d(*shapes[name]).double() for name in shapes}
        convs["c"].weight = convs["a"].weight
        return nn.ModuleDict({name: convs[name] for name in names})

    models = [net("abc"), net("cba")]
    report = measure(models, 0.3)
    assert [layer.name for layer in report.layers] == ["a", "b", "c"]
    assert report.layers[2].reason == "shares its weight with a"
    for name, row in list(by_name(report).items())[:2]:
        assert row.per_model == tuple(redundancy(model[name], 0.3).item() for model in models)
    turned = measure(models[::-1], 0.3)
    assert [layer.name for layer in turned.layers] == ["c", "b", "a"]
    assert by_name(turned)["b"].per_model == by_name(report)["b"].per_model[::-1]


# ---- what redundancy speaks of ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "module",
    [nn.Conv2d(3, 20, 3), nn.Conv2d(4, 24, 3, groups=4), nn.Conv1d(16, 16, 5, groups=16), nn.Conv2d(9, 99, 3).half()],
)
def test_the_scale_free_numbers_stand_beside_those_at_the_psi_asked_for(module):
    with torch.no_grad():
        module.weight.mul_(0.02)
        module.weight[5] = module.weight[4] * 1.1
    models = [module, copy.deepcopy(module)]
    (row,), (expected,) = measure(models, 0.4).layers, measure(models, 0.4, scale_free=True).layers
    names = ("redundancy", "deviation", "per_model", "chance", "chance_per_model", "distinct", "distinct_per_model")
    for name in names:
        assert getattr(row.scale_free, name) == getattr(expected, name)
    assert row.redundancy > row.scale_free.redundancy > 0
    assert expected.scale_free is None
    assert measure(module, 0.4, eps=0.0).layers[0].scale_free is None


def test_dead_filters_are_counted_and_left_out():
    conv = nn.Conv2d(2, 60, 3)
    dead = [3, 10, 11, 40]
    alive = [index for index in range(60) if index not in dead]
    with torch.no_grad():
        conv.weight[[3, 10]] = 0
        conv.weight[[11, 40]] *= 5e-3  # against a root mean square a little below that of the others
        conv.weight[50] *= 5e-2
    (row,) = measure(conv, 0.3).layers
    assert (row.dead, row.dead_per_model) == (4, (4,))
    assert row.live_redundancy == redundancy(conv.weight[alive], 0.3).item() != row.redundancy
    chance = chance_redundancy(conv.weight[alive], 0.3, rounds=30, generator=torch.Generator().manual_seed(1))
    assert row.live_chance == pytest.approx(chance.item(), abs=0.01)
    grouped = nn.Conv2d(4, 60, 3, groups=2)
    grouped.weight = conv.weight
    (row,) = measure(grouped, 0.3).layers
    banks = conv.weight[[i for i in alive if i < 30]], conv.weight[[i for i in alive if i >= 30]]
    above = [redundancy(bank, 0.3).item() * (n := len(bank)) * (n - 1) / 2 for bank in banks]
    pairs = sum(len(bank) * (len(bank) - 1) / 2 for bank in banks)
    assert row.dead == 4
    assert row.live_redundancy == pytest.approx(sum(above) / pairs)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_no_filter_is_dead_by_the_scale_of_its_layer(scale):
    conv = nn.Conv2d(2, 6, 3)
    with torch.no_grad():
        conv.weight.mul_(scale)
    (row,) = measure(conv, 0.3, scale_free=True).layers
    assert (row.dead, row.live_redundancy, row.live_chance) == (0, row.redundancy, row.chance)


def test_of_a_layer_of_zeros_all_are_dead():
    conv = nn.Conv2d(2, 6, 3)
    nn.init.zeros_(conv.weight)
    (row,) = measure(conv).layers
    assert (row.dead, row.redundancy, row.live_redundancy, row.live_chance) == (6, 1, 0, 0)


def test_without_details_only_redundancy_is_left():
    (row,) = measure(nn.Conv2d(3, 8, 3), details=False).layers
    assert row.redundancy is not None
    assert (row.chance, row.distinct, row.dead, row.live_redundancy, row.live_chance) == (None,) * 5
    assert (row.scale_free, row.dead_per_model, row.finding) == (None, (), None)


def test_random_filters_are_no_finding_and_small_or_repeated_ones_are():
    def finding(change):
        torch.manual_seed(0)
        conv = nn.Conv2d(8, 32, 3, groups=1)
        with torch.no_grad():
            change(conv.weight)
        return measure(conv).layers[0].finding

    assert finding(lambda weight: weight.mul_(2)) == "none"
    assert finding(lambda weight: weight.mul_(1e-2)) == "scale"
    assert finding(lambda weight: weight.copy_(weight[torch.arange(32) % 8] * 2)) == "repeats"


def test_layers_whose_psi_is_not_held_have_the_same_numbers(monkeypatch):
    module = nn.ModuleList([nn.Conv2d(2, 30, 3), nn.Conv2d(4, 24, 3, groups=2)]).double()
    with torch.no_grad():
        for conv in module:
            conv.weight[[3, 20]] *= 1e-4
            conv.weight[5:8] = conv.weight[4] * 1.1
    held = measure(module, 0.4)
    monkeypatch.setattr(distribution, "MOST_HELD", 0)
    assert measure(module, 0.4).layers == held.layers
    for row, conv in zip(held.layers, module, strict=True):
        assert row.distinct == redundant_groups(conv, 0.4).kept.numel()
        assert row.scale_free.distinct == redundant_groups(conv, 0.4, scale_free=True).kept.numel()
        assert row.scale_free.redundancy == redundancy(conv, 0.4, scale_free=True)


@pytest.mark.parametrize(
    "options", [{"signed": True}, {"similarity": "cosine"}, {"similarity": "cosine", "signed": True}]
)
@pytest.mark.parametrize("threshold", [0.4, pytest.param(0.0, marks=pytest.mark.exhaustive)])
def test_signed_psi_and_the_cosine_have_every_number_of_a_report(options, threshold):
    conv = nn.Conv2d(3, 20, 3).double()
    with torch.no_grad():
        conv.weight[10:13] = -conv.weight[:3]
        conv.weight[13:15] = 2 * conv.weight[3]
        conv.weight[15] *= 1e-3
    (row,) = measure(conv, threshold, **options).layers
    omega = pairwise_psi(conv, backend="reference", **options).detach()
    assert row.redundancy == (omega > threshold).double().mean().item()
    assert row.lowest == (-1 if "signed" in options else 0)
    assert row.histogram == tuple(torch.histc(omega.clamp(row.lowest, 1), 100, row.lowest, 1).long().tolist())
    for q in (0.0, 0.1, 0.5, 0.9, 1.0):
        assert row.quantile(q) == pytest.approx(omega.quantile(q).item(), abs=0.1)
    assert row.distinct == redundant_groups(conv, threshold, **options).kept.numel()
    alive = [index for index in range(20) if index != 15]
    assert row.dead == 1
    assert row.live_redundancy == redundancy(conv.weight[alive], threshold, **options).item()
    chance = chance_redundancy(conv, threshold, rounds=100, generator=torch.Generator().manual_seed(1), **options)
    assert row.chance == pytest.approx(chance.item(), abs=4 * math.sqrt(0.25 / 3040))
    assert (row.scale_free is None) == ("similarity" in options)


def test_the_target_is_that_of_a_search():
    from ckrm_kernels.width_search.config import WidthSearchConfig

    assert WidthSearchConfig().target == TARGET


# ---- what was measured -----------------------------------------------------------------------------------------------


def test_a_report_says_what_was_measured_when_and_with_what():
    before = datetime.now(timezone.utc).replace(microsecond=0)
    report = measure([small(), small()], pointwise="slices")
    assert [source.name for source in report.sources] == ["Sequential", "Sequential"]
    assert report.pointwise == "slices"
    assert before <= datetime.fromisoformat(report.created) <= datetime.now(timezone.utc)
    assert report.versions == {"ckrm_kernels": __version__, "torch": torch.__version__}
    sources = (Source("a.pt", 12), Source("b.pt", 12))
    layers = [model_layers(small()) for _ in range(2)]
    report = measurement.measure_layers(layers, 0.6, "skip", Similarity(), sources=sources, notes=["read well"])
    assert (report.sources, report.notes) == (sources, ("read well",))


def test_progress_is_shown_on_standard_error(capsys, monkeypatch):
    model = nn.Sequential(*(nn.Conv2d(2, 3, 3) for _ in range(25)))
    expected = measure(model)
    for rich in (True, False):
        if not rich:
            monkeypatch.setitem(sys.modules, "rich.console", None)
        assert capsys.readouterr().err == ""
        assert measure(model, progress=True) == expected
        out, err = capsys.readouterr()
        assert out == ""
        assert err.splitlines()[-1] == "measuring: 25 of 25 layers"
        assert len(err.splitlines()) == 13


# ---- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nan_stops_and_names_the_layer_before_anything_is_measured(bad, monkeypatch):
    model = Block()
    with torch.no_grad():
        model.up.weight[1, 3, 0, 0] = bad
    monkeypatch.setattr(measurement, "_row", lambda *_: pytest.fail("measured"))
    with pytest.raises(ValueError, match="layer 'up' has NaN or Inf in filters 3: nothing was measured"):
        measure(model)


def test_what_is_skipped_need_not_be_finite():
    model = Block()
    with torch.no_grad():
        model.point.weight[:], model.norm.weight[:] = math.nan, math.inf
    assert len(measure(model).measured) == 4
    with pytest.raises(ValueError, match="layer 'point' has NaN"):
        measure(model, pointwise="slices")


def test_errors_name_the_files():
    sources = [Source("a.pt"), Source("b.pt")]

    def measured(*models: nn.Module) -> RedundancyReport:
        layers = [model_layers(model) for model in models]
        return measurement.measure_layers(layers, 0.6, "skip", Similarity(), sources=sources[: len(models)])

    broken = small()
    with torch.no_grad():
        broken[0].weight[1] = math.nan
    with pytest.raises(ValueError, match=r"layer '0' of a\.pt has NaN or Inf in filters 1"):
        measured(broken)
    with pytest.raises(ValueError, match=r"layer '0' of b\.pt has NaN"):
        measured(small(), broken)
    with pytest.raises(ValueError, match=r"a\.pt has layer '1' .* where b\.pt has no such layer"):
        measured(small(), small()[:1])


def test_finite_numbers_whose_sum_overflows_are_measured():
    model = nn.Conv2d(8, 16, 3, bias=False).half()
    nn.init.constant_(model.weight, 100.0)
    assert model.weight.sum().isinf()
    assert measure(model).layers[0].redundancy == 1


def test_nan_names_the_model_too():
    models = [small(), small()]
    with torch.no_grad():
        models[1][2].weight[:] = math.nan
    with pytest.raises(ValueError, match="layer '2' of model 1 has NaN or Inf in filters 0, 1, 2"):
        measure(models)


@pytest.mark.parametrize("details", [True, False])
def test_finite_weights_that_give_nan_name_the_layer(monkeypatch, details):
    """As where a backend's squares overflow."""
    monkeypatch.setattr(
        measurement,
        "counts_of_banks",
        lambda banks, edges, *_: torch.tensor([[0] * (len(edges) + 1) + [1]] * len(banks)),
    )
    monkeypatch.setattr(
        layer_numbers, "omega_of_banks", lambda banks, *_: [torch.tensor([0.5, math.nan]) for _ in banks]
    )
    with pytest.raises(ValueError, match=r"layer '0' overflows.*scale_free=True"):
        measure(small(), details=details)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((3,), {}, TypeError, "must be a module or a sequence of modules, got int"),
        (("model.pt",), {}, TypeError, "got 'model.pt': `ckrm measure` reads files"),
        ((nn.Linear,), {}, TypeError, "must be a module or a sequence of modules, got type"),
        (([nn.ReLU(), 3],), {}, TypeError, "must be a module or a sequence of modules, got int"),
        (([],), {}, ValueError, "at least one model"),
        ((nn.Linear(2, 2).state_dict(),), {}, TypeError, "got a state dict: load it into one"),
        ((nn.ReLU(), 2.0), {}, ValueError, "threshold must lie in"),
        ((nn.ReLU(),), {"pointwise": "all"}, ValueError, 'pointwise must be "skip", "slices" or "vector", got \'all\''),
        ((nn.ReLU(),), {"eps": -1}, ValueError, "eps must be"),
        ((nn.ReLU(),), {"epsilon": 1e-4}, TypeError, "epsilon"),
        ((small(),), {"backend": "fast"}, ValueError, "backend must be"),
    ],
)
def test_bad_arguments(arguments, options, error, message):
    with pytest.raises(error, match=message):
        measure(*arguments, **options)


def test_an_unknown_option_is_told_all_that_are_accepted():
    named = {
        name
        for name, parameter in inspect.signature(measure).parameters.items()
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD
    } - {"model_or_models"}
    with pytest.raises(
        TypeError, match=r"^measure\(\) got an unexpected keyword argument 'detail'; accepted are"
    ) as got:
        measure(small(), detail=False)
    accepted = str(got.value).split("accepted are ")[1].split(", ")
    assert set(accepted) == named | {"similarity", "alpha", "beta", "gamma", "eps", "signed", "scale_free", "backend"}


# ---- quantiles -------------------------------------------------------------------------------------------------------


def test_quantiles_are_right_to_one_bin():
    model = nn.Sequential(nn.Conv2d(1, 60, 3))
    row = measure(model, eps=0.0).layers[0]
    omega = pairwise_psi(model[0], eps=0.0).detach().double()
    for q in (0.0, 0.01, 0.25, 0.5, 0.9, 0.99, 1.0):
        assert row.quantile(q) == pytest.approx(omega.quantile(q).item(), abs=0.011)


@pytest.mark.parametrize("q", [-0.1, 1.1])
def test_quantiles_outside_are_refused(q):
    with pytest.raises(ValueError, match="q must lie in"):
        measure(small()).layers[0].quantile(q)
