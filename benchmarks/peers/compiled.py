"""torch.compile of the forms of plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

from peers import eager
from peers.base import Call, Peer


class Compiled(Peer):
    name, package = "torch.compile", "torch"

    def __init__(self) -> None:
        torch._dynamo.config.recompile_limit = 1000  # one compilation a shape; past the limit it would run eagerly
        self._whole = torch.compile(eager.whole, dynamic=False)
        self._one_row = torch.compile(one_row_of_all, dynamic=False)
        self._some_pairs = torch.compile(eager.of_some_pairs, dynamic=False)

    def cross(self, a: Tensor, b: Tensor) -> dict[str, Call]:
        forms = {"by slices": lambda: eager.by_slices(a, b, self._whole)}
        if eager.whole_fits(a, b):
            forms["whole"] = lambda: self._whole(a, b)
        return forms

    def pairwise(self, weight: Tensor) -> dict[str, Call]:
        return {**self.cross(weight, weight), "by rows": lambda: self._by_rows(weight)}

    def redundancy(self, weight: Tensor) -> dict[str, Call]:
        return {name: lambda call=call: eager.share_above(call()) for name, call in self.pairwise(weight).items()}

    def gradient(self, weight: Tensor) -> dict[str, Call]:
        if not eager.whole_fits(weight, weight):
            return {}
        return {
            "by slices": eager.gradient_of(lambda w: eager.by_slices(w, w, self._whole), weight),
            "whole": eager.gradient_of(lambda w: self._whole(w, w), weight),
        }

    def listed(self, weight: Tensor, pairs: Tensor) -> dict[str, Call]:
        sizes = {"in caches": eager.CACHE_ELEMENTS, "whole": 1 << 62}
        return {
            name: lambda size=size: eager.of_pairs(weight, pairs, size, self._some_pairs)
            for name, size in sizes.items()
        }

    def _by_rows(self, weight: Tensor) -> Tensor:
        mu, z, sigma = (moment.transpose(0, 1).contiguous() for moment in eager.moments(weight))
        return torch.stack([self._one_row(mu, z, sigma, mu[i], z[i], sigma[i]) for i in range(weight.shape[0])])


def one_row_of_all(mu: Tensor, z: Tensor, sigma: Tensor, mu_i: Tensor, z_i: Tensor, sigma_i: Tensor) -> Tensor:
    """Psi of one filter with all: one shape, so one compilation, for every row."""
    return eager.psi(mu_i, sigma_i, mu, sigma, (z_i * z).sum(-1)).mean(-1)
