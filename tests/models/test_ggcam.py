import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call

from ckrm_kernels.models import GGCAM, CAMHead, GazeLoss, count_parameters, localization_hits


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def uniform(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def gaze_loss(ln_sc: float, ln_sd: float, ln_kappa: float) -> GazeLoss:
    loss = GazeLoss().double()
    with torch.no_grad():
        for parameter, value in zip(loss.parameters(), (ln_sc, ln_sd, ln_kappa), strict=True):
            parameter.fill_(value)
    return loss


LABELS = torch.tensor([2, 0])
LOGITS, MAPS, GAZE = normal(2, 3), normal(2, 3, 4, 5, seed=1), uniform(2, 4, 5)


def by_hand(sc: float, sd: float, kappa: float) -> float:
    """The loss of LOGITS, MAPS, LABELS and GAZE, term by term."""
    logits, maps, gaze = LOGITS.numpy(), MAPS.numpy(), GAZE.numpy()
    entropy, squares = 0.0, []
    for image, label in enumerate(LABELS.tolist()):
        exponentials = [math.exp(value) for value in logits[image]]
        entropy -= math.log(exponentials[label] / sum(exponentials)) / 2
        for row in range(4):
            for column in range(5):
                seen = 1 / (1 + math.exp(-kappa * maps[image, label, row, column]))
                squares.append((seen - gaze[image, row, column]) ** 2)
    square_error = sum(squares) / len(squares)
    return entropy / sc**2 + math.log(sc + 1) + square_error / (2 * sd**2) + math.log(sd + 1)


# ---- maps ------------------------------------------------------------------------------------------------------------


def test_maps_and_logits_by_hand():
    head = CAMHead(3, 2).double()
    features = normal(2, 3, 2, 4)
    weight, bias, x = head.weight.detach().numpy(), head.bias.detach().numpy(), features.numpy()
    maps = np.zeros((2, 2, 2, 4))
    for n, k, i, j in np.ndindex(maps.shape):
        maps[n, k, i, j] = sum(weight[k, c] * x[n, c, i, j] for c in range(3)) / 3
    np.testing.assert_allclose(head.maps(features).detach().numpy(), maps, rtol=1e-12)
    logits = maps.reshape(2, 2, 8).sum(2) / 8 + bias
    np.testing.assert_allclose(head(features).detach().numpy(), logits, rtol=1e-12)


def test_a_head_has_the_parameters_of_a_linear_layer_and_starts_within_the_same_bound():
    torch.manual_seed(0)
    head = CAMHead(400, 50)
    assert count_parameters(head) == 400 * 50 + 50
    for parameter in head.parameters():
        assert parameter.abs().max() <= 0.05
    assert head.weight.std().item() == pytest.approx(0.05 / math.sqrt(3), rel=0.02)


def test_gradients_of_the_head():
    head = CAMHead(3, 2).double()
    assert torch.autograd.gradcheck(head, (normal(2, 3, 2, 2).requires_grad_(),))


@pytest.mark.parametrize("shape", [(2, 3), (2, 4, 5, 5), (3, 5, 5)])
def test_features_refused(shape):
    with pytest.raises(ValueError, match=r"features must be \(N, 3, h, w\), got"):
        CAMHead(3, 2)(torch.zeros(shape))


def test_sizes_refused():
    with pytest.raises(ValueError, match="classes must be a whole number >= 1, got 0"):
        CAMHead(3, 0)


# ---- the loss --------------------------------------------------------------------------------------------------------


def test_published_initial_values():
    assert {name: p.item() for name, p in GazeLoss().named_parameters()} == {"ln_sc": 7, "ln_sd": -23, "ln_kappa": 0}


@pytest.mark.parametrize("scalars", [(0.0, 0.0, 0.0), (0.3, -0.7, 0.4), (-2.0, 1.5, -1.0), (7.0, -23.0, 0.0)])
def test_loss_by_hand(scalars):
    loss = gaze_loss(*scalars)(LOGITS, MAPS, LABELS, GAZE)
    assert loss.item() == pytest.approx(by_hand(*map(math.exp, scalars)), rel=1e-12)


def test_gradients_of_the_loss():
    names = ("ln_sc", "ln_sd", "ln_kappa")
    module, scalars = GazeLoss().double(), [torch.tensor(v, dtype=torch.float64) for v in (0.3, -0.7, 0.4)]

    def loss(logits, maps, *scalars):
        return functional_call(module, dict(zip(names, scalars, strict=True)), (logits, maps, LABELS, GAZE))

    inputs = tuple(value.clone().requires_grad_() for value in (LOGITS, MAPS, *scalars))
    assert torch.autograd.gradcheck(loss, inputs)


def test_the_first_step_in_float32_is_finite():
    logits, maps = LOGITS.float().requires_grad_(), MAPS.float().requires_grad_()
    module = GazeLoss()
    loss = module(logits, maps, LABELS, GAZE.float())
    loss.backward()
    assert loss.item() == pytest.approx(by_hand(math.exp(7), math.exp(-23), 1), rel=1e-5)
    gradients = [logits.grad, maps.grad, *(parameter.grad for parameter in module.parameters())]
    assert all(gradient.isfinite().all() for gradient in gradients)
    # at the start ln_sc falls by d ln(s + 1) / d ln s, nearly 1, and ln_sd climbs by twice its own term
    assert module.ln_sc.grad.item() == pytest.approx(1, abs=0.01)
    assert module.ln_sd.grad.item() == pytest.approx(-2 * loss.item(), rel=1e-5)


@pytest.mark.parametrize("value", [-40.0, 40.0])
def test_extreme_deviations(value):
    module = gaze_loss(value, value, 0.0).float()
    loss = module(LOGITS.float(), MAPS.float(), LABELS, GAZE.float())
    loss.backward()
    assert loss.isfinite()
    assert all(parameter.grad.isfinite() for parameter in module.parameters())


def test_half_precision_maps_give_a_loss_of_float32():
    loss = GazeLoss()(LOGITS.bfloat16(), MAPS.bfloat16(), LABELS, GAZE.float())
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(by_hand(math.exp(7), math.exp(-23), 1), rel=0.02)


def test_gaze_is_resized_to_the_maps():
    module = gaze_loss(0.0, 0.0, 0.0)
    # between the centres of two pixels, a quarter and three quarters of the way, and beyond them the pixels themselves
    small = torch.tensor([[[0.2, 1.0]]], dtype=torch.float64)
    large = torch.tensor([[[0.2, 0.4, 0.8, 1.0]]], dtype=torch.float64)
    maps, labels, logits = normal(1, 3, 1, 4), torch.tensor([1]), normal(1, 3)
    expected = module(logits, maps, labels, large)
    assert module(logits, maps, labels, small).item() == pytest.approx(expected.item(), rel=1e-12)


def test_shrinking_gaze_loses_no_pixel():
    module = gaze_loss(0.0, 0.0, 0.0)
    maps, labels, logits = torch.zeros(1, 1, 2, 2).double(), torch.tensor([0]), torch.zeros(1, 1).double()
    nothing = torch.zeros(1, 64, 64).double()
    without = module(logits, maps, labels, nothing)
    for row, column in ((0, 0), (13, 40), (63, 31)):
        seen = nothing.clone()
        seen[0, row, column] = 1
        assert module(logits, maps, labels, seen) != without
    constant = module(logits, maps, labels, torch.full((1, 2, 2), 0.25).double())
    assert module(logits, maps, labels, torch.full((1, 64, 48), 0.25).double()).item() == pytest.approx(constant.item())


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"gaze": GAZE[:1]}, r"gaze must be floating point \(N, H, W\) for the 2 images of maps, got .*\(1, 4, 5\)"),
        ({"gaze": GAZE[:, None]}, r"gaze must be .* got torch.float64 \(2, 1, 4, 5\)"),
        ({"gaze": GAZE > 0.5}, r"gaze must be floating point .* got torch.bool \(2, 4, 5\)"),
        ({"gaze": GAZE[:, :0]}, r"gaze must be .* got torch.float64 \(2, 0, 5\)"),
        ({"labels": LABELS[:1]}, r"labels must be int64 \(2,\), got torch.int64 \(1,\)"),
        ({"labels": LABELS.float()}, r"labels must be int64 \(2,\), got torch.float32"),
        ({"maps": MAPS[0]}, r"maps must be \(N, classes, h, w\) and not empty, got \(3, 4, 5\)"),
    ],
)
def test_what_the_loss_refuses(changed, message):
    with pytest.raises(ValueError, match=message):
        GazeLoss()(**{"logits": LOGITS, "maps": MAPS, "labels": LABELS, "gaze": GAZE, **changed})


# ---- any network -----------------------------------------------------------------------------------------------------


@pytest.fixture
def network() -> GGCAM:
    torch.manual_seed(0)
    return GGCAM(nn.Sequential(nn.Conv2d(1, 6, 3, stride=2), nn.ReLU()), 6, 3).double()


def test_a_network_of_any_features(network):
    images = normal(2, 1, 9, 11)
    maps = network.maps(images)
    assert maps.shape == (2, 3, 4, 5)
    torch.testing.assert_close(network(images), maps.mean((2, 3)) + network.head.bias)
    expected = network.gaze_loss(network(images), maps, LABELS, GAZE)
    assert network.loss(images, LABELS, GAZE).item() == pytest.approx(expected.item(), rel=1e-12)


def test_names_and_number_of_parameters(network):
    names = [name for name, _ in network.named_parameters()]
    assert names == [
        "features.0.weight",
        "features.0.bias",
        "head.weight",
        "head.bias",
        "gaze_loss.ln_sc",
        "gaze_loss.ln_sd",
        "gaze_loss.ln_kappa",
    ]
    assert count_parameters(network) == 6 * 9 + 6 + 3 * 6 + 3 + 3


def test_adam_moves_the_map_towards_the_gaze_from_the_published_start(network):
    network.float()
    images = normal(2, 1, 9, 11).float()
    gaze = torch.zeros(2, 4, 5)
    gaze[:, 1:3, 1:3] = 1
    optimizer = torch.optim.Adam(network.parameters(), 5e-3)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = network.loss(images, LABELS, gaze)
        loss.backward()
        optimizer.step()
        losses.append(loss.item() * math.exp(2 * network.gaze_loss.ln_sd.item()))
    assert losses[-1] < 0.9 * losses[0]
    assert network.gaze_loss.ln_sd.item() == pytest.approx(-23 + 60 * 5e-3, abs=0.05)  # a learning rate each step


# ---- localisation ----------------------------------------------------------------------------------------------------


def peaks(*places: tuple[int, int, int]) -> torch.Tensor:
    """Maps (N, 3, 4, 6), all 0 but for one image's highest cell: (class, row, column)."""
    maps = torch.zeros(len(places), 3, 4, 6)
    for image, place in enumerate(places):
        maps[(image, *place)] = 1
    return maps


def test_hits_by_hand():
    heart, lungs = torch.zeros(4, 6, dtype=torch.bool), torch.zeros(4, 6, dtype=torch.bool)
    heart[1, 1] = lungs[3, 5] = True
    maps = peaks((1, 1, 1), (1, 2, 2), (1, 1, 3), (2, 2, 4), (2, 1, 1), (2, 3, 0))
    labels = torch.tensor([1, 1, 1, 2, 2, 2])
    regions = torch.stack((heart, lungs)).expand(6, 2, 4, 6)
    hits = localization_hits(maps, labels, regions, {1: 0, 2: 1})
    # on the cell, diagonally beside it, two columns off, diagonally beside, in the other class's region, and no
    # neighbour across the edge: (3, 0) is not beside (3, 5)
    assert hits.tolist() == [True, True, False, True, False, False]


def test_only_the_true_class_counts():
    region = torch.zeros(1, 1, 4, 6, dtype=torch.bool)
    region[0, 0, 0, 0] = True
    maps = peaks((1, 0, 0))
    maps[0, 2, 3, 3] = 5
    assert localization_hits(maps, torch.tensor([1]), region, {1: 0, 2: 0}).tolist() == [True]
    assert localization_hits(maps, torch.tensor([2]), region, {1: 0, 2: 0}).tolist() == [False]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"labels": torch.tensor([0])}, r"must name a region for each class in labels, it has none for \[0\]"),
        ({"region_of_class": {1: 2}}, "region_of_class must give an index below 2, got 2 for 1"),
        (
            {"regions": torch.zeros(1, 2, 8, 6).bool()},
            r"on the grid of maps \(1, 3, 4, 6\), got torch.bool \(1, 2, 8, 6\)",
        ),
        ({"regions": torch.zeros(1, 2, 4, 6)}, r"regions must be bool \(N, R, h, w\) .* got torch.float32"),
        ({"regions": torch.zeros(4, 6).bool()}, r"regions must be bool \(N, R, h, w\) .* got torch.bool \(4, 6\)"),
    ],
)
def test_what_localization_refuses(changed, message):
    given = {"maps": peaks((1, 0, 0)), "labels": torch.tensor([1]), "region_of_class": {1: 0}}
    given["regions"] = torch.zeros(1, 2, 4, 6, dtype=torch.bool)
    with pytest.raises(ValueError, match=message):
        localization_hits(**{**given, **changed})
