"""Which of a coupling's filters leave first, by their weights alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from ckrm_kernels.filters import as_vectors, is_pointwise
from ckrm_kernels.functional import pairwise_psi
from ckrm_kernels.shrinking.couplings import Coupling, Entries, Graph, Layer
from ckrm_kernels.shrinking.moments import tensor_of

Choice = Literal["psi", "l1", "fpgm", "bn", "random"]
Scores = Callable[[Tensor], Tensor]

_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)


def order(
    choose: Choice | Scores,
    model: nn.Module,
    graph: Graph,
    coupling: Coupling,
    *,
    generator: torch.Generator | None = None,
) -> list[int]:
    """Every filter of the coupling, first to leave first; of equals the first leaves first.

    choose: "l1", the least sum of |w| of the weights that produce it (Li et al., ICLR 2017); "fpgm", the least sum of
        distances to the others (He et al., CVPR 2019), over all that produce it; "bn", the least sum of |gamma| of the
        norms that follow it (Liu et al., ICCV 2017); "random"; "psi", of the most similar pair that is left, by
        `signed_psi`, the one with less norm, again and again; or a function of the weights that produce the filters,
        (filters, numbers) in their dtype, that gives a score of each, (filters,): the least leaves first
    generator: of "random"; on the CPU. None: torch's own
    Raises ValueError for another choice, for "bn" where no norm with weights follows, and for scores of another shape
    or with NaN.
    """
    if callable(choose):
        return _ascending(_checked(choose(_weights(model, graph, coupling)), coupling))
    if choose == "l1":
        return _ascending(_weights(model, graph, coupling).double().abs().sum(1))
    if choose == "fpgm":
        banks = [bank.flatten(1).double() for bank, _ in _producing(model, graph, coupling)]
        return _ascending(torch.stack([torch.cdist(bank, bank).sum(1) for bank in banks]).sum(0))
    if choose == "bn":
        return _ascending(_norm_scales(model, coupling))
    if choose == "random":
        return torch.randperm(coupling.width, generator=generator).tolist()
    if choose == "psi":
        norms = _weights(model, graph, coupling).double().norm(dim=1)
        return least_of_similar_pairs(signed_psi(model, graph, coupling), norms)
    raise ValueError(f"choose must be one of {', '.join(get_args(Choice))}, or a function of weights, got {choose!r}")


def signed_psi(model: nn.Module, graph: Graph, coupling: Coupling) -> Tensor:
    """Signed scale-free Psi of the coupling's filters with each other: the mean over the layers that produce them.

    out: (width, width), symmetric with ones on the diagonal, float32 (float64 for float64 weights). Filters of a
        pointwise layer are one slice; those that read other groups' channels have Psi 0 with each other
    """
    return torch.stack([_layer_psi(bank, reads) for bank, reads in _producing(model, graph, coupling)]).mean(0)


def _layer_psi(bank: Tensor, reads: Tensor) -> Tensor:
    bank = as_vectors(bank) if is_pointwise(bank) else bank
    psi = pairwise_psi(bank, layout="square", signed=True, scale_free=True)
    return psi * (reads.unsqueeze(0) == reads.unsqueeze(1)).all(2)


def _producing(model: nn.Module, graph: Graph, coupling: Coupling) -> list[tuple[Tensor, Tensor]]:
    """Of each layer that produces the filters: their weights (width, slices, *kernel), and which groups' channels
    each reads, (width, any), comparable between filters."""
    layers = {layer.weight: layer for layer in graph.producers(coupling)}
    return [
        _bank(tensor_of(model, entry.tensor), entry, layers[entry.tensor])
        for entry in coupling.with_role("produces")
        if entry.tensor in layers and entry.dim == layers[entry.tensor].output_dim
    ]


def _bank(weight: Tensor, entry: Entries, layer: Layer) -> tuple[Tensor, Tensor]:
    longest = max(map(len, entry.positions))
    positions = torch.tensor([list(found) + [-1] * (longest - len(found)) for found in entry.positions])
    positions = positions.to(weight.device)
    rows = weight.movedim(entry.dim, 0)
    bank = rows[positions] * (positions >= 0).view(*positions.shape, *[1] * (rows.ndim - 1))
    filters_of_group = rows.shape[0] // layer.groups if layer.kind != "transposed" else rows.shape[0]
    return bank.flatten(1, 2), positions // filters_of_group


def _weights(model: nn.Module, graph: Graph, coupling: Coupling) -> Tensor:
    """(width, numbers): all weights that produce each filter."""
    return torch.cat([bank.flatten(1) for bank, _ in _producing(model, graph, coupling)], 1)


def _norm_scales(model: nn.Module, coupling: Coupling) -> Tensor:
    """(width,): the sum of |weight| over the norms that follow each filter."""
    scales = []
    for entry in coupling.with_role("follows"):
        path, _, attribute = entry.tensor.rpartition(".")
        if attribute == "weight" and isinstance(model.get_submodule(path), _NORMS):
            weight = tensor_of(model, entry.tensor).double().abs()
            scales.append(torch.stack([weight[list(positions)].sum() for positions in entry.positions]))
    if not scales:
        raise ValueError(
            f'choose="bn" needs a norm with weights behind the filters of {coupling.name!r}; there is none: name the '
            "layer in ignore, or choose otherwise"
        )
    return torch.stack(scales).sum(0)


def least_of_similar_pairs(similarity: Tensor, norms: Tensor) -> list[int]:
    """Again and again, of the most similar pair that is left, the filter with the smaller norm."""
    width = len(norms)
    i, j = torch.triu_indices(width, width, 1, device=similarity.device)
    descending = similarity[i, j].argsort(descending=True, stable=True)
    leaves, left = [], [True] * width
    values = norms.tolist()
    for first, second in zip(i[descending].tolist(), j[descending].tolist(), strict=True):
        if left[first] and left[second]:
            weaker = first if values[first] <= values[second] else second
            left[weaker] = False
            leaves.append(weaker)
    return leaves + [filter for filter in range(width) if left[filter]]


def _checked(scores: Tensor, coupling: Coupling) -> Tensor:
    if not isinstance(scores, Tensor) or scores.shape != (coupling.width,):
        got = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise ValueError(f"choose must give a tensor ({coupling.width},), a score of each filter, got {got}")
    if bool(torch.isnan(scores).any()):
        raise ValueError(f"choose gives NaN as a score of filters of {coupling.name!r}")
    return scores


def _ascending(scores: Tensor) -> list[int]:
    return scores.argsort(stable=True).tolist()
