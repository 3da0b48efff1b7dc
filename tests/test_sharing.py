"""Work shared out among processes gives the bits of one; a process that fails ends them all."""

import copy
import dataclasses
import os
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, distributed, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from ckrm_kernels import (
    RedundancyLoss,
    chance_redundancy,
    cross_psi,
    estimate_redundancy,
    layer_plans,
    match_patterns,
    measure,
    psi_histogram,
    redundancy,
    redundant_groups,
)
from ckrm_kernels.distributed import ALONE, PeerError, Team
from ckrm_kernels.functional import counts_of_banks
from ckrm_kernels.layer_plans import plans_of
from ckrm_kernels.layers import model_layers
from ckrm_kernels.ops import counts_of_psi
from ckrm_kernels.sharing import blocks_of, dealt_out, shared_counts
from ckrm_kernels.similarity import Similarity

EDGES = torch.linspace(0, 1, 21, dtype=torch.float64)[1:-1]


@dataclasses.dataclass(frozen=True)
class OneOf(Team):
    """A process that need not wait for the others: sums are its own part."""

    def check(self, error: Exception | None = None) -> None:
        pass

    def sum(self, value: Tensor) -> Tensor:
        return value


def filters(count: int, slices: int = 3, seed: int = 0) -> Tensor:
    """With repeats among them."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(count, slices, 3, 3, generator=generator) / 10
    weight[count // 2 :: 3] = weight[: len(weight[count // 2 :: 3])].clone()
    return weight


# ---- without processes -----------------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(sizes=st.lists(st.integers(0, 200), min_size=1, max_size=3), processes=st.integers(1, 5))
def test_each_pair_is_in_one_block(sizes, processes):
    banks = [torch.empty(size, 1, 1, device="meta") for size in sizes]
    seen = [torch.zeros(size, size, dtype=torch.int64) for size in sizes]
    for bank, rows, columns in blocks_of(banks, processes):
        seen[bank][rows, columns] += 1
    for each in seen:
        assert (each.triu(1) == torch.ones_like(each).triu(1)).all()


@given(costs=st.lists(st.floats(0, 100), max_size=40), processes=st.integers(1, 8))
def test_work_is_dealt_out_once_and_evenly(costs, processes):
    shares = dealt_out(costs, processes)
    assert sorted(piece for share in shares for piece in share) == list(range(len(costs)))
    loads = [sum(costs[piece] for piece in share) for share in shares]
    assert max(loads) - min(loads) <= max(costs, default=0) + 1e-9


@pytest.mark.parametrize("edges", [EDGES, EDGES[:2], EDGES[:0]])
def test_counts_of_psi_are_those_of_its_definition(edges):
    psi = torch.rand(7, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    psi[0, :2], psi[1, 0] = EDGES[:2], torch.nan  # on an edge is below it
    limits = [-torch.inf, *edges.tolist(), torch.inf]
    expected = [sum(low < value <= high for value in psi.flatten().tolist()) for low, high in pairwise(limits)]
    assert counts_of_psi(psi, edges).tolist() == [*expected, 1]


def test_a_layer_costs_what_is_asked_of_it():
    layers = [(layer,) for layer in model_layers(nn.Sequential(nn.Conv2d(3, 64, 7), nn.Conv2d(64, 32, 1)))]
    spatial, skipped = plans_of(layers, "skip", False, ALONE)
    assert skipped.cost(True, True) == skipped.numbers == 0
    assert 0 < spatial.cost_of_pairs < spatial.cost(False, False) < spatial.cost(True, False) < spatial.cost(True, True)
    (as_slices, as_vectors) = (plans_of(layers, kind, False, ALONE)[1] for kind in ("slices", "vector"))
    assert as_slices.cost(True, True) == as_slices.cost(True, False)  # kernels of one number have no pattern
    assert as_vectors.cost_of_pairs < as_slices.cost_of_pairs
    twice = plans_of([each * 2 for each in layers], "skip", False, ALONE)[0]
    assert twice.cost(True, True) == 2 * spatial.cost(True, True)


@pytest.mark.parametrize("processes", [2, 3, 5])
@pytest.mark.parametrize("scale", [0.1, 1e12])  # float32 does not hold the squares of the latter
def test_the_parts_of_any_number_of_processes_sum_to_the_whole(processes, scale):
    banks = [filters(150) * scale, filters(70, 5) * scale, filters(1), filters(0)]
    banks[1][3, 0, 0, 0] = torch.nan
    parts = [shared_counts(banks, EDGES, Similarity(), None, OneOf(r, processes)) for r in range(processes)]
    assert torch.equal(sum(parts), counts_of_banks(banks, EDGES, Similarity(), None))


@pytest.mark.parametrize(
    ("group", "error", "message"),
    [
        (7, RuntimeError, "group: torch.distributed is not initialised; call init_process_group first"),
        (distributed.GroupMember.NON_GROUP_MEMBER, RuntimeError, "not initialised"),
    ],
)
def test_groups_that_can_not_be_had(group, error, message):
    with pytest.raises(error, match=message):
        measure(nn.Conv2d(3, 4, 3), group=group)


# ---- with processes --------------------------------------------------------------------------------------------------


def network() -> nn.Module:
    """With layers of all the ways to compare, a shared weight and one without filters."""
    torch.manual_seed(0)
    convolutions = [
        nn.Conv2d(3, 100, 3),
        nn.BatchNorm2d(100),
        nn.Conv2d(100, 12, 3, groups=4),
        nn.ConvTranspose2d(12, 8, 3),
        nn.Conv2d(8, 8, 3, groups=8),
        nn.Linear(8, 6),
        nn.Conv2d(8, 8, 3),
    ]
    model = nn.Sequential(*convolutions, nn.Conv2d(8, 8, 3))
    model[0].weight.data = filters(100)
    model[7].weight = model[6].weight
    return model


def functions(weight: Tensor, group: distributed.ProcessGroup | None) -> list[list]:
    """What every function on a weight gives."""
    thresholds = torch.tensor([0.9, 0.2, 0.6])
    groups = redundant_groups(weight, 0.7, group=group)
    torch.manual_seed(1)
    estimates = [estimate_redundancy(weight, 0.3, num_pairs=pairs, group=group) for pairs in (1, 1000, 10**6)]
    generator = torch.Generator().manual_seed(2)
    return [
        redundancy(weight, thresholds, group=group).tolist(),
        redundancy(weight, eps=0.0, group=group).tolist(),
        psi_histogram(weight, 30, signed=True, scale_free=True, group=group).tolist(),
        groups.representative.tolist(),
        estimates,
        chance_redundancy(weight, thresholds, rounds=3, group=group).tolist(),
        chance_redundancy(weight, generator=generator, group=group).tolist(),
        torch.rand(1).item(),  # the generators have drawn as much
        torch.rand(1, generator=generator).item(),
    ]


def same_bits(rank: int, world: distributed.ProcessGroup) -> None:
    for weight in (filters(200), filters(90, 40).double(), filters(130)[:, :, 0].bfloat16(), filters(2), filters(0)):
        assert functions(weight, world) == functions(weight, None)
    model = network()
    for options in ({}, {"details": False}, {"patterns": True, "pointwise": "vector", "scale_free": True}):
        assert measure(model, group=world, **options).layers == measure(model, **options).layers
    several = [network(), network()]
    several[1][0].weight.data.neg_().mul_(0.3)
    assert measure(several, group=world).layers == measure(several).layers


def patterns_of(weight_or_model: Tensor | nn.Module, group: distributed.ProcessGroup | None, **options) -> list[list]:
    """The rows of `match_patterns`, each field as what can be compared."""
    rows = match_patterns(weight_or_model, **options, group=group).layers
    fields = [[getattr(row, each.name) for each in dataclasses.fields(row)] for row in rows]
    return [repr([each.tolist() if isinstance(each, Tensor) else each for each in of_row]) for of_row in fields]


def same_patterns(rank: int, world: distributed.ProcessGroup) -> None:
    model, mesh = network(), distributed.init_device_mesh("cpu", (world.size(),))
    expected = patterns_of(model, None)
    assert sum("'measured'" in row for row in expected) == 5
    assert patterns_of(model, world) == expected
    assert patterns_of(model[0].weight, world, signed=False) == patterns_of(model[0].weight, None, signed=False)
    own = {"mine": filters(1)[0, 0]}
    assert patterns_of(model, world, bank=own) == patterns_of(model, None, bank=own)
    fully_sharded = copy.deepcopy(model)
    fully_shard(fully_sharded)
    assert patterns_of(fully_sharded, None) == expected
    sharded = distribute_tensor(filters(20), mesh, [Shard(1)])
    assert patterns_of(sharded, world) == patterns_of(filters(20), None)
    refused(
        ValueError,
        "kernels .*3, 3.*, checksum .* where rank 1 has",
        lambda: match_patterns(model, {"mine": filters(1, seed=rank)[0, 0]}, group=world),
    )
    not_finite = nn.Conv2d(3, 8, 3)
    not_finite.weight.data[5] = torch.nan
    fully_shard(not_finite)
    refused(ValueError, "layer '' has NaN or Inf in filters 5", lambda: match_patterns(not_finite))


def same_bits_where_all_share_a_layer(rank: int, world: distributed.ProcessGroup) -> None:
    model = network()
    expected = measure(model).layers
    large = copy.deepcopy(model)
    large[0].weight.data.mul_(1e4)  # of which a block is not computed in the arithmetic of the whole
    of_large = measure(large).layers
    layer_plans.SHARED_COST = 1
    assert measure(model, group=world).layers == expected
    assert measure(large, group=world).layers == of_large


def sharded_weights(rank: int, world: distributed.ProcessGroup) -> None:
    model, size = network(), world.size()
    expected = measure(model).layers
    fully_sharded = copy.deepcopy(model)
    for layer in fully_sharded[:3]:
        fully_shard(layer)
    fully_shard(fully_sharded)
    for group in (None, world):
        assert measure(fully_sharded, group=group).layers == expected
    local = fully_sharded[0].weight.to_local().clone()
    assert torch.equal(local, fully_sharded[0].weight.to_local())
    weight, mesh = filters(101, 4), distributed.init_device_mesh("cpu", (size,))
    of_whole = functions(weight, None)
    for placement in (Shard(0), Shard(1), Shard(3), Replicate()):
        sharded = distribute_tensor(weight, mesh, [placement])
        assert functions(sharded, world) == of_whole
        assert torch.equal(cross_psi(sharded, sharded[:9]), cross_psi(weight, weight[:9]))
    partial = DTensor.from_local(weight if rank == 0 else torch.zeros_like(weight), mesh, [Partial()])
    conv = nn.Conv2d(4, 101, 3)
    conv.weight = nn.Parameter(partial)
    assert measure(conv).layers[0].redundancy == redundancy(weight).item()


def meshes_of_two_dimensions(rank: int, world: distributed.ProcessGroup) -> None:
    """fully_shard over copies, tensor parallelism, and both at once."""
    mesh = distributed.init_device_mesh("cpu", (2, 2), mesh_dim_names=("outer", "inner"))

    def plain() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(9, 12), nn.ReLU(), nn.Linear(12, 10))

    expected = measure(plain(), pointwise="vector").layers
    hybrid, parallel, both = plain(), plain(), plain()
    fully_shard(hybrid, mesh=mesh)
    plan = {"0": ColwiseParallel(), "2": RowwiseParallel()}
    parallelize_module(parallel, mesh["inner"], plan)
    fully_shard(parallelize_module(both, mesh["inner"], plan), mesh=mesh["outer"])
    assert {type(each).__name__ for each in both[0].weight.placements} == {"_StridedShard", "Shard"}
    for model in (hybrid, parallel, both):
        assert measure(model, pointwise="vector", group=world).layers == expected
    assert measure(parallel, pointwise="vector").layers == expected  # the group of its mesh
    alone = plain()
    RedundancyLoss(alone, 0.3, pointwise="vector")().backward()
    for model in (hybrid, parallel, both):
        RedundancyLoss(model, 0.3, pointwise="vector", group=world)().backward()
        for index in (0, 2):
            torch.testing.assert_close(model[index].weight.grad.full_tensor(), alone[index].weight.grad)
    for index in (0, 2):
        assert redundancy(both[index].weight, 0.2) == redundancy(plain()[index].weight, 0.2)


def filters_that_go_round(rank: int, world: distributed.ProcessGroup) -> None:
    layer_plans._MOST_GATHERED = 10_000  # of the first layer's 10,800 bytes
    mesh = distributed.init_device_mesh("cpu", (world.size(),))
    for placement in (Shard(0), Shard(1)):
        model = network()
        expected = measure(model, details=False).layers
        model[0].weight = nn.Parameter(distribute_tensor(model[0].weight.detach(), mesh, [placement]))
        first, *others = measure(model, details=False).layers
        assert others == list(expected[1:])
        assert first.reason == "too large to be gathered, its pairs are counted without details"
        assert dataclasses.replace(first, reason="") == expected[0]
    layer_plans._MOST_GATHERED = 1 << 32


def penalties(rank: int, world: distributed.ProcessGroup) -> None:
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        for options in (
            {"threshold": 0.3},
            {"threshold": "chance", "scale_free": True, "pointwise": "vector", "temperature": 0.02},
            {"threshold": 0.3, "pairs_per_step": 500},
        ):
            models = [network().to(dtype).requires_grad_() for _ in range(2)]
            losses = [RedundancyLoss(models[0], **options), RedundancyLoss(models[1], **options, group=world)]
            for _ in range(2):
                values = [loss() for loss in losses]
                assert torch.equal(*values)
                for value in values:
                    (value * 0.3).backward()
                for alone, shared in zip(*(model.parameters() for model in models), strict=True):
                    assert (alone.grad is None) == (shared.grad is None)
                    assert alone.grad is None or torch.equal(alone.grad, shared.grad)
                    with torch.no_grad():  # the next step is of other weights
                        alone.mul_(0.9), shared.mul_(0.9)
    if rank == 0:
        with torch.no_grad():
            assert torch.equal(losses[0](), losses[1]())  # without the others
    models = [network().requires_grad_() for _ in range(2)]
    for model, group in zip(models, (None, world), strict=True):
        RedundancyLoss(model, 0.3, layers="0", backend="reference", group=group)().backward()
    torch.testing.assert_close(*(model[0].weight.grad for model in models))
    weight = models[1][0].weight
    penalty = RedundancyLoss(models[1], 0.3, layers="0", group=world)()
    (gradient,) = torch.autograd.grad(penalty, weight, create_graph=True)
    with pytest.raises(NotImplementedError, match="with a group has no double backward"):
        (weight.square().sum() + gradient.square().sum()).backward()


def penalties_of_wrapped_models(rank: int, world: distributed.ProcessGroup) -> None:
    alone, in_copies, sharded = (network()[:3] for _ in range(3))
    RedundancyLoss(alone, 0.3)().backward()
    for layer in sharded:
        fully_shard(layer)
    fully_shard(sharded)
    for model, wrapped in ((in_copies, nn.parallel.DistributedDataParallel(in_copies)), (sharded, sharded)):
        loss = wrapped(torch.ones(1, 3, 5, 5)).sum() * 0 + RedundancyLoss(model, 0.3, group=world)()
        loss.backward()
        for index in (0, 2):
            found = model[index].weight.grad
            whole = found.full_tensor() if isinstance(found, DTensor) else found
            torch.testing.assert_close(whole, alone[index].weight.grad)


def refused_penalties(rank: int, world: distributed.ProcessGroup) -> None:
    wider = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8 + rank, 3))
    message = r"rank 0 has a weight torch.float32 \(8, 8, 3, 3\), .* rank 1 has a weight torch.float32 \(9, 8, 3, 3\)"
    torch.manual_seed(0)
    refused(ValueError, message, RedundancyLoss(wider, group=world))
    refused(
        ValueError,
        "rank 0 has temperature 0.1 where rank 1 has temperature 0.2",
        RedundancyLoss(network(), temperature=0.1 * (1 + rank), group=world),
    )
    refused(
        ValueError,
        "rank 0 has a layer '0' where rank 1 has a layer '0' that is frozen",
        RedundancyLoss(frozen_at(network(), 0 if rank == 1 else 6), group=world),
    )
    refused(
        ValueError,
        "rank 0 has a layer '0' where rank 1 has a layer '0' that is frozen",
        RedundancyLoss(network().requires_grad_(rank == 0), group=world),
    )


def frozen_at(model: nn.Sequential, index: int) -> nn.Sequential:
    model[index].requires_grad_(False)
    return model


def refusals(rank: int, world: distributed.ProcessGroup) -> None:
    narrow = nn.Conv2d(3, 8 + rank, 3)
    message = r"the processes must be given the same: rank 0 has layer '' \(Conv2d, \(8, 3, 3, 3\)\)"
    refused(ValueError, message + r".* where rank 1 has layer '' \(Conv2d, \(9, ", lambda: measure(narrow, group=world))
    refused(ValueError, "checksum .* where rank 1 has", lambda: redundancy(filters(8, seed=rank), group=world))
    refused(
        ValueError,
        "rank 0 has threshold 0.5 where rank 1 has threshold 0.6",
        lambda: measure(network(), 0.5 + rank / 10, group=world),
    )
    wrong = filters(8)
    if rank == 1:
        wrong[3, 1] = torch.nan
    model = nn.Conv2d(3, 8, 3)
    model.weight.data = wrong
    refused(ValueError, "checksum", lambda: measure(model, group=world))
    torch.manual_seed(rank)
    drawn = "rank 0 has torch's default generator in state .* seeded alike on each.* where rank 1 has torch's default"
    refused(ValueError, drawn, lambda: chance_redundancy(filters(8), group=world))
    seeded = torch.Generator().manual_seed(rank)
    drawn = "has a generator in state .* where rank 1 has a generator in state"
    refused(ValueError, drawn, lambda: estimate_redundancy(filters(8), num_pairs=5, generator=seeded, group=world))
    refused(*failure_of(rank, "threshold must lie in"), lambda: redundancy(filters(8), 0.5 + (rank == 1), group=world))
    refused(TypeError, "group must be a process group of torch.distributed, got int", lambda: measure(model, group=7))
    mesh = distributed.init_device_mesh("cpu", (world.size(),))
    refused(TypeError, r"got DeviceMesh: pass its get_group\(\)", lambda: measure(model, group=mesh))
    alone = distributed.new_group([0])
    if rank > 0:
        refused(ValueError, "group: this process is not in it", lambda: measure(network(), group=alone))
    else:
        assert measure(network(), group=alone).layers == measure(network()).layers
    of_mesh = distribute_tensor(filters(8), mesh, [Shard(0)])
    if rank == 0:
        refused(
            ValueError,
            r"holds the ranks \[0\], but weights are sharded over \[0, 1",
            lambda: redundancy(of_mesh, group=alone),
        )
    not_finite = distribute_tensor(torch.full((8, 3, 3, 3), torch.nan), mesh, [Shard(0)])
    model.weight = nn.Parameter(not_finite)
    refused(ValueError, "layer '' has NaN or Inf in filters 0, 1, 2, 3, 4, 5, 6, 7: nothing", lambda: measure(model))


def a_failure_in_the_middle(rank: int, world: distributed.ProcessGroup) -> None:
    detailed = layer_plans.LayerPlan.prepared

    def prepared(plan, gathered):
        if rank == 1:
            raise MemoryError("no room")
        return detailed(plan, gathered)

    layer_plans.LayerPlan.prepared = prepared
    refused(*failure_of(rank, "no room", MemoryError), lambda: measure(network(), group=world))
    layer_plans.LayerPlan.prepared = detailed
    assert measure(network(), group=world).layers == measure(network()).layers  # they can go on


def a_process_that_is_killed(rank: int, world: distributed.ProcessGroup) -> None:
    """The last test, as it ends the processes: what is left of the group can't be taken down in order."""
    if rank == 0:
        lost = "a process of the group has ended or can't be reached"
        refused(PeerError, lost, lambda: measure(network(), group=world))
    os._exit(0)


def failure_of(rank: int, message: str, error: type = ValueError) -> tuple[type, str]:
    """What rank 1 raises, and what the others do."""
    return (error, message) if rank == 1 else (PeerError, f"rank 1 failed: {error.__name__}: {message}")


def refused(error: type, message: str, call: Callable) -> None:
    begin = time.monotonic()
    with pytest.raises(error, match=message):
        call()
    assert time.monotonic() - begin < 20


def run(rank: int, folder: str, size: int, tests: list[Callable]) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=size)
    for test in tests:
        test(rank, distributed.group.WORLD)
        distributed.barrier()
    distributed.destroy_process_group()
    os._exit(0)  # a thread of gloo that frees a tensor while Python ends would abort the process


def test_two_processes(tmp_path: Path):
    tests = [
        same_bits,
        same_patterns,
        sharded_weights,
        filters_that_go_round,
        penalties,
        penalties_of_wrapped_models,
        refused_penalties,
        refusals,
        a_failure_in_the_middle,
        same_bits_where_all_share_a_layer,
        a_process_that_is_killed,
    ]
    torch.multiprocessing.spawn(run, (str(tmp_path), 2, tests), 2)


@pytest.mark.exhaustive
def test_three_processes(tmp_path: Path):
    torch.multiprocessing.spawn(
        run,
        (str(tmp_path), 3, [same_bits, same_patterns, sharded_weights, filters_that_go_round, penalties, refusals]),
        3,
    )


@pytest.mark.exhaustive
def test_four_processes(tmp_path: Path):
    torch.multiprocessing.spawn(run, (str(tmp_path), 4, [meshes_of_two_dimensions]), 4)
