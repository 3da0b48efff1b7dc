"""The numbers of one layer of one model: its redundancy beside the levels that tell what it speaks of."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ckrm_kernels.backends import Backend
from ckrm_kernels.distribution import redundancy_of_sets
from ckrm_kernels.functional import scale_of
from ckrm_kernels.groups import groups_of_banks
from ckrm_kernels.sampling import permuted_sets
from ckrm_kernels.similarity import Similarity

DEAD = 1e-2
"""A filter is dead whose root mean square is at most this share of its layer's: then its slices' squares are below the
default eps times the layer's mean square, so that eps decides its Psi, and it has 1e-4 of a usual filter's power."""
_CHANCE_PAIRS, _MOST_ROUNDS = 4096, 16
_Variant = Callable[[Sequence[Tensor]], list[Tensor]]


class Level(NamedTuple):
    """lambda^t and its chance level; None where slices are single numbers, or without details."""

    redundancy: float
    chance: float | None = None
    distinct: int | None = None


class LayerNumbers(NamedTuple):
    """What one model's layer was found to be.

    measured: by the similarity asked for; scale_free: of the layer over its root mean square, None where the similarity
        is that or does not depend on scale; live: among the filters that are not dead
    """

    histogram: Tensor
    measured: Level
    dead: int | None = None
    live: Level | None = None
    scale_free: Level | None = None


class Wanted(NamedTuple):
    """What is computed beside lambda^t.

    chance: whether there is anything to permute; scale_free: whether the similarity depends on scale
    """

    chance: bool
    scale_free: bool


def plain_numbers(counts: Tensor, at: int) -> LayerNumbers:
    """lambda^t and the histogram of a layer.

    counts: of its pairs between the edges of the histogram's bins and the threshold, which is at place `at` of them
    """
    above, pairs = int(counts[at + 1 : -1].sum()), int(counts[:-1].sum())
    histogram = torch.cat((counts[:at], counts[at : at + 2].sum(0, keepdim=True), counts[at + 2 : -1]))
    return LayerNumbers(histogram, Level(math.nan if counts[-1] > 0 else above / max(pairs, 1)))


def detailed_numbers(
    plain: LayerNumbers,
    banks: list[Tensor],
    wanted: Wanted,
    threshold: float,
    similarity: Similarity,
    backend: Backend | None,
) -> LayerNumbers:
    """The numbers of a layer with its levels.

    banks: (F2, F1, *K) each, of one shape; as they are, whatever similarity.scale_free
    """
    alive = _alive(banks)
    dead = sum(int((~each).sum()) for each in alive)
    variants: dict[str, _Variant] = {"measured": list}
    if wanted.scale_free:
        peak, scale = scale_of(torch.stack(banks))
        variants["scale_free"] = lambda each: list((torch.stack(list(each)).to(scale.dtype) / peak / scale).unbind(0))
    if dead:
        variants["live"] = lambda each: [bank[chosen] for bank, chosen in zip(each, alive, strict=True)]
    redundancies = _redundancies(banks, variants, plain.measured.redundancy, threshold, similarity, backend)
    chances = _chances(banks, variants, threshold, similarity, backend) if wanted.chance else {}
    levels = {name: Level(redundancies[name], chances.get(name)) for name in variants}
    for name in ("measured", "scale_free") if wanted.scale_free else ("measured",):
        distinct = _distinct(variants[name](banks), levels[name].redundancy, threshold, similarity, backend)
        levels[name] = levels[name]._replace(distinct=distinct)
    return LayerNumbers(
        plain.histogram, levels["measured"], dead, levels.get("live", levels["measured"]), levels.get("scale_free")
    )


def _alive(banks: list[Tensor]) -> list[Tensor]:
    """For each bank, which filters are not dead: (F2,) bool."""
    norms = [torch.linalg.vector_norm(bank.flatten(1), dim=1, dtype=torch.float64) for bank in banks]
    together = torch.cat(norms)
    limit = DEAD * together.square().sum().div(max(together.numel(), 1)).sqrt()
    return [norm > limit for norm in norms]


def _redundancies(
    banks: list[Tensor],
    variants: Mapping[str, _Variant],
    measured: float,
    threshold: float,
    similarity: Similarity,
    backend: Backend | None,
) -> dict[str, float]:
    """lambda^t of each variant of the banks; that of the banks as they are is known."""
    sets = [variant(banks) for name, variant in variants.items() if name != "measured"]
    others = redundancy_of_sets(sets, _tensor(threshold), similarity, backend).tolist() if sets else []
    return dict(zip(variants, (measured, *others), strict=True))


def _chances(
    banks: list[Tensor],
    variants: Mapping[str, _Variant],
    threshold: float,
    similarity: Similarity,
    backend: Backend | None,
) -> dict[str, float]:
    """The chance level of each variant of the banks, all by the same permutations."""
    pairs = sum(bank.shape[0] * (bank.shape[0] - 1) // 2 for bank in banks)
    rounds = min(max(-(-_CHANCE_PAIRS // max(pairs, 1)), 1), _MOST_ROUNDS)
    generator = torch.Generator(banks[0].device).manual_seed(0)
    of_rounds = []
    for permuted in permuted_sets(banks, rounds, generator):
        sets = [variant(each) for variant in variants.values() for each in permuted]
        found = redundancy_of_sets(sets, _tensor(threshold), similarity, backend)
        of_rounds.append(found.view(len(variants), -1))
    return {name: each.mean(0).item() for name, each in zip(variants, torch.cat(of_rounds, 1), strict=True)}


def _tensor(threshold: float) -> Tensor:
    return torch.tensor(threshold, dtype=torch.float64, device="cpu")


def _distinct(
    banks: list[Tensor], redundancy: float, threshold: float, similarity: Similarity, backend: Backend | None
) -> int:
    """The filters left when repeats are merged."""
    filters = sum(bank.shape[0] for bank in banks)
    return groups_of_banks(banks, threshold, similarity, backend).kept.numel() if redundancy else filters
