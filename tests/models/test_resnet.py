import copy
import json
import math
from dataclasses import asdict, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from ckrm_kernels.models import (
    GGCAM,
    NETWORKS,
    ResNet,
    ResNetShape,
    count_multiply_adds,
    count_parameters,
    network_shape,
    resnet_shape,
)

UNEVEN = ResNetShape(stem=3, inner=((4, 5), (6,)), out=(7, 8), in_channels=2, classes=4)
BOTTLENECKS = ResNetShape(3, ((4, 6), (5,), (7,)), None, 2, 4, block="bottleneck")


def on_meta(shape: ResNetShape) -> nn.Module:
    with torch.device("meta"):
        return shape.build()


def test_widths_are_named_in_the_order_of_the_layers():
    assert UNEVEN.widths() == {
        "conv1": 3,
        "layer1.0.conv1": 4,
        "layer1.1.conv1": 5,
        "layer1": 7,
        "layer2.0.conv1": 6,
        "layer2": 8,
    }


def test_with_widths_changes_only_what_is_named():
    changed = UNEVEN.with_widths({"layer1": 9, "layer1.1.conv1": 1})
    assert changed == ResNetShape(stem=3, inner=((4, 1), (6,)), out=(9, 8), in_channels=2, classes=4)
    assert UNEVEN.with_widths(UNEVEN.widths()) == UNEVEN


def test_unknown_width():
    with pytest.raises(ValueError, match=r"unknown names \['layer9'\]; accepted are \['conv1', "):
        UNEVEN.with_widths({"layer9": 3})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"stem": 0}, "conv1 must be a whole number >= 1, got 0"),
        ({"out": (4, 4.0, 4)}, "layer2 must be a whole number"),
        ({"inner": ((4,), (4,))}, "one width for each block of each stage"),
        ({"inner": ((4,), (), (4,))}, "one width for each block of each stage"),
        ({"inner": (), "out": ()}, "one width for each block of each stage"),
        ({"classes": -1}, "classes must be a whole number"),
        ({"out": None}, "out must hold a width for each stage of basic blocks, got None"),
        ({"inner": (), "out": None, "block": "bottleneck"}, "one width for each block of each stage"),
        ({"inner": ((0,),), "out": None, "block": "bottleneck"}, r"layer1.0.conv2 must be a whole number >= 1, got 0"),
        ({"block": "wide"}, r"block must be one of \('basic', 'bottleneck'\), got 'wide'"),
        ({"form": "big"}, r"form must be one of \('small', 'paper', 'paper-small', 'torchvision'\), got 'big'"),
        ({"head": "mlp"}, r"head must be one of \('linear', 'gg-cam'\), got 'mlp'"),
    ],
)
def test_shapes_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ResNetShape(**arguments)


def test_every_convolution_has_the_width_that_it_is_said_to_have():
    widths, names = UNEVEN.widths(), UNEVEN.width_of_layer()
    convolutions = {name: m for name, m in UNEVEN.build().named_modules() if isinstance(m, nn.Conv2d)}
    assert set(names) == set(convolutions)
    assert {name: widths[names[name]] for name in names} == {n: m.out_channels for n, m in convolutions.items()}


def test_layers_that_are_added_are_tied_and_no_others():
    names = UNEVEN.width_of_layer()
    assert names["layer1.0.conv2"] == names["layer1.1.conv2"] == names["layer1.0.downsample.0"] == "layer1"
    three_by_three = [name for name in names if "downsample" not in name]
    assert len({names[name] for name in three_by_three}) == len(three_by_three) - 1


@pytest.mark.parametrize("size", [8, 7, 1])
def test_logits(size):
    model = UNEVEN.build()
    assert isinstance(model, ResNet)
    assert model(torch.rand(3, 2, size, size)).shape == (3, 4)


def test_parameters_counted_by_hand():
    # stem 1 -> 32; stages of one block; a convolution a -> b has 9ab weights and 2b of its norm, a projection ab and 2b
    def stage(a, b):
        return 9 * a * b + 2 * b + 9 * b * b + 2 * b + a * b + 2 * b

    by_hand = 9 * 32 + 64 + stage(32, 32) + stage(32, 64) + stage(64, 128) + 128 * 10 + 10
    assert count_parameters(ResNetShape().build()) == by_hand == 309_162


def test_shared_and_frozen_parameters():
    shared = nn.Linear(3, 4, bias=False)
    frozen = nn.Linear(5, 5)
    frozen.requires_grad_(False)
    assert count_parameters(nn.Sequential(shared, shared, frozen)) == 12


def test_multiply_adds_counted_by_hand():
    def stage(a, b, positions):
        return (9 * a * b + 9 * b * b + a * b) * positions

    by_hand = 9 * 32 * 64 + stage(32, 32, 64) + stage(32, 64, 16) + stage(64, 128, 4) + 128 * 10
    assert count_multiply_adds(ResNetShape().build(), (1, 8, 8)) == by_hand == 3_099_904


def test_counting_leaves_the_model_alone():
    model = UNEVEN.build().train()
    before = copy.deepcopy(model.state_dict())
    count_multiply_adds(model, (2, 8, 8))
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


# ---- the initial weights ---------------------------------------------------------------------------------------------


def test_the_default_network_draws_its_weights_in_the_order_of_its_layers():
    def convolution(incoming, out, size):
        return nn.Conv2d(incoming, out, size, bias=False).weight

    torch.manual_seed(5)
    expected = [convolution(1, 32, 3)]
    for incoming, out in ((32, 32), (32, 64), (64, 128)):
        expected += [convolution(incoming, out, 3), convolution(out, out, 3), convolution(incoming, out, 1)]
    linear = nn.Linear(128, 10)
    torch.manual_seed(5)
    drawn = [p for p in ResNetShape().build().parameters() if p.dim() == 4]
    assert all(torch.equal(a, b) for a, b in zip(drawn, expected, strict=True))
    torch.manual_seed(5)
    assert torch.equal(ResNetShape().build().fc.weight, linear.weight)


def test_torchvision_starts_normal_by_fan_out():
    torch.manual_seed(0)
    model = resnet_shape(18, form="torchvision", in_channels=3, classes=5).build()
    weight = model.get_submodule("layer4.0.conv1").weight
    deviation = math.sqrt(2 / (512 * 9))
    assert weight.std().item() == pytest.approx(deviation, rel=0.01)
    assert weight.abs().max() > 4 * deviation  # uniform weights would end at 1.73 deviations
    norm = model.get_submodule("layer4.0.bn2")
    assert (norm.weight == 1).all()
    assert (norm.bias == 0).all()


# ---- bottlenecks, whose outputs are inferred -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mids", "outs"),
    [
        ((64, 128, 256, 512), (256, 512, 1024, 2048)),
        ((16, 32, 24, 18), (64, 48, 36, 27)),
        ((10,), (40,)),
        ((4, 1), (2, 1)),
        ((9, 1, 1), (2, 2, 2)),
    ],
)
def test_outputs_as_in_table_2_of_the_paper(mids, outs):
    assert ResNetShape(8, tuple((mid,) for mid in mids), None, block="bottleneck").outs() == outs


def test_the_widest_block_of_a_stage_decides():
    assert BOTTLENECKS.outs() == (10, 14, 20)  # 2 x 5, 2 x 7, 7 x 14 / 5 = 19.6


def test_widths_of_bottlenecks_are_those_of_their_3x3():
    assert BOTTLENECKS.widths() == {
        "conv1": 3,
        "layer1.0.conv2": 4,
        "layer1.1.conv2": 6,
        "layer2.0.conv2": 5,
        "layer3.0.conv2": 7,
    }
    assert BOTTLENECKS.width_of_layer() == {
        "conv1": "conv1",
        "layer1.0.conv1": "layer1.0.conv2",
        "layer1.0.conv2": "layer1.0.conv2",
        "layer1.1.conv1": "layer1.1.conv2",
        "layer1.1.conv2": "layer1.1.conv2",
        "layer2.0.conv1": "layer2.0.conv2",
        "layer2.0.conv2": "layer2.0.conv2",
        "layer3.0.conv1": "layer3.0.conv2",
        "layer3.0.conv2": "layer3.0.conv2",
    }


def test_given_outputs_of_bottlenecks_are_widths_too():
    shape = replace(BOTTLENECKS, out=(8, 9, 11))
    assert list(shape.widths())[:4] == ["conv1", "layer1.0.conv2", "layer1.1.conv2", "layer1"]
    names = shape.width_of_layer()
    assert names["layer2.0.conv3"] == names["layer2.0.downsample.0"] == "layer2"
    assert shape.with_widths({"layer3": 12}).out == (8, 9, 12)


def test_table_2_from_five_numbers():
    widths = (16, 16, 32, 24, 18)
    shape = resnet_shape(50, form="paper", in_channels=1, classes=3, widths=widths)
    assert len(shape.widths()) == 17  # the layers that the paper measures
    assert count_parameters(on_meta(shape)) == 128_062
    standard = network_shape("resnet50-standard")
    of_layer = standard.with_widths(shape.widths())
    assert of_layer == shape


STAGES = st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=2).map(tuple), min_size=1, max_size=3).map(tuple)


@given(st.data(), STAGES, st.sampled_from(["small", "paper", "paper-small", "torchvision"]))
@settings(max_examples=60, deadline=None)
def test_any_shape_is_built_as_it_says(data, inner, form):
    block, head = data.draw(st.sampled_from(["basic", "bottleneck"])), data.draw(st.sampled_from(["linear", "gg-cam"]))
    out = tuple(data.draw(st.lists(st.integers(1, 5), min_size=len(inner), max_size=len(inner))))
    if block == "bottleneck" and data.draw(st.booleans()):
        out = None
    shape = ResNetShape(data.draw(st.integers(1, 5)), inner, out, 2, 3, block, form, head)
    widths, names = shape.widths(), shape.width_of_layer()
    assert shape.with_widths(widths) == shape
    assert set(names.values()) == set(widths)
    described = json.loads(json.dumps(asdict(shape)))
    assert described["inner"] == [list(blocks) for blocks in inner]

    model = shape.build().eval()
    assert model(torch.rand(2, 2, 9, 7)).shape == (2, 3)
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            assert module.out_channels == widths[names[name]] if name in names else module.kernel_size == (1, 1)
    assert set(names) <= {name for name, _ in model.named_modules()}
    assert len([n for n in names if "downsample" not in n]) >= 1 + sum(map(len, inner))


# ---- the forms -------------------------------------------------------------------------------------------------------


def layer_by_layer(state, images, strides, stem_stride, pool, stride_on):
    """The logits of a network in evaluation mode, from its weights by name and the strides of its stages."""

    def convolve(x, name, stride):
        weight = state[f"{name}.weight"]
        return functional.conv2d(x, weight, state.get(f"{name}.bias"), stride, weight.shape[-1] // 2)

    def norm(x, name):
        mean, var, weight, bias = (
            state[f"{name}.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / torch.sqrt(var + 1e-5) * weight + bias

    x = norm(convolve(images, "conv1", stem_stride), "bn1").relu()
    x = functional.max_pool2d(x, 3, 2, padding=1) if pool else x
    for stage, stride in enumerate(strides, 1):
        block = 0
        while f"layer{stage}.{block}.conv1.weight" in state:
            path, shortcut = f"layer{stage}.{block}", x
            convolutions = [i for i in (1, 2, 3) if f"{path}.conv{i}.weight" in state]
            for i in convolutions:
                here = stride if block == 0 and f"conv{i}" == stride_on else 1
                x = norm(convolve(x, f"{path}.conv{i}", here), f"{path}.bn{i}")
                x = x.relu() if i != convolutions[-1] else x
            if f"{path}.downsample.0.weight" in state:
                projected = convolve(shortcut, f"{path}.downsample.0", stride if block == 0 else 1)
                shortcut = norm(projected, f"{path}.downsample.1")
            x = (x + shortcut).relu()
            block += 1
    return x.mean((2, 3)) @ state["fc.weight"].T + state["fc.bias"]


@pytest.mark.parametrize(
    ("form", "block", "strides", "stem", "pool", "stride_on"),
    [
        ("small", "basic", (1, 2, 2), (3, 1), False, "conv1"),
        ("small", "bottleneck", (1, 2, 2), (3, 1), False, "conv2"),
        ("paper", "basic", (2, 2, 2), (7, 2), False, "conv1"),
        ("paper", "bottleneck", (2, 2, 2), (7, 2), False, "conv1"),
        ("paper-small", "basic", (1, 2, 2), (3, 1), False, "conv1"),
        ("paper-small", "bottleneck", (1, 2, 2), (3, 1), False, "conv1"),
        ("torchvision", "basic", (1, 2, 2), (7, 2), True, "conv1"),
        ("torchvision", "bottleneck", (1, 2, 2), (7, 2), True, "conv2"),
    ],
)
def test_each_form_computes_what_its_layers_say(form, block, strides, stem, pool, stride_on):
    torch.manual_seed(1)
    out = (4, 6, 7) if block == "basic" else None
    shape = ResNetShape(4, ((4, 3), (5, 4), (3, 6)), out, 2, 3, block, form)
    model = shape.build().double().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_mean, module.weight.data, module.bias.data):
                tensor.normal_()
            module.running_var.uniform_(0.5, 2)
    state, images = model.state_dict(), torch.randn(2, 2, 37, 26, dtype=torch.float64)
    assert state["conv1.weight"].shape[-1] == stem[0]
    assert ("conv1.bias" in state) == ("layer1.0.conv2.bias" in state) == ("paper" in form)
    projected = [f"layer{stage}.0.downsample.0.weight" in state for stage in (1, 2, 3)]
    assert projected == [form != "torchvision" or block != "basic", True, True]
    expected = layer_by_layer(state, images, strides, stem[1], pool, stride_on)
    torch.testing.assert_close(model(images), expected, rtol=1e-10, atol=1e-10)


def test_torchvision_projects_where_narrowing_makes_channels_differ():
    shape = resnet_shape(18, form="torchvision", in_channels=3, classes=7)
    narrowed = shape.with_widths({"conv1": 20})
    assert "layer1.0.downsample.0" not in shape.width_of_layer()
    assert narrowed.width_of_layer()["layer1.0.downsample.0"] == "layer1"
    assert narrowed.build()(torch.rand(1, 3, 32, 32).repeat(2, 1, 1, 1)).shape == (2, 7)


@pytest.mark.parametrize(("depth", "blocks", "convolutions"), [(18, (2, 2, 2, 2), 2), (50, (3, 4, 6, 3), 3)])
def test_names_and_shapes_of_torchvision(depth, blocks, convolutions):
    expected: dict[str, tuple[int, ...]] = {}

    def norm(name, width):
        for part in ("weight", "bias", "running_mean", "running_var"):
            expected[f"{name}.{part}"] = (width,)
        expected[f"{name}.num_batches_tracked"] = ()

    expected["conv1.weight"] = (64, 3, 7, 7)
    norm("bn1", 64)
    channels = 64
    for layer, (count, planes) in enumerate(zip(blocks, (64, 128, 256, 512), strict=True), 1):
        out = planes if depth == 18 else 4 * planes
        for block in range(count):
            path = f"layer{layer}.{block}"
            kernels = [(planes, channels, 3, 3), (planes, planes, 3, 3)]
            if depth == 50:
                kernels = [(planes, channels, 1, 1), (planes, planes, 3, 3), (out, planes, 1, 1)]
            for i, kernel in enumerate(kernels, 1):
                expected[f"{path}.conv{i}.weight"] = kernel
                norm(f"{path}.bn{i}", kernel[0])
            if block == 0 and (layer > 1 or depth == 50):
                expected[f"{path}.downsample.0.weight"] = (out, channels, 1, 1)
                norm(f"{path}.downsample.1", out)
            channels = out
    expected |= {"fc.weight": (1000, channels), "fc.bias": (1000,)}
    state = on_meta(network_shape(f"resnet{depth}")).state_dict()
    assert [(name, tuple(value.shape)) for name, value in state.items()] == list(expected.items())
    assert len(expected) == {18: 122, 50: 320}[depth]


# ---- the networks that have a name -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("resnet50-standard", 23_534_467),
        ("resnet50-optimized", 128_062),
        ("resnet50-standard-ggcam", 23_534_470),
        ("resnet50-optimized-ggcam", 128_065),
        ("resnet18", 11_689_512),
        ("resnet34", 21_797_672),
        ("resnet50", 25_557_032),
        ("resnet101", 44_549_160),
        ("resnet152", 60_192_808),
        ("resnet-digits", 309_162),
    ],
)
def test_published_numbers_of_parameters(name, parameters):
    assert count_parameters(on_meta(network_shape(name))) == parameters


def test_every_network_is_listed_under_its_name():
    assert all(name == network.name for name, network in NETWORKS.items())
    assert len(NETWORKS) == 12


def test_the_paper_has_no_pool_and_a_stride_of_32():
    with torch.device("meta"):
        model = network_shape("resnet50-standard").build()
        assert model.features(torch.empty(2, 1, 1536, 1280)).shape == (2, 2048, 48, 40)


def test_resnet_paper_digits_has_maps_of_2x2_and_counts_by_hand():
    shape = network_shape("resnet-paper-digits")
    model = on_meta(shape)
    assert model.features(torch.empty(1, 1, 8, 8, device="meta")).shape[2:] == (2, 2)

    def convolution(incoming, out, size):
        return incoming * out * size**2 + out + 2 * out  # weights, biases, the norm

    total, incoming = convolution(1, 32, 3), 32
    for mid, out in ((24, 96), (48, 192), (96, 384)):
        total += convolution(incoming, out, 1)
        for entering in (incoming, out):
            total += convolution(entering, mid, 1) + convolution(mid, mid, 3) + convolution(mid, out, 1)
        incoming = out
    assert count_parameters(model) == total + 384 * 10 + 10 == 494_218


def test_a_named_network_for_other_images():
    shape = network_shape("resnet50-optimized", in_channels=3, classes=5)
    assert (shape.in_channels, shape.classes) == (3, 5)
    assert replace(shape, in_channels=1, classes=3) == NETWORKS["resnet50-optimized"].network
    assert network_shape("resnet18").in_channels == 3


def test_gg_cam_prefixes_the_modules_and_not_the_widths():
    linear, cam = network_shape("resnet50-optimized"), network_shape("resnet50-optimized-ggcam")
    assert cam.widths() == linear.widths()
    assert cam.width_of_layer() == {f"features.{layer}": name for layer, name in linear.width_of_layer().items()}
    model = on_meta(cam)
    assert isinstance(model, GGCAM)
    assert model.maps(torch.empty(2, 1, 96, 64, device="meta")).shape == (2, 3, 3, 2)


@pytest.mark.parametrize("shape", [UNEVEN, BOTTLENECKS, network_shape("resnet50-optimized-ggcam")])
def test_every_width_has_its_stage(shape):
    stages = shape.stage_of_width()
    assert list(stages) == list(shape.widths())
    assert stages["conv1"] == "conv1"
    layers = {name: width for name, width in shape.width_of_layer().items() if ".layer" in f".{name}"}
    for layer, width in layers.items():
        assert stages[width] == next(part for part in layer.split(".") if part.startswith("layer"))


def test_adapted_to_the_data():
    from ckrm_kernels.data import Dataset, Part

    part = Part(torch.zeros(2, 5, 4, 4), torch.tensor([0, 1]))
    data = Dataset("two", 7, part, part, part)
    assert UNEVEN.adapted_to(data) == replace(UNEVEN, in_channels=5, classes=7)
    with pytest.raises(ValueError, match=r"network\.head must be linear for two, which has no gaze maps, got gg-cam"):
        replace(UNEVEN, head="gg-cam").adapted_to(data)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: network_shape("resnet51"), "name must be one of resnet50-standard, .*resnet-digits.*, got 'resnet51'"),
        (lambda: network_shape("resnet18", classes=0), "classes must be a whole number >= 1, got 0"),
        (
            lambda: resnet_shape(20, form="paper", in_channels=1, classes=3),
            r"depth must be one of \[18, 34, 50, 101, 152\], got 20",
        ),
        (
            lambda: resnet_shape(50, form="paper", in_channels=1, classes=3, widths=(16, 32, 24, 18)),
            r"widths must hold five numbers.*got \(16, 32, 24, 18\)",
        ),
    ],
)
def test_networks_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
