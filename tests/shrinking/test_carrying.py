"""An optimizer that goes on with the small model takes the steps that it would have taken in the whole one."""

from __future__ import annotations

import copy

import pytest
import torch
from hand_graphs import residual
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ckrm_kernels.shrinking.carrying import carry_over
from ckrm_kernels.shrinking.surgery import kept_indices, silenced, without

IMAGES = torch.randn(4, 2, 6, 6, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
OPTIMIZERS = {
    "SGD": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.01),
    "AdamW": lambda p: torch.optim.AdamW(p, 0.01, amsgrad=True),
    "RMSprop": lambda p: torch.optim.RMSprop(p, 0.01, momentum=0.5, centered=True),
    "Adam of one kernel": lambda p: torch.optim.Adam(p, 0.01, foreach=False, capturable=False),
    "Adadelta": lambda p: torch.optim.Adadelta(p),
}


def step(model, optimizer):
    optimizer.zero_grad()
    model(IMAGES).square().mean().backward()
    optimizer.step()


def trained(make, removed, steps=3):
    """A network after some steps, whose filters that leave are read by nothing from now on."""
    model, graph = residual(width=5, inner=4)
    model.train()
    optimizer = make(model.parameters())
    for _ in range(steps):
        step(model, optimizer)
    unread = silenced(model, graph, removed).state_dict()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            tensor.copy_(unread[name])
    return model, graph, optimizer


def restricted(model, graph, removed):
    """The tensors that the small model should have, by indexing one dimension after another."""
    found = dict(model.state_dict())
    for name, dims in kept_indices(graph, removed, model).items():
        for dim, kept in dims.items():
            found[name] = found[name].transpose(0, dim)[kept].transpose(0, dim)
    return found


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_the_next_steps_are_those_of_the_whole_network(make):
    removed = {"stem": [1, 3], "narrow": [0]}
    model, graph, optimizer = trained(make, removed)
    small = without(model, graph, removed)
    own = copy.deepcopy(optimizer.state_dict())
    whole = make(model.parameters())
    whole.load_state_dict(own)
    assert carry_over(model, small, graph, removed, optimizer=optimizer) is None
    assert {id(p) for group in optimizer.param_groups for p in group["params"]} == {id(p) for p in small.parameters()}
    step(model, whole)
    step(small, optimizer)
    for name, expected in restricted(model, graph, removed).items():
        torch.testing.assert_close(small.state_dict()[name], expected, rtol=1e-9, atol=1e-11, msg=name)
    optimizer.load_state_dict(optimizer.state_dict())
    step(small, optimizer)


@settings(max_examples=10)
@given(stream=st.sets(st.integers(0, 4), max_size=4), inner=st.sets(st.integers(0, 3), max_size=3))
def test_any_filters_may_leave(stream, inner):
    removed = {"stem": stream, "narrow": inner}
    model, graph, optimizer = trained(OPTIMIZERS["AdamW"], removed, steps=1)
    before = {name: dict(optimizer.state[p]) for name, p in model.named_parameters()}
    small = without(model, graph, removed)
    carry_over(model, small, graph, removed, optimizer=optimizer)
    kept = kept_indices(graph, removed, model)
    for name, parameter in small.named_parameters():
        for entry, value in optimizer.state[parameter].items():
            expected = before[name][entry]
            if expected.dim():
                for dim, indices in kept.get(name, {}).items():
                    expected = expected.movedim(dim, 0)[indices].movedim(0, dim)
            assert torch.equal(value, expected), (name, entry)
    assert len(optimizer.state) == len(before)


def test_groups_options_and_the_scheduler_go_on():
    model, graph = residual()
    model.stem.weight.requires_grad_(False)
    named = [("stem.weight", model.stem.weight), ("head.weight", model.head.weight)]
    groups = [{"params": named, "lr": 0.5, "weight_decay": 0.1}, {"params": [("norm.bias", model.norm.bias)]}]
    optimizer = torch.optim.SGD(groups, lr=0.2, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    step(model, optimizer)
    small = without(model, graph, {"stem": [0]})
    carry_over(model, small, graph, {"stem": [0]}, optimizer=optimizer, scheduler=scheduler)
    assert [p.shape for p in optimizer.param_groups[0]["params"]] == [small.stem.weight.shape, small.head.weight.shape]
    assert optimizer.param_groups[0]["param_names"] == ["stem.weight", "head.weight"]
    assert not small.stem.weight.requires_grad
    assert small.stem.weight not in optimizer.state
    step(small, optimizer)
    scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.05, 0.02])


def snapshot(*things):
    return [copy.deepcopy(thing.state_dict()) for thing in things]


def same(before, after):
    return str(before) == str(after)


def refused(error, message, removed=None, **given):
    """The call raises and changes nothing."""
    removed = {"stem": [0]} if removed is None else removed
    model, graph, optimizer = trained(given.pop("make", OPTIMIZERS["AdamW"]), removed)
    small = given.pop("small", None) or without(model, graph, removed)
    given = {name: make(model, optimizer) for name, make in given.items()}
    holders = [thing for thing in (optimizer, *given.values()) if hasattr(thing, "state_dict")]
    before = snapshot(model, *holders)
    with pytest.raises(error, match=message):
        carry_over(model, small, graph, removed, **({"optimizer": optimizer} | given))
    assert same(before, snapshot(model, *holders))


class Adafactor(torch.optim.Adafactor):
    """Keeps a row and a column for each matrix."""


@pytest.mark.parametrize(
    ("error", "message", "given"),
    [
        (
            ValueError,
            r"optimizer must train parameters of the model alone, got 8 of 8 that are none of it, of shape \(2, 3\)",
            {"optimizer": lambda m, o: torch.optim.SGD([nn.Parameter(torch.zeros(2, 3)) for _ in range(8)])},
        ),
        (
            ValueError,
            r"got 1 of 10 that are none of it, of shape \(7,\)",
            {"optimizer": lambda m, o: torch.optim.SGD([*m.parameters(), nn.Parameter(torch.zeros(7))])},
        ),
        (TypeError, "optimizer must be a torch.optim.Optimizer, got dict", {"optimizer": lambda m, o: {}}),
        (
            ValueError,
            "scheduler must be one of the optimizer that is given",
            {"scheduler": lambda m, o: torch.optim.lr_scheduler.StepLR(torch.optim.SGD(m.parameters()), 1)},
        ),
        (
            ValueError,
            "scheduler must be one of the optimizer that is given",
            {"optimizer": lambda m, o: None, "scheduler": lambda m, o: torch.optim.lr_scheduler.StepLR(o, 1)},
        ),
        (TypeError, "ema must be a module, .* got dict", {"ema": lambda m, o: {}}),
        (
            ValueError,
            r"ema must average the model's weights: stem.weight must have the shape \(5, 2, 3, 3\), got \(6, 2, 3, 3\)",
            {"ema": lambda m, o: AveragedModel(residual(width=6)[0])},
        ),
        (
            ValueError,
            "ema must hold weights of its own, and its stem.weight is the model's own",
            {"ema": lambda m, o: m},
        ),
        (ValueError, "its stem.weight is the model's own tensor", {"ema": lambda m, o: nn.ModuleDict({"module": m})}),
        (ValueError, "must have the shape .*, got None", {"ema": lambda m, o: nn.Linear(2, 2)}),
        (ValueError, "'row_var' of .* must have its shape .* make a new optimizer", {"make": Adafactor}),
    ],
)
def test_what_can_not_be_carried_over_is_refused_before_anything_changes(error, message, given):
    refused(error, message, **given)


def test_lbfgs_is_refused_even_before_its_first_step():
    model, graph = residual()
    optimizer = torch.optim.LBFGS(model.parameters())
    with pytest.raises(ValueError, match="optimizer must keep a state for each parameter, got LBFGS: make a new one"):
        carry_over(model, without(model, graph, {"stem": [0]}), graph, {"stem": [0]}, optimizer=optimizer)


def test_wrapped_models_are_refused():
    model, graph = residual()
    small = without(model, graph, {"stem": [0]})
    with pytest.raises(TypeError, match=r"original must not be wrapped .* got DataParallel: shrink its .module"):
        carry_over(nn.DataParallel(model), small, graph, {"stem": [0]})


def of_buffers_too(model):
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)


@pytest.mark.parametrize("wrap", [AveragedModel, of_buffers_too, copy.deepcopy])
def test_averaged_weights_go_on_with_the_small_model(wrap):
    model, graph = residual()
    ema = wrap(model)
    inner = ema.module if isinstance(ema, AveragedModel) else ema
    with torch.no_grad():
        for parameter in inner.parameters():
            parameter.add_(1)
    expected = restricted(inner, graph, {"stem": [2], "narrow": [1]})
    small = without(model, graph, {"stem": [2], "narrow": [1]})
    assert carry_over(model, small, graph, {"stem": [2], "narrow": [1]}, ema=ema) is ema
    assert all(torch.equal(inner.state_dict()[name], tensor) for name, tensor in expected.items())
    assert repr(inner) == repr(small)
    assert ema(IMAGES).shape == (4, 2, 2, 2)
    if isinstance(ema, AveragedModel):
        ema.update_parameters(small)
        assert int(ema.n_averaged) == 1
