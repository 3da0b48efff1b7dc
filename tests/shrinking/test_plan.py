"""`plan_shrink` as a user calls it: what leaves, what is proved, and that the model stays as it was."""

from __future__ import annotations

import copy
import math
import random
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

from ckrm_kernels import plan_shrink


def plain_network(seed: int = 0) -> nn.Sequential:
    """Three convolutions with batch norms that have seen something, and a classifier: 3x8x8 images -> 5 logits."""
    torch.manual_seed(seed)
    net = nn.Sequential(
        *(nn.Conv2d(3, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU()),
        *(nn.Conv2d(12, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5)),
    )
    net.train()
    with torch.no_grad():
        for _ in range(5):
            net(torch.randn(16, 3, 8, 8))
    return net.eval()


def with_repeats(net: nn.Sequential) -> nn.Sequential:
    """The second convolution's last eight filters repeat its first eight, norm and all, at twice the scale."""
    conv, norm = net[3], net[4]
    with torch.no_grad():
        conv.weight[8:], conv.bias[8:] = 2 * conv.weight[:8], 2 * conv.bias[:8]
        norm.weight[8:], norm.bias[8:] = norm.weight[:8], norm.bias[:8]
        norm.running_mean[8:] = 2 * norm.running_mean[:8]
        norm.running_var[8:] = 4 * (norm.running_var[:8] + norm.eps) - norm.eps
    return net


IMAGES = torch.randn(96, 3, 8, 8, generator=torch.Generator().manual_seed(1))
EXAMPLE = IMAGES[:2]


def state_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def parameters(model: nn.Module) -> int:
    return sum(each.numel() for each in model.parameters())


@pytest.mark.parametrize("choose", ["error", "psi", "l1", "fpgm", "bn", "random", lambda w: w.flatten(1).norm(dim=1)])
def test_half_of_the_parameters(choose):
    net = plain_network()
    plan = plan_shrink(net, EXAMPLE, calibration=IMAGES, parameters=0.5, choose=choose)
    small = plan.apply()
    assert parameters(small) == plan.after.parameters <= 0.5 * parameters(net) == 0.5 * plan.before.parameters
    assert small(EXAMPLE).shape == (2, 5)
    for row in plan.layers:
        assert row.reached == len(row.kept) == small.get_submodule(row.name).weight.shape[0]
        assert row.width == net.get_submodule(row.name).weight.shape[0]
    assert plan.layers[-1].reached == 5
    assert plan.layers[-1].why


def test_repeats_leave_without_a_budget_and_nothing_changes():
    net = with_repeats(plain_network())
    plan = plan_shrink(net, EXAMPLE, calibration=IMAGES)
    small = plan.apply()
    rows = {row.name: row for row in plan.layers}
    assert rows["3"].reached == 8
    assert rows["0"].reached == 12
    assert rows["6"].reached == 16
    assert sorted(kept % 8 for kept in rows["3"].kept) == list(range(8))  # one of each pair
    assert rows["3"].psi == pytest.approx(0.8**1.1, abs=1e-3)  # L = C = 4 / 5, S = 1
    fresh = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(9))
    assert (small(fresh) - net(fresh)).abs().max() < 2e-2 * net(fresh).std()
    assert plan_shrink(plain_network(), EXAMPLE, calibration=IMAGES).after.parameters == parameters(plain_network())


def test_the_fold_is_closer_to_the_model_than_without():
    net = plain_network()
    plan = plan_shrink(net, EXAMPLE, calibration=IMAGES, parameters=0.5)
    fresh = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(9))
    errors = [(plan.apply(fold=fold)(fresh) - net(fresh)).square().mean() for fold in (True, False)]
    assert errors[0] < 0.5 * errors[1]
    assert all(row.error_after is None for row in plan.layers)  # of the last apply, without a fold


def test_the_model_stays_as_it_was():
    net = plain_network().train()
    net[3].weight.requires_grad_(False)
    net(IMAGES).sum().backward()
    before, modes, gradient = state_of(net), [m.training for m in net.modules()], net[0].weight.grad.clone()
    random = torch.get_rng_state()
    plan_shrink(net, EXAMPLE, calibration=IMAGES, parameters=0.5).apply()
    assert torch.equal(torch.get_rng_state(), random)
    assert [m.training for m in net.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert torch.equal(net[0].weight.grad, gradient)
    assert not net[3].weight.requires_grad
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


class Counting(nn.Sequential):
    """Counts its calls in a buffer and keeps its last input."""

    def __init__(self) -> None:
        super().__init__(*plain_network())
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        self.last = x
        return super().forward(x)


def test_what_a_forward_pass_changes_is_changed_in_copies():
    net = Counting().eval()
    plan_shrink(net, EXAMPLE, calibration=IMAGES, parameters=0.5).apply()
    assert net.calls == 0
    assert not hasattr(net, "last")


class Drawing(nn.Sequential):
    """Draws in every forward pass, of every global generator, what it does not use."""

    def forward(self, x):
        random.random(), np.random.rand(), torch.rand(1)  # noqa: NPY002
        return super().forward(x)


def random_states() -> tuple:
    numpys = np.random.get_state()  # noqa: NPY002
    return torch.get_rng_state().tolist(), numpys[1].tolist(), numpys[2:], random.getstate()


def test_no_random_state_changes():
    batches = torch.utils.data.DataLoader(IMAGES, 16, shuffle=True)
    net = Drawing(*plain_network()).eval()
    before = random_states()
    plan_shrink(net, EXAMPLE, calibration=batches, parameters=0.5).apply()
    assert random_states() == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda net: net.__setitem__(3, nn.Conv2d(12, 20, 3)),
            r"3.weight was of shape \(16, 12, 3, 3\), .* is now of shape \(20, 12, 3, 3\), .*; plan",
        ),
        (lambda net: net.__setitem__(2, nn.Sigmoid()), "module 2 was a ReLU, and is now a Sigmoid"),
        (lambda net: net.append(nn.ReLU()), "was absent, and is now a ReLU"),
        (lambda net: net.half(), "0.weight was .* torch.float32, on cpu, and is now .* torch.float16"),
        (lambda net: net.to("meta"), "on cpu, and is now .* on meta"),
    ],
)
def test_a_model_that_has_changed_since_is_planned_again(change, words):
    net = plain_network()
    plan = plan_shrink(net, EXAMPLE, calibration=IMAGES, parameters=0.5)
    change(net)
    with pytest.raises(ValueError, match=words):
        plan.apply()


def test_what_can_not_be_carried_over_is_refused_before_the_fold(monkeypatch):
    net = plain_network()
    plan = plan_shrink(net, EXAMPLE, calibration=IMAGES, parameters=0.5)
    monkeypatch.setattr(type(plan), "_small", lambda *_: pytest.fail("folded"))
    before = state_of(net)
    other = torch.optim.Adam(plain_network().parameters())
    for refused, words in (
        ({"optimizer": other}, "optimizer must"),
        ({"ema": net}, "ema must hold weights of its own"),
    ):
        with pytest.raises(ValueError, match=words):
            plan.apply(**refused)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_applied_twice_it_is_the_same():
    plan = plan_shrink(plain_network(), EXAMPLE, calibration=IMAGES, macs=0.6)
    first, second = state_of(plan.apply()), state_of(plan.apply())
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_what_is_made_in_inference_mode_can_be_trained():
    net = plain_network()
    with torch.inference_mode():
        plan = plan_shrink(net, EXAMPLE, calibration=IMAGES, parameters=0.5)
        small = plan.apply()
    small(EXAMPLE).sum().backward()
    assert all(torch.equal(a, b) for a, b in zip(small.parameters(), plan.apply().parameters(), strict=True))


@pytest.mark.parametrize("choose", ["error", "psi", "l1"])
def test_without_calibration(choose):
    net = plain_network()
    plan = plan_shrink(net, EXAMPLE, parameters=0.5, choose=choose)
    assert parameters(plan.apply()) == plan.after.parameters <= 0.5 * parameters(net)
    assert parameters(plan.apply(fold=False)) == plan.after.parameters
    assert any("without calibration" in note for note in plan.notes)


def test_a_latency_is_met_by_what_is_measured(monkeypatch):
    from ckrm_kernels.shrinking import within_budget

    monkeypatch.setattr(
        within_budget, "latencies", lambda models, inputs: {name: parameters(each) for name, each in models.items()}
    )
    net = plain_network()
    plan = plan_shrink(net, EXAMPLE, calibration=IMAGES, latency=0.5)
    assert 0.45 * parameters(net) < plan.after.parameters <= 0.5 * parameters(net)


def test_widths_ignored_least_and_round():
    plan = plan_shrink(
        plain_network(), EXAMPLE, calibration=IMAGES, parameters=0.6, ignore=["0"], round_to=4, minimum={"6": 12}
    )
    rows = {row.name: row for row in plan.layers}
    assert rows["0"].reached == 12
    assert rows["0"].why == "ignored"
    assert all(row.reached % 4 == 0 for row in plan.layers if row.shrinks)
    assert rows["6"].reached >= 12


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"parameters": 0.5, "macs": 0.5}, "parameters and macs"),
        ({"parameters": 0.0}, r"parameters must be a share in \(0, 1\]"),
        ({"parameters": 1.5}, "parameters must be"),
        ({"macs": -3}, "macs must be"),
        ({"latency": 2.0}, "latency must be"),
        ({"tolerance": 1.0}, "tolerance must"),
        ({"parameters": 0.5, "choose": "psl"}, "choose must be one of error, psi"),
        ({"parameters": 0.5, "widths": "wide"}, "widths must be"),
        ({"parameters": 0.5, "round_to": 0}, "round_to"),
        ({"parameters": 0.5, "minimum": 0}, "minimum"),
        ({"parameters": 0.5, "threshold": 2.0}, "threshold"),
        ({"parameters": 0.5, "ignore": ["nowhere"]}, "nowhere"),
        ({"parameters": 0.5, "images": 1}, "images"),
        ({"parameters": 0.5, "seed": -1}, "seed"),
        ({"parameters": 1e-4}, "least that can be reached"),
        ({"parameters": 0.5, "calibration": torch.empty(0, 3, 8, 8)}, "calibration"),
        ({"parameters": 0.5, "calibration": IMAGES[:1]}, "calibration"),
        ({"parameters": 0.5, "calibration": IMAGES * math.nan}, "calibration"),
        ({"parameters": 0.5, "calibration": IMAGES[:, :1]}, "calibration"),
        ({"parameters": 0.5, "calibration": (IMAGES * 9).byte()}, "calibration"),
        ({"calibration": None}, "without calibration"),
    ],
)
def test_bad_arguments(options, words):
    net = plain_network()
    before = state_of(net)
    with pytest.raises((ValueError, TypeError), match=words):
        plan_shrink(net, EXAMPLE, **{"calibration": IMAGES, **options})
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@dataclass
class Batch:
    images: torch.Tensor


class OfBatches(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = plain_network()

    def forward(self, batch, *, scale):
        return {"logits": self.net(batch.images) * scale}


def test_inputs_in_a_dataclass_and_by_keyword():
    model = OfBatches().eval()
    calls = [((Batch(images),), {"scale": torch.ones(len(images), 1)}) for images in IMAGES.split(32)]
    example = (Batch(EXAMPLE),), {"scale": torch.ones(2, 1)}
    plan = plan_shrink(model, example, calibration=calls, parameters=0.6)
    args, kwargs = example
    assert plan.apply()(*args, **kwargs)["logits"].shape == (2, 5)
    assert plan.after.parameters <= 0.6 * parameters(model)


class Undecided(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, images):
        if self.conv(images).sum() > 0:
            return images
        return -images


def test_a_model_that_decides_by_its_data_is_refused_by_the_line(capsys):
    with pytest.raises(ValueError, match=r"can't be traced: .* \(test_plan.py, line \d+: `if self.conv\(images\)"):
        plan_shrink(Undecided(), EXAMPLE, parameters=0.5)
    assert "GraphModule" not in "".join(capsys.readouterr())


class OfTwo(nn.Sequential):
    """Takes batches of two alone."""

    def forward(self, x):
        return super().forward(x.view(2, 3, 8, 8))


class ReadTwice(nn.Module):
    """Filters that a small module reads, and a parameter that no module holds."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3), nn.Linear(12, 5)
        self.weight = nn.Parameter(torch.randn(8, 8, 3, 3))

    def forward(self, x):
        x = self.first(x).relu()
        x = torch.cat([nn.functional.conv2d(x, self.weight), self.second(x)], 1)
        return self.head(x.relu().mean((2, 3)))


def test_an_error_that_could_not_be_observed_is_not_taken_for_none():
    net = ReadTwice().eval()
    plan = plan_shrink(net, EXAMPLE, calibration=IMAGES, tolerance=0.9)
    first = plan.layers[0]
    assert (first.name, first.reached, first.why) == ("first", 8, "its reader weight could not be observed")
    assert not any("first: its reader" in note for note in plan.notes)
    plan = plan_shrink(net, EXAMPLE, calibration=IMAGES, parameters=0.2)
    assert plan.layers[0].reached < 8
    assert any(note.startswith("first: its reader weight could not be observed") for note in plan.notes)


def test_an_empty_batch_is_no_example():
    with pytest.raises(ValueError, match="example_inputs must be a batch of 2 or more, got an empty one"):
        plan_shrink(plain_network(), EXAMPLE[:0], parameters=0.5)


def test_inputs_that_the_model_does_not_run_on_are_named():
    with pytest.raises(
        ValueError, match=r"model must run on example_inputs, and fails on tensors of 2x4x8x8: .* channel"
    ):
        plan_shrink(plain_network(), torch.zeros(2, 4, 8, 8), parameters=0.5)
    net = OfTwo(*plain_network()).eval()
    with pytest.raises(ValueError, match=r"model must run on the calibration in batches of 32 inputs, .*RuntimeError"):
        plan_shrink(net, EXAMPLE, calibration=IMAGES, parameters=0.5)


def test_an_optimizer_goes_on_with_the_small_model():
    net = plain_network().train()
    optimizer = torch.optim.Adam(net.parameters())
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    ema = torch.optim.swa_utils.AveragedModel(net)
    net(IMAGES).square().mean().backward()
    optimizer.step()
    plan = plan_shrink(net, EXAMPLE, calibration=IMAGES, parameters=0.5)
    small = plan.apply(optimizer=optimizer, scheduler=scheduler, ema=ema)
    held = [each for group in optimizer.param_groups for each in group["params"]]
    assert all(a is b for a, b in zip(held, small.parameters(), strict=True))
    for each in small.parameters():
        assert optimizer.state[each]["exp_avg"].shape == each.shape
    small(IMAGES).square().mean().backward()
    optimizer.step()
    scheduler.step()
    ema.update_parameters(small)
    with pytest.raises(ValueError, match="optimizer"):
        plan.apply(optimizer=torch.optim.SGD(copy.deepcopy(net).parameters(), 0.1))
