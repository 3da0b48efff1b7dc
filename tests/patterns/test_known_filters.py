"""The fixed kernels, as the paper's facts write them out."""

import math

import pytest
import torch

from ckrm_kernels.patterns import edge_detectors, gaussian

BY_HAND = [
    [[-1 / 2, -1, -1 / 2], [0, 0, 0], [1 / 2, 1, 1 / 2]],
    [[-1 / 2, 0, 1 / 2], [-1, 0, 1], [-1 / 2, 0, 1 / 2]],
    [[-1 / 12, -1 / 6, -1 / 12], [-1 / 6, 1, -1 / 6], [-1 / 12, -1 / 6, -1 / 12]],
    [[0, -1 / 4, 0], [-1 / 4, 1, -1 / 4], [0, -1 / 4, 0]],
    [[-1, -2 / 3, -1 / 3], [-2 / 3, 0, 2 / 3], [1 / 3, 2 / 3, 1]],
    [[-1 / 3, -2 / 3, -1], [2 / 3, 0, -2 / 3], [1, 2 / 3, 1 / 3]],
]


def test_edge_detectors():
    torch.testing.assert_close(edge_detectors(), torch.tensor(BY_HAND, dtype=torch.float64), rtol=0, atol=1e-15)
    assert edge_detectors().sum((1, 2)).abs().max() < 1e-15


@pytest.mark.parametrize(("size", "sigma"), [(1, 1), (3, 0.6), (3, 1.1), (4, 0.8), (7, 2)])
def test_gaussian(size, sigma):
    middle = (size - 1) / 2
    density = [
        [math.exp(-((row - middle) ** 2 + (column - middle) ** 2) / (2 * sigma**2)) for column in range(size)]
        for row in range(size)
    ]
    total = sum(map(sum, density))
    expected = torch.tensor(density, dtype=torch.float64) / total
    torch.testing.assert_close(gaussian(size, sigma), expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize(
    ("size", "sigma", "named"),
    [
        (0, 1, "size"),
        (3.5, 1, "size"),
        (3, 0, "sigma"),
        (3, -1, "sigma"),
        (3, math.inf, "sigma"),
        (3, math.nan, "sigma"),
    ],
)
def test_what_is_no_blur(size, sigma, named):
    with pytest.raises(ValueError, match=f"{named} must be"):
        gaussian(size, sigma)
