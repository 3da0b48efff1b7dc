"""Batch norm statistics estimated anew."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from ckrm_kernels.shrinking.batch_norm import reestimate


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3, momentum=0.3), nn.ReLU(), nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2)]
    return nn.Sequential(*layers, nn.Dropout(0.5)).double()


def batches(count: int) -> list[tuple[tuple[Tensor, ...], dict[str, Tensor]]]:
    generator = torch.Generator().manual_seed(1)
    return [((torch.randn(6, 2, 5, 5, generator=generator, dtype=torch.float64),), {}) for _ in range(count)]


def test_statistics_are_the_mean_over_batches() -> None:
    model, calibration = network(), batches(3)
    model[1].running_mean.fill_(9.0)
    seen = [model[0](args[0]).transpose(0, 1).flatten(1).detach() for args, _ in calibration]
    reestimate(model, calibration, ["1"])
    torch.testing.assert_close(model[1].running_mean, torch.stack([each.mean(1) for each in seen]).mean(0))
    torch.testing.assert_close(model[1].running_var, torch.stack([each.var(1) for each in seen]).mean(0))


def test_a_norm_behind_another_sees_it_normalise_by_the_batch() -> None:
    model, calibration = network(), batches(1)
    reestimate(model, calibration, ["1", "4"])
    model.eval()
    first = copy.deepcopy(model[1]).train()
    seen = model[3](model[2](first(model[0](calibration[0][0][0])))).transpose(0, 1).flatten(1)
    torch.testing.assert_close(model[4].running_mean, seen.mean(1).detach())


def test_all_else_is_as_it_was() -> None:
    model = network().train()
    model[4].eval()
    model[1].num_batches_tracked.fill_(7)
    before = copy.deepcopy(model.state_dict())
    state = torch.get_rng_state()
    reestimate(model, batches(2), ["1"])
    assert [module.training for module in model] == [True, True, True, True, False, True]
    assert model[1].momentum == 0.3
    assert torch.equal(torch.get_rng_state(), state)
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {"1.running_mean", "1.running_var"}
    assert not any(parameter.grad_fn for parameter in model.parameters())


def test_a_batch_of_one_input_and_a_norm_without_statistics_are_passed_over() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.BatchNorm1d(2, track_running_stats=False)).double()
    full = torch.randn(5, 3, dtype=torch.float64)
    reestimate(model, [((full,), {}), ((full[:1],), {})], ["1", "2"])
    torch.testing.assert_close(model[1].running_mean, model[0](full).mean(0).detach())
