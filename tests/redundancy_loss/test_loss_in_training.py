"""RedundancyLoss in trainings as people write them."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import safetensors.torch
import torch
from loss_networks import INPUT, SPATIAL, net
from torch import distributed
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from ckrm_kernels import RedundancyLoss

WAYS = {
    "whole": {"threshold": 0.3},
    "chance": {"threshold": "chance", "scale_free": True},
    "sampled": {"threshold": 0.3, "pairs_per_step": 9},
    "together": {"toward": "together", "example_inputs": torch.zeros(INPUT)},
}


def batch(size=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, *INPUT[1:], generator=generator), torch.arange(size) % 3


def gradients(model):
    return [each.grad for each in model.parameters() if each.grad is not None]


@pytest.fixture(params=WAYS)
def way(request):
    return WAYS[request.param]


def test_it_has_no_parameters_and_leaves_the_model_alone(way):
    model = net().train()
    kept = copy.deepcopy(model.state_dict())
    state = torch.random.get_rng_state()
    penalty = RedundancyLoss(model, **way)
    penalty().backward()
    assert not list(penalty.parameters())
    assert list(penalty.state_dict()) == ["_extra_state"]
    assert all(torch.equal(tensor, kept[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(state, torch.random.get_rng_state())
    assert model.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_without_gradients_it_is_the_same_number(way):
    model = net()
    first, second = RedundancyLoss(model, **way), RedundancyLoss(model, **way)
    value = first()
    for context in (torch.no_grad(), torch.inference_mode()):
        with context:
            assert copy.deepcopy(second)().item() == value.item()
    assert value.requires_grad


def test_under_autocast_it_is_computed_in_float32(way):
    model = net()
    first, second = RedundancyLoss(model, **way), RedundancyLoss(model, **way)
    with torch.autocast("cpu", torch.bfloat16):
        value = first()
    assert value.dtype == torch.float32
    assert value.item() == second().item()


def test_half_precision_weights(way):
    model = net().bfloat16()
    options = {**way, **({"example_inputs": torch.zeros(INPUT).bfloat16()} if "example_inputs" in way else {})}
    value = RedundancyLoss(model, **options)()
    value.backward()
    assert value.dtype == torch.float32
    assert model.inner.weight.grad.dtype == torch.bfloat16
    assert model.inner.weight.grad.abs().max() > 0


def test_gradients_accumulate_over_micro_batches():
    model = net().double().eval()
    penalty = RedundancyLoss(model, 0.3)
    images, labels = batch()
    (functional.cross_entropy(model(images.double()), labels) + penalty()).backward()
    at_once = [each.clone() for each in gradients(model)]
    model.zero_grad()
    for part in (slice(0, 2), slice(2, 4)):
        loss = functional.cross_entropy(model(images[part].double()), labels[part])
        ((loss + penalty()) / 2).backward()
    for found, expected in zip(gradients(model), at_once, strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("where", ["model", "penalty"])
def test_with_checkpoints(where):
    model = net().eval()
    penalty = RedundancyLoss(model, 0.3)
    images, labels = batch()
    (functional.cross_entropy(model(images), labels) + penalty()).backward()
    expected = [each.clone() for each in gradients(model)]
    model.zero_grad()
    outputs = checkpoint(model, images, use_reentrant=False) if where == "model" else model(images)
    value = checkpoint(penalty, use_reentrant=False) if where == "penalty" else penalty()
    (functional.cross_entropy(outputs, labels) + value).backward()
    for found, exact in zip(gradients(model), expected, strict=True):
        torch.testing.assert_close(found, exact)


def test_a_scaled_loss():
    model = net()
    penalty = RedundancyLoss(model, 0.3)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**14)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    penalty().backward()
    expected = [each.clone() for each in gradients(model)]
    optimizer.zero_grad()
    scaler.scale(penalty()).backward()
    scaler.unscale_(optimizer)
    for found, exact in zip(gradients(model), expected, strict=True):
        torch.testing.assert_close(found, exact)
    before = model.inner.weight.detach().clone()
    scaler.step(optimizer)
    assert not torch.equal(before, model.inner.weight)


@pytest.mark.parametrize("options", [{}, pytest.param({"scale_free": True}, marks=pytest.mark.exhaustive)], ids=str)
def test_compiled_whole(options):
    model = net()
    penalty = RedundancyLoss(model, 0.3, **options)
    compiled = torch.compile(lambda: penalty() * 2, fullgraph=True, backend="aot_eager")
    parameters = [getattr(model, name).weight for name in SPATIAL]
    for _ in range(2):
        found = torch.autograd.grad(compiled(), parameters)
        for of_compiled, exact in zip(found, torch.autograd.grad(penalty() * 2, parameters), strict=True):
            torch.testing.assert_close(of_compiled, exact)
        with torch.no_grad():
            model.inner.weight.mul_(0.5)  # the live weights


@pytest.mark.exhaustive
def test_compiled_with_breaks(way):
    model = net()
    first, second = RedundancyLoss(model, refresh=2, **way), RedundancyLoss(model, refresh=2, **way)
    compiled = torch.compile(lambda: first() * 2, backend="aot_eager")
    for _ in range(4):
        assert compiled().item() == pytest.approx(second().item() * 2)
        with torch.no_grad():
            model.inner.weight.mul_(0.9)


def test_a_copy_and_a_file_go_on_alike(way):
    model = net()
    penalty = RedundancyLoss(model, **way)
    penalty()
    copied, pickled = copy.deepcopy(penalty), pickle.loads(pickle.dumps(penalty))
    file = io.BytesIO()
    torch.save(penalty.state_dict(), file)
    file.seek(0)
    loaded = RedundancyLoss(model, **way)
    loaded.load_state_dict(torch.load(file, weights_only=True))
    stored = RedundancyLoss(model, **way)
    stored.load_state_dict(safetensors.torch.load(safetensors.torch.save(penalty.state_dict())))
    expected = [penalty().item() for _ in range(3)]
    for again in (copied, pickled, loaded, stored):
        assert [again().item() for _ in range(3)] == expected


def test_as_a_part_of_the_model_that_it_penalises():
    """As a LightningModule holds it: nothing is registered twice, and a copy reads the copy's weights."""
    model = net()
    names = list(model.state_dict())
    model.penalty = RedundancyLoss(model, 0.3)
    assert list(model.state_dict()) == [*names, "penalty._extra_state"]
    copied = copy.deepcopy(model)
    with torch.no_grad():
        copied.inner.weight.zero_()
    assert copied.penalty().item() != model.penalty().item()


def test_compiled_with_sharded_weights():
    from torch.distributed.fsdp import fully_shard

    expected = RedundancyLoss(net(), 0.3)().item()
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        model = fully_shard(net(), mesh=distributed.init_device_mesh("cpu", (1,)))
        compiled = torch.compile(RedundancyLoss(model, 0.3), backend="aot_eager")
        value = compiled()
        assert value.item() == expected
        value.backward()
        assert model.inner.weight.grad.full_tensor().any()
    finally:
        distributed.destroy_process_group()


TWO_PROCESSES = """
    import sys
    import torch
    from torch import distributed
    from torch.nn.parallel import DistributedDataParallel
    from torch.nn import functional
    sys.path[:0] = ["tests", "tests/redundancy_loss"]
    from loss_networks import net
    from test_loss_in_training import batch
    from ckrm_kernels import RedundancyLoss

    from torch.distributed.fsdp import fully_shard

    rank, folder, sharded = int(sys.argv[1]), sys.argv[2], sys.argv[3] == "sharded"
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    model = net(seed=0 if sharded else rank).double().eval()  # rank 0's weights are broadcast to a replica
    if sharded:
        fully_shard(model.inner)
        wrapped = fully_shard(model)
    else:
        wrapped = DistributedDataParallel(model)
    penalty = RedundancyLoss(wrapped, 0.3, pairs_per_step=9)
    images, labels = batch()
    own = slice(2 * rank, 2 * rank + 2)
    value = penalty()
    (functional.cross_entropy(wrapped(images[own].double()), labels[own]) + value).backward()
    gradients = [each.grad.full_tensor() if sharded else each.grad for each in model.parameters()]
    torch.save([value.item(), *gradients], f"{folder}/{rank}.pt")
    distributed.destroy_process_group()
"""


@pytest.mark.exhaustive
@pytest.mark.parametrize("how", ["replicated", "sharded"])
def test_two_processes_have_the_gradients_of_one(how, tmp_path):
    command = [sys.executable, "-c", textwrap.dedent(TWO_PROCESSES)]
    root = Path(__file__).parents[2]
    both = [subprocess.Popen([*command, str(rank), str(tmp_path), how], cwd=root) for rank in range(2)]
    assert [each.wait(60) for each in both] == [0, 0]
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    model = net(seed=0).double().eval()
    images, labels = batch()
    value = RedundancyLoss(model, 0.3, pairs_per_step=9)()
    (functional.cross_entropy(model(images.double()), labels) + value).backward()
    for found in ranks:
        assert found[0] == value.item()  # the same pairs are drawn
        for of_two, of_one in zip(found[1:], model.parameters(), strict=True):
            torch.testing.assert_close(of_two, of_one.grad)
