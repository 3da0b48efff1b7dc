"""Plain PyTorch: whole tensors, a few slices at a time, and a row of pairs at a time."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from peers.base import ALPHA, EPS, THRESHOLD, Call, Peer, weights_of_pairs, weights_of_square

WHOLE_LIMIT = 1 << 28  # elements of the (F1, Na, Nb) temporaries, of which about ten are alive at once
CACHE_ELEMENTS = 1 << 20  # elements of temporaries that stay in the caches


def moments(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean (F1, N), centred values over sqrt(K) (F1, N, K) and standard deviation (F1, N)."""
    w = weight.flatten(2).transpose(0, 1)
    mu = w.mean(-1)
    centred = (w - mu.unsqueeze(-1)) / w.shape[-1] ** 0.5
    return mu, centred, centred.square().sum(-1).sqrt()


def psi(mu_x: Tensor, sigma_x: Tensor, mu_y: Tensor, sigma_y: Tensor, covariance: Tensor) -> Tensor:
    """psi of broadcast slices from their moments."""
    luminance = (2 * mu_x * mu_y + EPS) / (mu_x.square() + mu_y.square() + EPS)
    product = sigma_x * sigma_y
    contrast = (2 * product + EPS) / (sigma_x.square() + sigma_y.square() + EPS)
    structure = (covariance + EPS) / (product + EPS)
    return luminance.abs().pow(ALPHA) * contrast * structure.abs()


def whole(a: Tensor, b: Tensor) -> Tensor:
    """Psi of all a with all b, from whole (F1, Na, Nb) tensors."""
    (mu_x, z_x, sigma_x), (mu_y, z_y, sigma_y) = moments(a), moments(b)
    covariance = z_x @ z_y.mT
    x, y = (mu_x.unsqueeze(2), sigma_x.unsqueeze(2)), (mu_y.unsqueeze(1), sigma_y.unsqueeze(1))
    return psi(*x, *y, covariance).mean(0)


def by_slices(a: Tensor, b: Tensor, of_slices: Callable[[Tensor, Tensor], Tensor] = whole) -> Tensor:
    """Psi of all a with all b, a few slices at a time."""
    step = max(1, CACHE_ELEMENTS // (a.shape[0] * b.shape[0]))
    parts = [of_slices(x, y) * x.shape[1] for x, y in zip(a.split(step, 1), b.split(step, 1), strict=True)]
    return torch.stack(parts).sum(0) / a.shape[1]


def one_row(mu: Tensor, z: Tensor, sigma: Tensor, i: int) -> Tensor:
    """Psi of filter i with those after it; moments with the filters first."""
    after = slice(i + 1, None)
    covariance = (z[i] * z[after]).sum(-1)
    return psi(mu[i], sigma[i], mu[after], sigma[after], covariance).mean(-1)


def by_rows(weight: Tensor, row: Callable[[Tensor, Tensor, Tensor, int], Tensor] = one_row) -> Tensor:
    """Packed Omega, a row of pairs at a time."""
    mu, z, sigma = (moment.transpose(0, 1).contiguous() for moment in moments(weight))
    return torch.cat([row(mu, z, sigma, i) for i in range(weight.shape[0] - 1)])


def of_some_pairs(mu: Tensor, z: Tensor, sigma: Tensor, i: Tensor, j: Tensor) -> Tensor:
    """Psi of the filters i with the filters j; moments with the filters first."""
    return psi(mu[i], sigma[i], mu[j], sigma[j], (z[i] * z[j]).sum(-1)).mean(-1)


def of_pairs(weight: Tensor, pairs: Tensor, elements: int, some: Callable[..., Tensor] = of_some_pairs) -> Tensor:
    """Psi of the listed pairs, as many at a time as gather that many elements."""
    moment = [moment.transpose(0, 1).contiguous() for moment in moments(weight)]
    step = max(1, elements // weight[0].numel())
    return torch.cat([some(*moment, *part.unbind(1)) for part in pairs.split(step)])


def share_above(omega: Tensor) -> Tensor:
    """lambda^0.6 of a packed or square Omega."""
    if omega.dim() == 1:
        return (omega > THRESHOLD).double().mean()
    filters = omega.shape[0]
    return ((omega > THRESHOLD).sum() - filters).double() / (filters * (filters - 1))


def gradient_of(omega: Callable[[Tensor], Tensor], weight: Tensor) -> Call:
    """The gradient of the weighted sum of a packed or square Omega."""
    weight = weight.clone().requires_grad_()
    weights = {1: weights_of_pairs(weight.shape[0]), 2: weights_of_square(weight.shape[0])}

    def forward_backward() -> Tensor:
        result = omega(weight)
        return torch.autograd.grad(result, weight, weights[result.dim()])[0]

    return forward_backward


def whole_fits(weight: Tensor, other: Tensor) -> bool:
    return weight.shape[0] * other.shape[0] * weight.shape[1] <= WHOLE_LIMIT


class Eager(Peer):
    name, package = "PyTorch eager", "torch"

    def cross(self, a: Tensor, b: Tensor) -> dict[str, Call]:
        forms = {"by slices": lambda: by_slices(a, b)}
        if whole_fits(a, b):
            forms["whole"] = lambda: whole(a, b)
        return forms

    def pairwise(self, weight: Tensor) -> dict[str, Call]:
        return {**self.cross(weight, weight), "by rows": lambda: by_rows(weight)}

    def redundancy(self, weight: Tensor) -> dict[str, Call]:
        return {name: lambda call=call: share_above(call()) for name, call in self.pairwise(weight).items()}

    def gradient(self, weight: Tensor) -> dict[str, Call]:
        if not whole_fits(weight, weight):
            return {}
        forms = {"by rows": by_rows, "by slices": lambda w: by_slices(w, w), "whole": lambda w: whole(w, w)}
        return {name: gradient_of(form, weight) for name, form in forms.items()}

    def listed(self, weight: Tensor, pairs: Tensor) -> dict[str, Call]:
        sizes = {"in caches": CACHE_ELEMENTS, "in memory": WHOLE_LIMIT}
        return {name: lambda size=size: of_pairs(weight, pairs, size) for name, size in sizes.items()}
