"""Redundancy as an importance for the pruners of torch-pruning."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from ckrm_kernels.extras import require
from ckrm_kernels.filters import as_vectors, filter_banks, is_pointwise
from ckrm_kernels.functional import pairwise_psi
from ckrm_kernels.options import SimilarityOptions, resolve
from ckrm_kernels.shrinking.choices import least_of_similar_pairs

with require("the importance", "torch_pruning"):
    from torch_pruning import prune_conv_out_channels, prune_depthwise_conv_out_channels, prune_linear_out_channels
    from torch_pruning.pruner.importance import Importance

_MAKES_CHANNELS = (prune_conv_out_channels, prune_depthwise_conv_out_channels, prune_linear_out_channels)


class CKRMImportance(Importance):
    """Importance of channels by how far their filters repeat others: `BasePruner(model, inputs, CKRMImportance())`.

    Again and again, of the two filters most alike among those that are left, the one with less norm leaves. Its
    importance is 1 less their similarity: of two copies one has an importance near 0, and only one. Filters that leave
    together, such as those of layers that are added, have the mean of their similarities; filters of a 1x1 convolution
    or linear layer are one slice each; those of different groups have a similarity of 0.

    options: see `SimilarityOptions`; signed and scale_free by default, since a filter can't stand for its negative, and
        layers of any scale are ranked together
    Which filters leave matters less than the refit of what reads them, which `plan_shrink` does and torch-pruning does
    not.
    """

    def __init__(self, **options: Unpack[SimilarityOptions]) -> None:
        self._options: SimilarityOptions = {"signed": True, "scale_free": True, **options}
        self._lowest = resolve(self._options, "CKRMImportance")[0].lowest

    @torch.no_grad()
    def __call__(self, group: Any) -> Tensor | None:
        """The importance of each channel of the group's root, (channels,) float64; None where no layer makes them.

        group: a `torch_pruning.Group`
        """
        places = {root: place for place, root in enumerate(group[0].root_idxs)}
        makers = [item for item in group if item.dep.pruning_fn in _MAKES_CHANNELS]
        if not makers:
            return None
        similarities, covered, squares = [], [], []
        for item in makers:
            alike, norms = self._of_layer(item.dep.target.module)
            filters = torch.tensor(item.idxs, device=alike.device)
            mean = _mean_of_roots([places.get(root) for root in item.root_idxs], len(places)).to(alike.device)
            has_filters = mean.sum(1) > 0
            similarities.append(mean @ alike[filters][:, filters] @ mean.T)
            covered.append(torch.outer(has_filters, has_filters))
            squares.append(mean @ norms[filters].square())
        alike = sum(similarities) / torch.stack(covered).sum(0).clamp(min=1)
        return self._scores(alike, torch.stack(squares).sum(0).sqrt())

    def _of_layer(self, module: nn.Module) -> tuple[Tensor, Tensor]:
        """The similarity of each two filters (F2, F2), and the norm of each (F2,), in float64."""
        banks = filter_banks(module)
        norms = torch.cat([bank.flatten(1).double().norm(dim=1) for bank in banks])
        slices = [as_vectors(bank) if is_pointwise(bank) else bank for bank in banks]
        alike = [pairwise_psi(bank, layout="square", **self._options).double() for bank in slices]
        return torch.block_diag(*alike), norms

    def _scores(self, alike: Tensor, norms: Tensor) -> Tensor:
        """1 less the similarity of each filter to the nearest of those that leave after it; the most for the last."""
        alike = alike.clone()
        alike.fill_diagonal_(self._lowest)
        scores = torch.empty_like(norms)
        left = torch.ones_like(norms, dtype=torch.bool)
        for leaving in least_of_similar_pairs(alike, norms):
            left[leaving] = False
            scores[leaving] = 1 - torch.where(left, alike[leaving], self._lowest).max()
        return scores


def _mean_of_roots(places: list[int | None], channels: int) -> Tensor:
    """(channels, filters) float64: what takes the mean over the filters of each of the root's channels.

    places: of each filter, the place of its channel among the root's, if it has one
    """
    spread = torch.zeros(channels, len(places), dtype=torch.float64)
    for filter, place in enumerate(places):
        if place is not None:
            spread[place, filter] = 1
    return spread / spread.sum(1, keepdim=True).clamp(min=1)
