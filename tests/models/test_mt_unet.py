import math
from dataclasses import replace

import pytest
import torch
from gaze_digits import gaze_digits
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call
from torch.nn import functional

from ckrm_kernels.data import Batch, Dataset, Part, digits
from ckrm_kernels.models import (
    NETWORKS,
    MTUNet,
    MTUNetShape,
    MultiTaskLoss,
    SaliencyMaps,
    count_parameters,
    mt_unet_shape,
    without_memory,
)

SMALL = MTUNetShape(encoder=((2, 3), (4, 5), (6, 7)), decoder=((8, 9, 10), (11, 3, 2)), saliency=4)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def uniform(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def network() -> MTUNet:
    """In float64 and evaluation mode, its running statistics those of no batch."""
    torch.manual_seed(0)
    model = SMALL.build().double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for statistics in (module.running_mean, module.running_var, module.weight, module.bias):
                statistics.data = 0.5 + torch.rand_like(statistics)
    return model.eval()


# ---- structure -------------------------------------------------------------------------------------------------------


def parameters_by_hand(widths: tuple[int, ...], classes: int) -> int:
    """Of the U-Net with a width for each level, without the loss's."""

    def convolution(incoming: int, out: int) -> int:
        return 9 * incoming * out + out + 2 * out  # with its batch norm

    first, deepest = widths[0], widths[-1]
    encoder = sum(convolution(i, o) + convolution(o, o) for i, o in zip((1, *widths), widths, strict=False))
    steps = zip(widths[1:], widths, strict=False)
    decoder = sum(convolution(i, o) + convolution(2 * o, o) + convolution(o, o) for i, o in steps)
    saliency = convolution(first, first) + first + 1
    classification = (deepest + first) * first + first + first * classes + classes
    return encoder + decoder + saliency + classification


def test_the_published_number_of_parameters():
    model = without_memory(NETWORKS["mt-unet"].network)
    assert count_parameters(model.mt_loss) == 1
    assert count_parameters(model) - 1 == 34_632_836 == parameters_by_hand((64, 128, 256, 512, 1024), 3)


@pytest.mark.parametrize("widths", [(3, 5), (4, 4, 6), (2, 3, 5, 7, 11, 13)])
def test_the_depth_is_the_number_of_widths(widths):
    shape = mt_unet_shape(widths, classes=4)
    assert count_parameters(shape.build()) == parameters_by_hand(widths, 4) + 1
    assert shape.stride == 2 ** (len(widths) - 1)


def by_hand(model: MTUNet, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and log-probabilities of SMALL, for sides that are multiples of 4, from the weights by name."""
    state = model.state_dict()

    def convolved(path: str, norm: str, x: torch.Tensor) -> torch.Tensor:
        x = functional.conv2d(x, state[f"{path}.weight"], state[f"{path}.bias"], padding=1)
        mean, variance, scale, shift = (
            state[f"{norm}.{name}"][:, None, None] for name in ("running_mean", "running_var", "weight", "bias")
        )
        return ((x - mean) / (variance + 1e-5).sqrt() * scale + shift).clamp(min=0)

    def twice(path: str, x: torch.Tensor) -> torch.Tensor:
        return convolved(f"{path}.conv2", f"{path}.bn2", convolved(f"{path}.conv1", f"{path}.bn1", x))

    def halved(x: torch.Tensor) -> torch.Tensor:
        return torch.stack([x[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)]).amax(0)

    def doubled(x: torch.Tensor) -> torch.Tensor:
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3)

    one = twice("encoder.0", images)
    two = twice("encoder.1", halved(one))
    deepest = twice("encoder.2", halved(two))
    up = twice("decoder.0", torch.cat((two, convolved("decoder.0.up", "decoder.0.bn_up", doubled(deepest))), 1))
    last = twice("decoder.1", torch.cat((one, convolved("decoder.1.up", "decoder.1.bn_up", doubled(up))), 1))
    means = torch.cat((deepest.mean((2, 3)), last.mean((2, 3))), 1)
    hidden = (means @ state["hidden.weight"].T + state["hidden.bias"]).clamp(min=0)
    scores = convolved("saliency_conv", "saliency_bn", last)
    scores = torch.einsum("nchw,c->nhw", scores, state["saliency_out.weight"][0, :, 0, 0]) + state["saliency_out.bias"]
    saliency = scores - scores.exp().sum((1, 2), keepdim=True).log()
    return hidden @ state["fc.weight"].T + state["fc.bias"], saliency


def test_both_heads_by_hand(network):
    images = normal(3, 1, 8, 12)
    logits, saliency = network(images, with_saliency=True)
    expected = by_hand(network, images)
    torch.testing.assert_close(logits, expected[0], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(saliency, expected[1], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(network(images), logits)
    torch.testing.assert_close(network.saliency(images), saliency)
    assert isinstance(network, SaliencyMaps)


def test_dropout_of_a_quarter_lies_before_the_relu_of_the_hidden_layer(network):
    seen = []
    network.dropout.register_forward_hook(lambda module, inputs, output: seen.append((inputs[0], output)))
    network.dropout.train()
    network.fc.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    torch.manual_seed(1)
    network(normal(500, 1, 4, 4))
    (before, after), read = seen
    kept = after != 0
    assert kept.double().mean().item() == pytest.approx(0.75, abs=0.05)
    torch.testing.assert_close(after[kept], before[kept] / 0.75)
    assert torch.equal(read, after.clamp(min=0))


@given(st.integers(4, 13), st.integers(4, 13))
def test_images_of_any_size_from_the_stride_on(height, width):
    torch.manual_seed(0)
    logits, saliency = SMALL.build().eval()(torch.randn(2, 1, height, width), with_saliency=True)
    assert logits.shape == (2, 3)
    assert saliency.shape == (2, height, width)
    torch.testing.assert_close(saliency.exp().sum((1, 2)), torch.ones(2))


def test_images_smaller_than_the_stride_are_refused(network):
    with pytest.raises(ValueError, match="height and width of at least 4, the stride of the network, got 9x3"):
        network(normal(2, 1, 9, 3))


# ---- widths ----------------------------------------------------------------------------------------------------------


@given(st.data())
def test_each_width_is_that_of_its_layer(data):
    numbers = data.draw(st.lists(st.integers(1, 9), min_size=13, max_size=13))
    widths = dict(zip(SMALL.widths(), numbers, strict=True))
    shape = SMALL.with_widths(widths)
    assert shape.widths() == widths
    modules = dict(without_memory(shape).named_modules())
    for layer, name in shape.width_of_layer().items():
        assert modules[layer].out_channels == widths[name]
    measured = {
        name for name, module in modules.items() if isinstance(module, nn.Conv2d) and module.kernel_size != (1, 1)
    }
    assert measured == set(shape.width_of_layer())


def test_one_width_for_each_level_is_the_usual_u_net():
    shape = mt_unet_shape((4, 6, 8))
    assert set(shape.stage_of_width().values()) == {"level1", "level2", "level3"}
    of_level = {"level1": 5, "level2": 7, "level3": 9}
    narrowed = shape.with_widths({name: of_level[level] for name, level in shape.stage_of_width().items()})
    assert narrowed == mt_unet_shape((5, 7, 9))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"encoder": ((2, 2),), "decoder": ()}, "encoder must have two levels or more and decoder a step less"),
        ({"decoder": ((2, 2, 2),)}, "encoder must have two levels or more and decoder a step less"),
        ({"encoder": ((2, 2), (3,), (4, 4))}, r"encoder must hold 2 widths each time, got \(\(2, 2\), \(3,\)"),
        ({"decoder": ((2, 2), (3, 3, 3))}, "decoder must hold 3 widths each time"),
        ({"saliency": 0}, "saliency_conv must be a whole number >= 1, got 0"),
        ({"encoder": ((2, 2), (2, 0.5), (2, 2))}, r"encoder.1.conv2 must be a whole number >= 1, got 0.5"),
        ({"classes": 0}, "classes must be a whole number >= 1, got 0"),
    ],
)
def test_shapes_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **changed)


def test_unknown_widths_are_named():
    with pytest.raises(ValueError, match=r"widths has unknown names \['conv1'\]; accepted are \['decoder.0.conv1'"):
        SMALL.with_widths({"conv1": 3})


# ---- the loss --------------------------------------------------------------------------------------------------------

LABELS, LOGITS, GAZE = torch.tensor([2, 0]), normal(2, 3), uniform(2, 4, 5)
GAZE[0, 1] = 0  # whose terms of the divergence are 0
SALIENCY = normal(2, 20, seed=1).log_softmax(1).reshape(2, 4, 5)


def loss_by_hand(sc: float) -> float:
    """The loss of LOGITS, SALIENCY, LABELS and GAZE, term by term."""
    entropy = divergence = 0.0
    for image, label in enumerate(LABELS.tolist()):
        exponentials = [math.exp(value) for value in LOGITS[image].tolist()]
        entropy -= math.log(exponentials[label] / sum(exponentials)) / 2
        looked = GAZE[image].flatten().tolist()
        for seen, log in zip(looked, SALIENCY[image].flatten().tolist(), strict=True):
            share = seen / sum(looked)
            divergence += share * (math.log(share) - log) / 2 if share else 0.0
    ss = 1.0
    return entropy / sc**2 + math.log(sc + 1) + divergence / (2 * ss**2) + math.log(ss + 1)


@pytest.mark.parametrize("ln_sc", [0.0, 0.3, -2.0, 5.0])
def test_loss_by_hand(ln_sc):
    module = MultiTaskLoss().double()
    assert module.ln_sc.item() == 0
    module.ln_sc.data.fill_(ln_sc)
    loss = module(LOGITS, SALIENCY, LABELS, GAZE)
    assert loss.item() == pytest.approx(loss_by_hand(math.exp(ln_sc)), rel=1e-12)
    assert module(LOGITS, SALIENCY, LABELS, 7 * GAZE).item() == pytest.approx(loss.item(), rel=1e-12)


def test_gradients_of_the_loss():
    module, ln_sc = MultiTaskLoss().double(), torch.tensor(0.3, dtype=torch.float64)

    def loss(logits, saliency, ln_sc):
        return functional_call(module, {"ln_sc": ln_sc}, (logits, saliency, LABELS, GAZE))

    assert torch.autograd.gradcheck(loss, [each.clone().requires_grad_() for each in (LOGITS, SALIENCY, ln_sc)])


def test_weights_of_the_classes_weigh_the_cross_entropy_alone():
    module, weights = MultiTaskLoss().double(), torch.tensor([0.5, 1.0, 3.0], dtype=torch.float64)
    logs = LOGITS.log_softmax(1)
    plain = -(logs[0, 2] + logs[1, 0]) / 2
    weighed = -(3 * logs[0, 2] + 0.5 * logs[1, 0]) / 3.5
    difference = module(LOGITS, SALIENCY, LABELS, GAZE, weights) - module(LOGITS, SALIENCY, LABELS, GAZE)
    assert difference.item() == pytest.approx((weighed - plain).item(), rel=1e-9)


def test_gaze_of_another_size_is_resized():
    module = MultiTaskLoss().double()
    # between the centres of two pixels, a quarter and three quarters of the way, and beyond them the pixels themselves
    small = torch.tensor([[[0.2, 1.0]]], dtype=torch.float64)
    large = torch.tensor([[[0.2, 0.4, 0.8, 1.0]]], dtype=torch.float64)
    saliency = SALIENCY[:1, :1, :4]
    expected = module(LOGITS[:1], saliency, LABELS[:1], large)
    assert module(LOGITS[:1], saliency, LABELS[:1], small).item() == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_a_gaze_map_that_is_no_distribution_is_named(value):
    gaze = GAZE.clone()
    gaze[1] = value
    with pytest.raises(ValueError, match=r"gaze must be >= 0, finite and of a sum above 0 .* in 1 of 2, the rows 1$"):
        MultiTaskLoss()(LOGITS, SALIENCY, LABELS, gaze)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"gaze": GAZE[:1]},
            r"gaze must be floating point \(N, H, W\) for the 2 images of saliency, got .*\(1, 4, 5\)",
        ),
        ({"gaze": GAZE > 0.5}, r"gaze must be floating point .* got torch.bool \(2, 4, 5\)"),
        ({"saliency": SALIENCY[:, None]}, r"saliency must be \(N, H, W\) for the 2 labels, got \(2, 1, 4, 5\)"),
        ({"labels": LABELS[:1]}, r"saliency must be \(N, H, W\) for the 1 labels, got \(2, 4, 5\)"),
    ],
)
def test_what_the_loss_refuses(changed, message):
    with pytest.raises(ValueError, match=message):
        MultiTaskLoss()(**{"logits": LOGITS, "saliency": SALIENCY, "labels": LABELS, "gaze": GAZE, **changed})


def test_half_precision_gives_a_loss_of_float32():
    loss = MultiTaskLoss()(LOGITS.bfloat16(), SALIENCY.bfloat16(), LABELS, GAZE.float())
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(loss_by_hand(1.0), rel=0.02)


def test_the_network_s_loss_is_that_of_its_outputs(network):
    images, gaze = normal(2, 1, 8, 8), uniform(2, 3, 3)
    logits, saliency = network(images, with_saliency=True)
    expected = network.mt_loss(logits, saliency, LABELS, gaze)
    assert SMALL.loss(network, Batch(images, LABELS, gaze), None).item() == pytest.approx(expected.item(), rel=1e-12)
    with pytest.raises(ValueError, match="batch must have gaze maps for the loss of MT-UNet, got None"):
        SMALL.loss(network, Batch(images, LABELS, None), None)


# ---- data ------------------------------------------------------------------------------------------------------------


def test_adapted_to_data_with_gaze():
    assert SMALL.adapted_to(gaze_digits()) == replace(SMALL, in_channels=1, classes=10)


def test_data_without_gaze_is_refused():
    message = "network must be one without a saliency head for digits, which has no gaze maps, got mt-unet"
    with pytest.raises(ValueError, match=message):
        SMALL.adapted_to(digits())


def test_images_too_small_for_the_depth_are_refused():
    with pytest.raises(ValueError, match=r"images must have a height and width of at least 16, .* got 8x8"):
        mt_unet_shape((2, 2, 2, 2, 2)).adapted_to(gaze_digits())


def test_gaze_maps_that_sum_to_0_are_named_before_any_training():
    part = Part(torch.zeros(300, 1, 8, 8), torch.arange(300) % 2, torch.ones(300, 2, 2))
    bad = Part(part.images, part.labels, part.gaze.clone())
    bad.gaze[[5, 299]] = 0
    with pytest.raises(
        ValueError, match=r"gaze of the part validation of seen must be .* in 2 of 300, the rows 5, 299$"
    ):
        SMALL.adapted_to(Dataset("seen", 2, part, bad, part))
