"""Whether repeats and patterns do the same work: kernels replaced by multiples of others, and what the logits say."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
import torch
from networks import Trained
from torch import Tensor, nn

from ckrm_kernels import cross_psi, match_patterns, redundant_groups
from ckrm_kernels.patterns.bank import names_of, patterns_of

DRAWS, EVERY = 2, 3
ALL, STRIDED = "all depthwise layers", "all strided depthwise layers"


@dataclass(frozen=True)
class Replaced:
    """The cosine of the logits, mean over the images, once kernels of a layer are multiples of others.

    kept: distinct kernels, of so many; repeats: each other one a multiple of the one that it repeats; random: of the
    nearest of as many drawn at random; shuffled: of any of these
    matched: kernels near to a pattern; patterns: each a multiple of it; other_patterns: of another one, drawn at random
    """

    network: str
    layer: str
    stride: int
    kernels: int
    kept: int
    repeats: float
    random: float
    shuffled: float
    matched: int
    patterns: float
    other_patterns: float


def columns() -> list[str]:
    """Of a result."""
    return [field.name for field in fields(Replaced)]


def layers_of(network: Trained) -> list[str]:
    """The strided depthwise layers, every third of the others, then the strided ones together and all together."""
    assert network.model is not None
    layers = [(name, max(each.stride) > 1) for name, each in _depthwise(network.model())]
    others = [name for name, strided in layers if not strided][::EVERY]
    return [*(name for name, strided in layers if strided or name in others), STRIDED, ALL]


@torch.no_grad()
def replaced(network: Trained, layer: str) -> Replaced:
    """What becomes of the logits when the kernels of the layer, or of the layers of these, are replaced."""
    assert network.model is not None
    assert network.inputs is not None
    model, inputs = network.model().eval(), network.inputs()
    chosen = {
        name: module
        for name, module in _depthwise(model)
        if name == layer or layer == ALL or (layer == STRIDED and max(module.stride) > 1)
    }
    weights = {name: module.weight.double().clone() for name, module in chosen.items()}
    logits = model(inputs)
    generator = torch.Generator().manual_seed(0)

    def score(changed: dict[str, Tensor]) -> float:
        other = copy.deepcopy(model)
        for name, weight in changed.items():
            other.get_submodule(name).weight.copy_(weight)
        return torch.cosine_similarity(other(inputs), logits, dim=1).mean().item()

    def mean(changes: Iterator[dict[str, Tensor]]) -> float:
        return float(np.mean([score(change) for change in changes]))

    groups = {name: redundant_groups(weight, 0.6, scale_free=True) for name, weight in weights.items()}
    targets = {name: _nearest_pattern(weight) for name, weight in weights.items()}
    draws = range(DRAWS)
    return Replaced(
        network.name,
        layer,
        max(max(module.stride) for module in chosen.values()),
        sum(len(weight) for weight in weights.values()),
        sum(len(each.kept) for each in groups.values()),
        score({name: multiples(weights[name], weights[name][each.representative]) for name, each in groups.items()}),
        mean({n: _of_random(w, len(groups[n].kept), generator) for n, w in weights.items()} for _ in draws),
        mean({n: _of_random(w, len(groups[n].kept), generator, False) for n, w in weights.items()} for _ in draws),
        sum(int(each.flatten(1).any(1).sum()) for each in targets.values()),
        score({name: _where_matched(weights[name], target) for name, target in targets.items()}),
        mean({n: _where_matched(weights[n], _shuffled(t, generator)) for n, t in targets.items()} for _ in draws),
    )


def multiples(weight: Tensor, of: Tensor) -> Tensor:
    """The multiples of other kernels that are nearest to the kernels. (N, 1, *K) each"""
    factor = (weight * of).flatten(1).sum(1) / of.square().flatten(1).sum(1).clamp(min=1e-30)
    return factor.view(-1, *[1] * (weight.dim() - 1)) * of


def _depthwise(model: nn.Module) -> list[tuple[str, nn.Conv2d]]:
    convolutions = [(name, each) for name, each in model.named_modules() if isinstance(each, nn.Conv2d)]
    return [(name, each) for name, each in convolutions if each.groups == each.in_channels > 1]


def _of_random(weight: Tensor, count: int, generator: torch.Generator, nearest: bool = True) -> Tensor:
    """Each kernel as a multiple of one of so many that are drawn: of the nearest, or of any."""
    kept = torch.randperm(len(weight), generator=generator)[:count]
    if nearest:
        chosen = kept[cross_psi(weight, weight[kept], similarity="cosine").argmax(1)]
    else:
        chosen = kept[torch.randint(count, (len(weight),), generator=generator)]
        chosen[kept] = kept
    return multiples(weight, weight[chosen])


def _nearest_pattern(weight: Tensor) -> Tensor:
    """The kernel of the pattern that each kernel is near to, zeros where it is near to none."""
    (layer,) = match_patterns(weight).layers
    assert layer.places is not None
    names = names_of(None, True)
    target = torch.zeros_like(weight)
    for pattern in patterns_of(None, names, weight.shape[2:]):
        own = (layer.places.flatten() == names.index(pattern.name)).nonzero().flatten()
        if len(own):
            kernels = pattern.kernels.unsqueeze(1)
            target[own] = kernels[cross_psi(weight[own], kernels, similarity="cosine", signed=True).argmax(1)]
    return target


def _where_matched(weight: Tensor, target: Tensor) -> Tensor:
    matched = target.flatten(1).any(1).view(-1, *[1] * (weight.dim() - 1))
    return torch.where(matched, multiples(weight, target), weight)


def _shuffled(target: Tensor, generator: torch.Generator) -> Tensor:
    """The patterns of the matched kernels in another order."""
    matched = target.flatten(1).any(1).nonzero().flatten()
    result = target.clone()
    result[matched] = target[matched[torch.randperm(len(matched), generator=generator)]]
    return result
