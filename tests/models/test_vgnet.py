import dataclasses
import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from ckrm_kernels import plan_shrink
from ckrm_kernels.data import Dataset, Part
from ckrm_kernels.layers import model_layers
from ckrm_kernels.models import (
    NETWORKS,
    VGNet,
    VGNetShape,
    count_parameters,
    network_of,
    vgnet_shape,
    without_memory,
)
from ckrm_kernels.models.vgnet import SIZES, VARIANTS
from ckrm_kernels.models.vgnet_blocks import FixedDepthwise, divisible_by_8

# narrow ones: halves as they come, channels added to those kept, fewer kept than come in
NARROW = VGNetShape(6, (8, 20, 28), (2, 2, 3), 2, 4, "f1", "imagenet", "silu", squeeze=True)
SMALL = VGNetShape(4, (8, 12), (2, 2), 1, 3, "g", "cifar")
EVERY = [
    NARROW,
    SMALL,
    *(dataclasses.replace(SMALL, variant=variant, stages=(8, 16)) for variant in VARIANTS),
    *(dataclasses.replace(NARROW, variant=variant, squeeze=False) for variant in ("c", "f4")),
]
GK1, GK2 = (
    torch.tensor([[math.exp(-(x * x + y * y) / (2 * sigma**2)) for x in (-1, 0, 1)] for y in (-1, 0, 1)])
    for sigma in (1.1, 0.6)
)


def edges():
    """EK1 to EK6 as the paper's Appendix D has them."""
    half, third, sixth, twelfth, quarter, two = 1 / 2, 1 / 3, 1 / 6, 1 / 12, 1 / 4, 2 / 3
    first = torch.tensor([[-half, -1, -half], [0, 0, 0], [half, 1, half]])
    return [
        first,
        first.T,
        torch.tensor([[-twelfth, -sixth, -twelfth], [-sixth, 1, -sixth], [-twelfth, -sixth, -twelfth]]),
        torch.tensor([[0, -quarter, 0], [-quarter, 1, -quarter], [0, -quarter, 0]]),
        torch.tensor([[-1, -two, -third], [-two, 0, two], [third, two, 1]]),
        torch.tensor([[-third, -two, -1], [two, 0, -two], [1, two, third]]),
    ]


def built(shape: VGNetShape, seed: int = 0) -> VGNet:
    """A network whose norms have seen data."""
    torch.manual_seed(seed)
    model = shape.build()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model.eval()


# ---- numbers of parameters -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "plain", "squeezed", "cifar"),
    [
        ("1.0mp", 997_358, 1_143_190, 665_510),
        ("1.5mp", 1_502_024, 1_701_680, 1_040_612),
        ("2.0mp", 2_006_380, 2_344_696, 1_544_968),
        ("2.5mp", 2_492_756, 2_922_284, 2_002_544),
    ],
)
def test_parameters_are_as_published(size, plain, squeezed, cifar):
    names = f"vgnetg-{size}", f"vgnetg-{size}-se", f"vgnetg-{size}-cifar"
    assert [count_parameters(without_memory(network_of(name))) for name in names] == [plain, squeezed, cifar]


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_is_fixed_is_no_parameter_and_has_a_norm_in_its_place(variant):
    """Against VGNetG at 1.5 MP: 9 numbers a channel of each depthwise layer, or 2 of the norm behind a fixed one."""
    stem, stages, blocks = SIZES["1.5mp"]
    downsampled = stem + sum(stages[:-1])
    halves = sum((each - 1) * channels // 2 for each, channels in zip(blocks, stages, strict=True))
    shared, last = stages[-1] // 8, stages[-1]
    expected = 1_502_024 + (9 * downsampled if variant == "c" else 0)
    expected += (2 - 9) * halves if variant.startswith("f") else 0
    expected += 2 * last - 9 * shared if variant in ("f2", "f4") else 0
    assert count_parameters(without_memory(vgnet_shape(variant, "1.5mp"))) == expected


@pytest.mark.parametrize(
    ("channels", "expected"), [(1, 8), (11, 16), (12, 16), (19, 24), (20, 24), (43, 40), (128, 128)]
)
def test_squeezed_channels(channels, expected):
    """The usual rounding: to the nearest multiple of 8, but never below nine tenths."""
    assert divisible_by_8(channels) == expected


# ---- kernels ---------------------------------------------------------------------------------------------------------


def kernels_of(model, name):
    weight = model.get_submodule(name).weight
    assert weight.dtype == torch.float32
    assert name + ".weight" in model.state_dict()
    assert name + ".weight" not in dict(model.named_parameters())
    return weight[:, 0]


@pytest.mark.parametrize(
    ("variant", "bank"),
    [("f1", [*edges(), GK1 / GK1.sum(), GK2 / GK2.sum()]), ("f2", [*edges(), GK1 / GK1.sum(), GK2 / GK2.sum()]),
     ("f3", edges()[:4]), ("f4", edges()[:4])],
)  # fmt: skip
def test_fixed_kernels_are_those_of_the_paper_in_turn(variant, bank):
    shape = dataclasses.replace(NARROW, variant=variant)
    model = shape.build()
    for name, channels in (("stage3.1.spatial.0", 14), *([("spatial.0", 28)] if variant in ("f2", "f4") else [])):
        expected = torch.stack([bank[channel % len(bank)] for channel in range(channels)])
        torch.testing.assert_close(kernels_of(model, name), expected)
    for name in ("stage1.0.spatial", "stage2.0.spatial", "stage3.0.spatial"):
        expected = (GK1 / GK1.sum()).expand_as(kernels_of(model, name))
        torch.testing.assert_close(kernels_of(model, name), expected)


def test_which_layers_are_fixed_is_table_4():
    def fixed(variant):
        model = dataclasses.replace(NARROW, variant=variant).build()
        names = {name for name, module in model.named_modules() if isinstance(module, FixedDepthwise)}
        kinds = {
            "downsampling": [f"stage{n}.0.spatial" for n in (1, 2, 3)],
            "mixing": [f"stage{n}.{b}.spatial.0" for n, blocks in enumerate((2, 2, 3), 1) for b in range(1, blocks)],
            "last": ["spatial.0"],
        }
        assert names <= {name for members in kinds.values() for name in members}
        return [kind for kind, members in kinds.items() if names & set(members) and names >= set(members)]

    assert [fixed(variant) for variant in "cg"] == [[], ["downsampling"]]
    assert fixed("f1") == fixed("f3") == ["downsampling", "mixing"]
    assert fixed("f2") == fixed("f4") == ["downsampling", "mixing", "last"]


def test_for_small_images_the_first_block_keeps_the_resolution_and_learns_its_kernels():
    model = SMALL.build()
    assert [model.stem.conv.stride[0], *(model.get_submodule(f"stage{n}.0.spatial").stride[0] for n in (1, 2))] == [
        1,
        1,
        2,
    ]
    assert not isinstance(model.get_submodule("stage1.0.spatial"), FixedDepthwise)
    assert isinstance(model.get_submodule("stage2.0.spatial"), FixedDepthwise)


def test_training_moves_no_fixed_kernel():
    model = dataclasses.replace(SMALL, variant="f2").build()
    before = {
        name: value.clone() for name, value in model.named_buffers() if name.endswith(("spatial.weight", "0.weight"))
    }
    optimizer = torch.optim.SGD(model.parameters(), 0.1, weight_decay=0.1)
    functional.cross_entropy(model(torch.rand(4, 1, 6, 6)), torch.tensor([0, 1, 2, 0])).backward()
    optimizer.step()
    assert len(before) == 4
    assert all(torch.equal(value, dict(model.named_buffers())[name]) for name, value in before.items())


# ---- what it computes ------------------------------------------------------------------------------------------------


def by_definition(state, shape, images):
    """The logits from the state dict, after the paper's Fig. 8 and Table 1."""
    act = functional.silu if shape.activation == "silu" else functional.relu

    def norm(x, name):
        numbers = (state[f"{name}.{each}"][:, None, None] for each in ("running_mean", "running_var", "weight", "bias"))
        mean, variance, weight, bias = numbers
        return (x - mean) / (variance + 1e-5).sqrt() * weight + bias

    def block(x, name, stride=1):
        weight = state[f"{name}.conv.weight"]
        x = norm(act(functional.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)), f"{name}.norm")
        if f"{name}.squeeze.reduce.weight" not in state:
            return x
        mean = x.mean((2, 3))
        for each, function in (("reduce", torch.relu), ("expand", torch.sigmoid)):
            weight, bias = (state[f"{name}.squeeze.{each}.{part}"] for part in ("weight", "bias"))
            mean = function(mean @ weight[:, :, 0, 0].T + bias)
        return x * mean[:, :, None, None]

    def depthwise(x, name, stride=1):
        if f"{name}.0.weight" in state:
            return norm(depthwise(x, f"{name}.0"), f"{name}.1")
        weight = state[f"{name}.weight"]
        each = [
            functional.conv2d(x[:, c : c + 1], weight[c : c + 1], stride=stride, padding=1) for c in range(x.shape[1])
        ]
        return torch.cat(each, 1)

    small = shape.form == "cifar"
    x = block(images, "stem", 1 if small else 2)
    for number, (out, blocks) in enumerate(zip(shape.stages, shape.blocks, strict=True), 1):
        blurred = depthwise(x, f"stage{number}.0.spatial", 1 if small and number == 1 else 2)
        kept = min(out // 2, x.shape[1])
        x = torch.cat([blurred[:, x.shape[1] - kept :], block(blurred, f"stage{number}.0.pointwise")], 1)
        for b in range(1, blocks):
            left, right = x[:, : out // 2], x[:, out // 2 :]
            mixed = torch.cat([left, depthwise(right, f"stage{number}.{b}.spatial")], 1)
            x = torch.cat([right, block(mixed, f"stage{number}.{b}.pointwise")], 1)
    if "spatial.depthwise.weight" in state:
        size = len(state["spatial.depthwise.weight"])
        x = torch.cat([depthwise(chunk, "spatial.depthwise") for chunk in x.split(size, 1)], 1)
    else:
        x = depthwise(x, "spatial")
    return block(x, "pointwise").mean((2, 3)) @ state["classifier.weight"].T + state["classifier.bias"]


@pytest.mark.parametrize("shape", EVERY, ids=str)
def test_logits_are_those_of_the_paper_s_definition(shape):
    model = built(shape).double()
    images = torch.randn(2, shape.in_channels, 17, 16, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(model(images), by_definition(model.state_dict(), shape, images))


def test_eight_chunks_share_the_last_kernels_or_as_many_as_divide_the_channels():
    for channels, chunks in ((48, 8), (20, 4), (6, 2)):
        model = dataclasses.replace(SMALL, stages=(8, channels)).build()
        assert model.spatial.depthwise.weight.shape == (channels // chunks, 1, 3, 3)


# ---- widths ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", EVERY, ids=str)
def test_layers_have_the_number_of_filters_that_their_width_says(shape):
    widths, names = shape.widths(), shape.width_of_layer()
    modules = dict(shape.build().named_modules())
    assert {name: len(modules[name].weight) for name in names} == {name: widths[names[name]] for name in names}
    assert set(names.values()) == set(widths) == set(shape.stage_of_width())


def test_learnable_depthwise_layers_have_a_width_and_fixed_ones_have_none():
    names = dataclasses.replace(NARROW, variant="g").width_of_layer()
    assert names["stage3.1.spatial"] == names["stage3.2.spatial"] == names["stage3.2.pointwise.conv"] == "stage3"
    fixed = [name for name in NARROW.width_of_layer() if "spatial" in name]
    assert fixed == []


def test_with_widths_changes_halves_of_channels():
    assert SMALL.widths() == {"stem": 4, "stage1": 4, "stage2": 6}
    assert SMALL.with_widths({"stage2": 7, "stem": 5}) == dataclasses.replace(SMALL, stem=5, stages=(8, 14))
    with pytest.raises(ValueError, match=r"unknown names \['stage3'\]; accepted are \['stage1', 'stage2', 'stem'\]"):
        SMALL.with_widths({"stage3": 3})
    with pytest.raises(ValueError, match="stage1 must be a whole number >= 1, got 0"):
        SMALL.with_widths({"stage1": 0})


@pytest.mark.parametrize("widths", [{"stem": 1, "stage1": 1, "stage2": 1}, {"stem": 9}, {"stage1": 11, "stage2": 3}])
def test_any_widths_make_a_network(widths):
    assert built(SMALL.with_widths(widths))(torch.rand(2, 1, 4, 4)).shape == (2, 3)


# ---- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"variant": "h"}, r"variant must be one of \('c', 'g', 'f1', 'f2', 'f3', 'f4'\), got 'h'"),
        ({"form": "mnist"}, r"form must be one of \('imagenet', 'cifar'\), got 'mnist'"),
        ({"activation": "gelu"}, r"activation must be one of \('relu', 'silu'\), got 'gelu'"),
        ({"squeeze": 1}, "squeeze must be True or False, got 1"),
        ({"stages": (8, 9)}, "stages must be even numbers of channels, got 9"),
        ({"stages": (8, 0)}, "stages must be a whole number >= 1, got 0"),
        ({"stages": ()}, r"blocks must hold a number for each of stages, got \(2, 2\) and \(\)"),
        ({"blocks": (1,)}, r"blocks must hold a number for each of stages, got \(1,\) and \(8, 12\)"),
        ({"blocks": (1, 0)}, "blocks must be a whole number >= 1, got 0"),
        ({"stem": 1.5}, "stem must be a whole number >= 1, got 1.5"),
        ({"classes": 0}, "classes must be a whole number >= 1, got 0"),
    ],
)
def test_shapes_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **arguments)


def test_an_unknown_variant_size_or_name_is_named_with_those_that_there_are():
    with pytest.raises(ValueError, match=r"size must be one of 1.0mp, 1.5mp, 2.0mp, 2.5mp, got '3mp'"):
        vgnet_shape("g", "3mp")
    with pytest.raises(ValueError, match=r"variant must be one of .*'f4'"):
        vgnet_shape("f5", "1.0mp")
    with pytest.raises(ValueError, match=r"vgnetg-1.0mp, .*got 'vgnetx-1.0mp'"):
        network_of("vgnetx-1.0mp")


def dataset(height, width):
    part = Part(torch.zeros(4, 1, height, width), torch.tensor([0, 1, 2, 0]))
    return Dataset("blank", 3, part, part, part)


def test_images_smaller_than_the_stride():
    assert NARROW.stride == 16
    assert NARROW.adapted_to(dataset(16, 40)) == dataclasses.replace(NARROW, in_channels=1, classes=3)
    with pytest.raises(ValueError, match=r"images of blank must have at least 16 pixels a side .* got 40x15"):
        NARROW.adapted_to(dataset(40, 15))
    assert [network_of(f"vgnetg-{name}").stride for name in ("1.0mp", "1.0mp-cifar", "small")] == [32, 8, 4]


@pytest.mark.parametrize(("first", "second"), [("c", "g"), ("g", "f1"), ("f1", "f3"), ("f2", "f1"), ("f4", "f2")])
@pytest.mark.parametrize("turned", [False, True])
def test_a_state_dict_of_another_variant_is_refused(first, second, turned):
    given, wanted = (second, first) if turned else (first, second)
    model, other = (dataclasses.replace(NARROW, variant=variant).build() for variant in (wanted, given))
    before = {name: value.clone() for name, value in model.named_buffers() if name.endswith("weight")}
    with pytest.raises((ValueError, RuntimeError), match="of another variant"):
        model.load_state_dict(other.state_dict())
    assert all(torch.equal(before[name], dict(model.named_buffers())[name]) for name in before)


@pytest.mark.parametrize("form", ["imagenet", "cifar"])
def test_a_network_that_learns_takes_fixed_blurs_only_where_that_is_asked_for(form):
    learnt, blurred = (dataclasses.replace(NARROW, variant=variant, form=form).build() for variant in "cg")
    before = {name: value.clone() for name, value in learnt.state_dict().items()}
    first = "stage1" if form == "imagenet" else "stage2"  # for small images the first stage learns in all variants
    with pytest.raises(ValueError, match=rf"of another variant: {first}\.0\.spatial\.weight holds fixed blurs"):
        learnt.load_state_dict({name: value.bfloat16() for name, value in blurred.state_dict().items()})
    assert all(torch.equal(before[name], value) for name, value in learnt.state_dict().items())
    learnt.load_state_dict(blurred.state_dict(), strict=False)
    images = torch.randn(2, 2, 32, 32)
    torch.testing.assert_close(learnt.eval()(images), blurred.eval()(images))
    learnt.load_state_dict(before)


def test_a_state_dict_of_another_size_names_the_network():
    message = (
        r"state_dict must be of a VGNetG \(cifar form, channels 4/8/12, relu\), got one of another variant or size: "
        r"stage2.0.pointwise.conv.weight is \(8, 8, 1, 1\), not \(6, 8, 1, 1\)"
    )
    with pytest.raises(ValueError, match=message):
        SMALL.build().load_state_dict(SMALL.with_widths({"stage2": 8}).build().state_dict())


def test_a_state_dict_of_half_type_loads_and_one_that_lacks_the_head_loads_unstrictly():
    model, other = NARROW.build(), built(NARROW, 1)
    state = {name: value.half() if value.is_floating_point() else value for name, value in other.state_dict().items()}
    model.load_state_dict(state)
    torch.testing.assert_close(model.stem.conv.weight, other.stem.conv.weight.half().float())
    body = {name: value for name, value in other.state_dict().items() if not name.startswith("classifier")}
    assert model.load_state_dict(body, strict=False).missing_keys == ["classifier.weight", "classifier.bias"]


# ---- what else networks go through -----------------------------------------------------------------------------------


def test_fixed_kernels_are_measured_too_and_are_shared_by_an_eighth_of_the_channels():
    layers = {layer.name: layer for layer in model_layers(dataclasses.replace(NARROW, variant="f2").build())}
    assert layers["spatial.0"].shape == (28, 1, 3, 3)
    assert len(torch.unique(layers["spatial.0"].banks[0], dim=0)) == 8


@pytest.mark.parametrize(
    "shape",
    [
        dataclasses.replace(SMALL, stages=(8, 16)),
        *(
            pytest.param(each, marks=pytest.mark.exhaustive)
            for each in (NARROW, *(dataclasses.replace(SMALL, variant=v, stages=(8, 16)) for v in ("c", "f1", "f2")))
        ),
    ],
    ids=str,
)
def test_it_shrinks_and_is_proved(shape):
    model = built(shape)
    images = torch.randn(16, shape.in_channels, 16, 16, generator=torch.Generator().manual_seed(0))
    plan = plan_shrink(model, images[:2], calibration=images, parameters=0.8)
    small = plan.apply()
    assert plan.proof
    assert count_parameters(small) <= 0.8 * count_parameters(model)
    assert small(images).shape == (16, shape.classes)
    changed = {layer.name for layer in plan.layers if layer.shrinks}
    assert any("pointwise" in name for name in changed)


@pytest.mark.parametrize("shape", [NARROW, pytest.param(SMALL, marks=pytest.mark.exhaustive)], ids=str)
def test_it_exports_for_any_batch(shape):
    model, images = built(shape), torch.randn(3, shape.in_channels, 16, 16)
    program = torch.export.export(model, (images[:2],), dynamic_shapes=({0: torch.export.Dim("N")},))
    torch.testing.assert_close(program.module()(images), model(images))


def test_every_named_one_is_built_and_says_what_it_is():
    named = [each for each in NETWORKS.values() if isinstance(each.network, VGNetShape)]
    assert len(named) == 8 + 1 + 5 + 4 + 6
    assert {each.network.variant for each in named} == set(VARIANTS)
