"""JAX under jit on the CPU: whole tensors, and a row of pairs at a time."""

from __future__ import annotations

import functools
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from peers import eager
from peers.base import ALPHA, EPS, THRESHOLD, Call, Peer, weights_of_square


@functools.cache
def functions() -> SimpleNamespace:
    """The jitted functions; JAX is imported when it is first timed."""
    import jax

    jax.config.update("jax_platforms", "cpu")
    jnp = jax.numpy

    def moments(weight: Any) -> tuple[Any, Any, Any]:
        w = weight.reshape(*weight.shape[:2], -1)
        mu = w.mean(-1)
        z = (w - mu[..., None]) / w.shape[-1] ** 0.5
        return mu, z, jnp.sqrt(jnp.square(z).sum(-1))

    def psi(mu_x: Any, sigma_x: Any, mu_y: Any, sigma_y: Any, covariance: Any) -> Any:
        luminance = (2 * mu_x * mu_y + EPS) / (mu_x**2 + mu_y**2 + EPS)
        product = sigma_x * sigma_y
        contrast = (2 * product + EPS) / (sigma_x**2 + sigma_y**2 + EPS)
        return jnp.abs(luminance) ** ALPHA * contrast * jnp.abs((covariance + EPS) / (product + EPS))

    def whole(a: Any, b: Any) -> Any:
        (mu_x, z_x, sigma_x), (mu_y, z_y, sigma_y) = moments(a), moments(b)
        covariance = jnp.einsum("ikp,jkp->kij", z_x, z_y)
        x, y = (mu_x.T[:, :, None], sigma_x.T[:, :, None]), (mu_y.T[:, None], sigma_y.T[:, None])
        return psi(*x, *y, covariance).mean(0)

    def by_rows(a: Any, b: Any) -> Any:
        mu, z, sigma = moments(b)

        def row(one: Any) -> Any:
            covariance = jnp.einsum("kp,jkp->jk", one[1], z)  # (one[1] * z).sum(-1) is off by 0.05 under jaxlib 0.10.2
            return psi(one[0], one[2], mu, sigma, covariance).mean(-1)

        return jax.lax.map(row, moments(a))

    def listed(weight: Any, pairs: Any) -> Any:
        mu, z, sigma = moments(weight)
        one = lambda i, j: psi(mu[i], sigma[i], mu[j], sigma[j], (z[i] * z[j]).sum(-1)).mean(-1)  # noqa: E731
        step = max(1, eager.CACHE_ELEMENTS // (weight.size // weight.shape[0]))
        return jax.lax.map(lambda pair: one(pair[0], pair[1]), pairs, batch_size=step)

    def share_above(square: Any) -> Any:
        filters = square.shape[0]
        return ((square > THRESHOLD).sum() - filters) / (filters * (filters - 1))

    gradient = jax.grad(lambda w, weights: (whole(w, w) * weights).sum())
    return SimpleNamespace(
        asarray=jnp.asarray,
        whole=jax.jit(whole),
        by_rows=jax.jit(by_rows),
        listed=jax.jit(listed),
        share_above=jax.jit(share_above),
        gradient=jax.jit(gradient),
    )


def array(tensor: Tensor) -> Any:
    return functions().asarray(tensor.numpy())


def back(result: Any) -> Tensor:
    return torch.from_numpy(np.array(result))


class JaxJit(Peer):
    name, package = "JAX jit", "jax"

    def cross(self, a: Tensor, b: Tensor) -> dict[str, Call]:
        jax, x, y = functions(), array(a), array(b)
        forms = {"by rows": lambda: back(jax.by_rows(x, y))}
        if eager.whole_fits(a, b):
            forms["whole"] = lambda: back(jax.whole(x, y))
        return forms

    def pairwise(self, weight: Tensor) -> dict[str, Call]:
        return self.cross(weight, weight)

    def redundancy(self, weight: Tensor) -> dict[str, Call]:
        jax, x = functions(), array(weight)
        forms = {"by rows": lambda: back(jax.share_above(jax.by_rows(x, x)))}
        if eager.whole_fits(weight, weight):
            forms["whole"] = lambda: back(jax.share_above(jax.whole(x, x)))
        return forms

    def gradient(self, weight: Tensor) -> dict[str, Call]:
        if not eager.whole_fits(weight, weight):
            return {}
        jax, x, weights = functions(), array(weight), array(weights_of_square(weight.shape[0]))
        return {"whole": lambda: back(jax.gradient(x, weights))}

    def listed(self, weight: Tensor, pairs: Tensor) -> dict[str, Call]:
        jax, x = functions(), array(weight)
        index = functions().asarray(pairs.int().numpy())
        return {"gathered": lambda: back(jax.listed(x, index))}
