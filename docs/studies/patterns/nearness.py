"""Which similarity of slices tells patterns apart, and how often random kernels look like one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ckrm_kernels import cross_psi, match_patterns
from ckrm_kernels.patterns.bank import names_of, patterns_of

RANDOM, NOISE = 100_000, (0.3, 0.45)
SIMILARITIES: dict[str, dict[str, Any]] = {
    "cosine": {"similarity": "cosine"},
    "psi, eps 1e-4": {},
    "psi, eps 0.1": {"eps": 0.1},
    "psi, eps 1": {"eps": 1.0},
    "psi without luminance, eps 0.1": {"alpha": 0.0, "eps": 0.1},
    "psi with alpha 1, eps 1": {"alpha": 1.0, "eps": 1.0},
}
SIZES = ((2, 2), (3,), (5,), (3, 3), (4, 4), (5, 5), (7, 7))
THRESHOLDS = (0.8, 0.85, 0.9, 0.95)


def similarities() -> list[dict[str, Any]]:
    """Of noisy 3x3 patterns, the shares that go to their pattern, to another and to none.

    Each similarity has the threshold that one random kernel in a hundred exceeds with any pattern. All kernels have a
    root mean square of 1, so that eps is relative; the noise is normal, of a standard deviation relative to that.
    """
    generator = torch.Generator().manual_seed(0)
    patterns = patterns_of(None, names_of(None, True), (3, 3))
    bank = _of_unit_scale(torch.cat([pattern.kernels for pattern in patterns]).unsqueeze(1))
    owners = torch.tensor([place for place, pattern in enumerate(patterns) for _ in pattern.kernels])
    random = _of_unit_scale(torch.randn(RANDOM, 1, 3, 3, generator=generator).double())
    chosen = torch.randint(len(patterns), (RANDOM,), generator=generator)
    first = torch.tensor([int((owners == place).nonzero()[0]) for place in range(len(patterns))])
    noise = torch.randn(RANDOM, 1, 3, 3, generator=generator).double()
    rows = []
    for name, options in SIMILARITIES.items():
        limit = cross_psi(random, bank, signed=True, **options).amax(1).quantile(0.99)
        row: dict[str, Any] = {"similarity": name, "threshold": limit.item()}
        for level in NOISE:
            noisy = _of_unit_scale(bank[first[chosen]] + level * noise)
            nearness, nearest = cross_psi(noisy, bank, signed=True, **options).max(1)
            is_right, is_near = owners[nearest] == chosen, nearness > limit
            row[f"right at {level:g}"] = (is_right & is_near).double().mean().item()
            row[f"wrong at {level:g}"] = (~is_right & is_near).double().mean().item()
        rows.append(row)
    return rows


def random_kernels() -> list[dict[str, Any]]:
    """The share of random kernels, normal and uniform, near to a pattern at several thresholds, by their size."""
    generator = torch.Generator().manual_seed(0)
    rows = []
    for size in SIZES:
        normal = torch.randn(RANDOM, 1, *size, generator=generator)
        uniform = torch.rand(RANDOM, 1, *size, generator=generator) - 0.5
        row: dict[str, Any] = {"size": "x".join(map(str, size))}
        for threshold in THRESHOLDS:
            row[f"{threshold:g}"] = [1 - _none(weight, threshold) for weight in (normal, uniform)]
        rows.append(row)
    return rows


def _none(weight: Tensor, threshold: float) -> float:
    shares = match_patterns(weight, threshold=threshold).layers[0].shares
    assert shares is not None
    return shares["none"]


def _of_unit_scale(kernels: Tensor) -> Tensor:
    return kernels / kernels.square().mean((1, 2, 3), keepdim=True).sqrt()
