"""KeOps on the CPU: one batch a filter, the slices as the vector that a formula runs over."""

from __future__ import annotations

from typing import Any

from race import NoEntry
from torch import Tensor

from peers import eager
from peers.base import ALPHA, EPS, Call, Peer

LONGEST_FORMULA = 64 * 9  # numbers of a filter: a formula unrolls them all, and longer ones take minutes to compile


class KeOps(Peer):
    name, package = "KeOps", "pykeops"

    def pairwise(self, weight: Tensor) -> dict[str, Call]:
        return self.cross(weight, weight)

    def cross(self, a: Tensor, b: Tensor) -> dict[str, Call]:
        if a[0].numel() > LONGEST_FORMULA:
            raise NoEntry(f"a KeOps formula of {a[0].numel()} numbers takes minutes to compile")
        import pykeops

        pykeops.set_verbose(False)
        return {"batches": lambda: keops_cross(a, b)}


def keops_cross(a: Tensor, b: Tensor) -> Tensor:
    """Psi of all a with all b: symbolic over the slices, reduced over an axis of length 1."""
    from pykeops.torch import LazyTensor

    def along(weight: Tensor, axis: int) -> tuple[Any, Any, list[Any]]:
        mu, z, sigma = (moment.transpose(0, 1) for moment in eager.moments(weight))
        lazy = lambda moment: LazyTensor(moment.contiguous().unsqueeze(axis).unsqueeze(2))  # noqa: E731
        return lazy(mu), lazy(sigma), [lazy(position) for position in z.unbind(-1)]

    mu_x, sigma_x, z_x = along(a, 0)  # (1, Na, 1, F1)
    mu_y, sigma_y, z_y = along(b, 1)  # (Nb, 1, 1, F1)
    covariance = sum((x * y for x, y in zip(z_x[1:], z_y[1:], strict=True)), z_x[0] * z_y[0])
    luminance = (2 * mu_x * mu_y + EPS) / (mu_x.square() + mu_y.square() + EPS)
    product = sigma_x * sigma_y
    contrast = (2 * product + EPS) / (sigma_x.square() + sigma_y.square() + EPS)
    structure = (covariance + EPS) / (product + EPS)
    psi = luminance.abs() ** ALPHA * contrast * structure.abs()
    return psi.sum(-1).sum(dim=2).squeeze(-1).T / a.shape[1]
