"""Parallel loops compiled by numba, with fast mathematics."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from peers import eager
from peers.base import ALPHA, EPS, Call, Peer


def columns(weight: Tensor) -> tuple[Any, Any, Any]:
    """Moments as arrays: mu and sigma (N, F1), centred values (N, K, F1), so that the loop over slices is a vector."""
    mu, z, sigma = eager.moments(weight)
    return mu.T.contiguous().numpy(), z.permute(1, 2, 0).contiguous().numpy(), sigma.T.contiguous().numpy()


@functools.cache
def loops() -> dict[str, Callable[..., None]]:
    """The compiled functions; a separate numba import for those who have it."""
    import numba

    one, two, alpha, eps = np.float32(1), np.float32(2), np.float32(ALPHA), np.float32(EPS)

    @numba.njit(fastmath=True, inline="always")
    def psi(mu_x, z_x, sigma_x, mu_y, z_y, sigma_y):  # type: ignore[no-untyped-def]
        slices, positions = mu_x.shape[0], z_x.shape[0]
        total = np.float32(0)
        for k in range(slices):
            covariance = np.float32(0)
            for p in range(positions):
                covariance += z_x[p, k] * z_y[p, k]
            luminance = (two * mu_x[k] * mu_y[k] + eps) / (mu_x[k] * mu_x[k] + mu_y[k] * mu_y[k] + eps)
            product = sigma_x[k] * sigma_y[k]
            contrast = (two * product + eps) / (sigma_x[k] * sigma_x[k] + sigma_y[k] * sigma_y[k] + eps)
            total += np.abs(luminance) ** alpha * contrast * np.abs((covariance + eps) / (product + eps))
        return total * (one / np.float32(slices))

    @numba.njit(fastmath=True)
    def row(mu, z, sigma, i, omega):  # type: ignore[no-untyped-def]
        start = i * (2 * mu.shape[0] - i - 1) // 2 - i - 1
        for j in range(i + 1, mu.shape[0]):
            omega[start + j] = psi(mu[i], z[i], sigma[i], mu[j], z[j], sigma[j])

    @numba.njit(fastmath=True, parallel=True)
    def pairwise(mu, z, sigma, omega):  # type: ignore[no-untyped-def]
        filters = mu.shape[0]
        # Row i with row N - 2 - i: every turn has the same number of pairs.
        for i in numba.prange(filters // 2):
            row(mu, z, sigma, i, omega)
            if filters - 2 - i > i:
                row(mu, z, sigma, filters - 2 - i, omega)

    @numba.njit(fastmath=True, parallel=True)
    def cross(mu_a, z_a, sigma_a, mu_b, z_b, sigma_b, out):  # type: ignore[no-untyped-def]
        for i in numba.prange(out.shape[0]):
            for j in range(out.shape[1]):
                out[i, j] = psi(mu_a[i], z_a[i], sigma_a[i], mu_b[j], z_b[j], sigma_b[j])

    @numba.njit(fastmath=True, parallel=True)
    def listed(mu, z, sigma, pairs, out):  # type: ignore[no-untyped-def]
        for p in numba.prange(out.shape[0]):
            i, j = pairs[p, 0], pairs[p, 1]
            out[p] = psi(mu[i], z[i], sigma[i], mu[j], z[j], sigma[j])

    numba.set_num_threads(torch.get_num_threads())
    return {"pairwise": pairwise, "cross": cross, "listed": listed}


class NumbaLoops(Peer):
    name, package = "numba", "numba"

    def pairwise(self, weight: Tensor) -> dict[str, Call]:
        def run() -> Tensor:
            omega = np.empty(weight.shape[0] * (weight.shape[0] - 1) // 2, np.float32)
            loops()["pairwise"](*columns(weight), omega)
            return torch.from_numpy(omega)

        return {"loops": run}

    def redundancy(self, weight: Tensor) -> dict[str, Call]:
        omega = self.pairwise(weight)["loops"]
        return {"loops": lambda: eager.share_above(omega())}

    def cross(self, a: Tensor, b: Tensor) -> dict[str, Call]:
        def run() -> Tensor:
            out = np.empty((a.shape[0], b.shape[0]), np.float32)
            loops()["cross"](*columns(a), *columns(b), out)
            return torch.from_numpy(out)

        return {"loops": run}

    def listed(self, weight: Tensor, pairs: Tensor) -> dict[str, Call]:
        def run() -> Tensor:
            out = np.empty(pairs.shape[0], np.float32)
            loops()["listed"](*columns(weight), pairs.numpy(), out)
            return torch.from_numpy(out)

        return {"loops": run}
