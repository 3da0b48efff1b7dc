"""What is to be measured of each layer of some models, and by which of the processes that share the work."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import TypeVar

import torch
from torch import Tensor

from ckrm_kernels.choices import Pointwise
from ckrm_kernels.distributed import ALONE, Team, dealt_out
from ckrm_kernels.distribution import MOST_HELD
from ckrm_kernels.filters import as_vectors, is_pointwise
from ckrm_kernels.functional import not_finite, over_scale
from ckrm_kernels.layers import Layer, descriptions
from ckrm_kernels.sharing import checksum, cost_of

T = TypeVar("T")
Banks = list[list[Tensor]]  # of each model
_MOST_GATHERED = 1 << 32  # bytes of a layer of one model
SHARED_COST = 1 << 34
"""Of the pairs of a layer that is worth sharing among processes: about 0.2 s of a core."""
_OF_BIN = 2000  # that a pair of the plain numbers is counted in, as `sharing.cost_of`: 25 ns
_OF_PAIR, _OF_NUMBER, _OF_LAYER = 1600, 160, 1e8  # of the details, beside two Psi of each pair: 20 ns, 2 ns, 1.3 ms
_OF_LAYER_ON_GPU = 7e10  # 5 ms, most of it launches: 91 ms of 17 layers, as docs/distributed.md says
_OF_PATTERNS, _OF_LAYER_OF_PATTERNS = 1600, 2.4e8  # a number of a kernel, and a layer


@dataclass(frozen=True, eq=False)
class LayerPlan:
    """A layer of all models.

    of_models: the layer in each; none where it is skipped
    note: what to say of it
    has_chance: whether its slices have positions to permute
    as_one_slice, scale_free: what is done to its banks
    goes_round: whether its filters go round among the processes that have them, instead of being gathered
    """

    layer: Layer
    of_models: tuple[Layer, ...]
    note: str
    has_chance: bool = False
    as_one_slice: bool = False
    scale_free: bool = False
    goes_round: bool = False

    @property
    def is_sharded(self) -> bool:
        """Whether its weight lies with several processes, in any of the models."""
        return any(each.sharded for each in self.of_models)

    @property
    def is_too_large(self) -> bool:
        """Whether its weight in one model is not to be gathered, and need not be: not for its scale, nor by groups."""
        size = sum(bank.nbytes for bank in self.layer.banks)
        one_each = all(each.sharded and each.sharded.use.groups == 1 for each in self.of_models)
        return self.is_sharded and size > _MOST_GATHERED and one_each and not self.scale_free

    def gathered(self, rank: int = 0, team: Team = ALONE) -> Banks:
        """The banks of each model as they are stored; of a sharded layer every process must ask for them.

        rank, team: the only process that has those of a sharded layer then, and those that ask; without, all have them
        """
        return [[bank.detach() for bank in each.gathered(rank, team)] for each in self.of_models]

    def prepared(self, stored: list[Tensor]) -> list[Tensor]:
        """The banks to measure of one model, made of those that are stored."""
        banks = [as_vectors(bank) for bank in stored] if self.as_one_slice else stored
        return over_scale(banks).banks if self.scale_free else banks

    @property
    def pairs(self) -> int:
        """Of filters of one model that are compared."""
        return sum(bank.shape[0] * (bank.shape[0] - 1) // 2 for bank in self.layer.banks)

    @property
    def numbers(self) -> int:
        """Of its weights in all models; 0 where it is skipped."""
        return len(self.of_models) * sum(bank.numel() for bank in self.layer.banks)

    @property
    def cost_of_pairs(self) -> float:
        """Of one Psi of each pair in all models, as `sharing.cost_of`; 0 where it is skipped."""
        banks = [as_vectors(bank) if self.as_one_slice else bank for bank in self.layer.banks]
        return len(self.of_models) * sum(map(cost_of, banks))

    def cost(self, details: bool, patterns: bool) -> float:
        """Of what is asked of it, in all models and by one process, as `sharing.cost_of`; 0 where it is skipped."""
        models = len(self.of_models)
        cost = self.cost_of_pairs + _OF_BIN * models * self.pairs
        if details:
            of_layer = _OF_LAYER_ON_GPU if self._is_on_gpu else _OF_LAYER
            cost = 2 * self.cost_of_pairs + models * (_OF_PAIR * self.pairs + of_layer) + _OF_NUMBER * self.numbers
        return cost + self.cost_of_patterns if patterns else cost

    @property
    def _is_on_gpu(self) -> bool:
        sharded = self.layer.sharded
        return any(weight.is_cuda for weight in ([sharded.weight] if sharded else self.layer.banks))

    @property
    def cost_of_patterns(self) -> float:
        """Of finding what its spatial kernels look like, in all models; 0 where there are none."""
        if not self.has_chance or self.as_one_slice:
            return 0.0
        return _OF_PATTERNS * self.numbers + _OF_LAYER_OF_PATTERNS * len(self.of_models)


def plans_of(
    layers: Sequence[tuple[Layer, ...]], pointwise: Pointwise, scale_free: bool, team: Team
) -> list[LayerPlan]:
    """What becomes of the layers, each given as it is in every model."""
    plans = [_plan_of(same, pointwise, scale_free) for same in layers]
    return [_going_round(plan) if team.size > 1 and plan.is_too_large else plan for plan in plans]


def _plan_of(layers: tuple[Layer, ...], pointwise: Pointwise, scale_free: bool) -> LayerPlan:
    layer = layers[0]
    if layer.shape is None:
        return LayerPlan(layer, (), layer.note)
    if not is_pointwise(layer.banks[0]):
        return LayerPlan(layer, layers, layer.note, True, scale_free=scale_free)
    if pointwise == "skip":
        return LayerPlan(layer, (), "pointwise, a slice of one number has no structure")
    if pointwise == "slices":
        return LayerPlan(layer, layers, layer.note, scale_free=scale_free)
    note = f"{layer.note}, each filter as one slice".lstrip(", ")
    return LayerPlan(layer, layers, note, True, as_one_slice=True, scale_free=scale_free)


def _going_round(plan: LayerPlan) -> LayerPlan:
    note = "too large to be gathered, its pairs are counted without details"
    return replace(plan, goes_round=True, note="; ".join(filter(None, (plan.note, note))))


def facts_of_models(models: Sequence[Sequence[Layer]]) -> list[str]:
    """What processes that measure some models together must all have: their layers, and the whole ones to the bit."""
    facts = []
    for layers in models:
        described = descriptions(layers)
        for layer in layers:
            has = "sharded" if layer.sharded else f"checksum {sum(map(checksum, layer.banks))}"
            facts.append(f"{described[layer.name]}, {has}")
    return facts


def check_finite(plans: Sequence[LayerPlan], names: Sequence[str], team: Team) -> None:
    """Raises ValueError, naming the layer, where one that would be measured has NaN or Inf. names: of the models"""
    whole = [plan for plan in plans if not plan.is_sharded]
    sums: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}  # one answer from a device, not one a layer
    for bank in (bank for plan in whole for same in plan.gathered() for bank in same):
        sums.setdefault((bank.device, bank.dtype), []).append(bank.sum())
    if not all(bool(torch.stack(each).isfinite().all()) for each in sums.values()):  # no sum of a NaN or Inf is finite
        _refuse_not_finite(whole, names)
    sharded = [plan for plan in plans if plan.is_sharded]
    if not sharded:
        return
    of_parts = [not all(each.sharded.is_finite for each in plan.of_models if each.sharded) for plan in sharded]
    team.check()
    bad = team.sum(torch.tensor(of_parts, dtype=torch.int64, device="cpu")).tolist()
    _refuse_not_finite([plan for plan, parts in zip(sharded, bad, strict=True) if parts], names)


def _refuse_not_finite(plans: Sequence[LayerPlan], names: Sequence[str]) -> None:
    """Raises ValueError for the first layer of the first model that has NaN or Inf."""
    of_plans = [plan.gathered() for plan in plans]
    for index, name in enumerate(names):
        for plan, gathered in zip(plans, of_plans, strict=True):
            bad = not_finite(gathered[index]) if gathered else []
            if bad:
                listed = ", ".join(map(str, bad[:8])) + (", ..." if len(bad) > 8 else "")
                where = f"layer {plan.layer.name!r}{f' of {name}' if name else ''}"
                raise ValueError(f"{where} has NaN or Inf in filters {listed}: nothing was measured")


def of_each(
    plans: Sequence[LayerPlan],
    costs: Sequence[float],
    compute: Callable[[LayerPlan, Banks, Team], T],
    team: Team,
    *,
    whole: bool = False,
) -> Iterator[T | None]:
    """What the function gives for the stored banks of each plan; None for one without.

    costs: of each plan
    whole: whether each is computed by one process, however much it costs

    Of several processes each computes some layers whole, at most one at a time, and all have the results; layers of
    much of the work are computed by all together, one after another. Banks that go round are not gathered: there are
    none.
    """
    if team.size == 1:
        for plan in plans:
            yield compute(plan, plan.gathered(), team) if plan.of_models else None
        return
    limit = max(sum(plan.cost_of_pairs for plan in plans) / (4 * team.size), SHARED_COST)
    places = [place for place, plan in enumerate(plans) if plan.of_models]
    together = {place for place in places if not whole and _is_for_all(plans[place], limit)}
    alone = [place for place in places if place not in together]
    found = _dealt_out([plans[place] for place in alone], [costs[place] for place in alone], compute, team)
    of_plans = dict(zip(alone, found, strict=True))
    for place, plan in enumerate(plans):
        if place in together:
            team.check()
            yield compute(plan, [] if plan.goes_round else plan.gathered(), team)
        else:
            yield of_plans.get(place)


def _is_for_all(plan: LayerPlan, limit: float) -> bool:
    """Whether all processes work on the layer together. limit: of the cost of the pairs of one that a process takes"""
    return plan.goes_round or plan.pairs > MOST_HELD or plan.cost_of_pairs > limit


def _dealt_out(
    plans: Sequence[LayerPlan], costs: Sequence[float], compute: Callable[[LayerPlan, Banks, Team], T], team: Team
) -> list[T]:
    """What the function gives for each plan, computed by one process, for all."""
    found: dict[int, T] = {}
    for turn in zip_longest(*dealt_out(costs, team.size)):  # of about equal costs
        taken = [None if at is None else plans[at] for at in turn]
        banks, plan = _own_banks(taken, team), taken[team.rank]
        if plan is not None:
            found[turn[team.rank]] = compute(plan, banks, ALONE)
    team.check()
    of_all = {place: result for part in team.gathered(found) for place, result in part.items()}
    return [of_all[place] for place in range(len(plans))]


def _own_banks(taken: Sequence[LayerPlan | None], team: Team) -> Banks:
    """The stored banks of the layer that this process takes, while the others have theirs; none where it takes none."""
    own: Banks = []
    if any(plan is not None and plan.is_sharded for plan in taken):
        team.check()
    for rank, plan in enumerate(taken):
        if plan is not None and (plan.is_sharded or rank == team.rank):
            banks = plan.gathered(rank, team)
            own = banks if rank == team.rank else own
    return own
