"""The scalars of psi in a configuration, and in words."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ckrm_kernels import pairwise_psi, reference
from ckrm_kernels.options import resolve
from ckrm_kernels.similarity import Similarity, written


@pytest.mark.parametrize(
    ("psi", "words"),
    [
        (Similarity(), "eps 1e-4 absolute"),
        (Similarity(eps=1e-3, scale_free=True), "eps 1e-3 relative to each layer's scale"),
        (Similarity(alpha=1.0), "alpha 1, eps 1e-4 absolute"),
        (Similarity(beta=0.5, gamma=2.0, eps=0.0), "beta 0.5, gamma 2, eps 0"),
        (Similarity(eps=2.5e-7), "eps 2.5e-7 absolute"),
    ],
)
def test_in_words(psi, words):
    assert psi.in_words() == words


@pytest.mark.parametrize(
    "psi", [Similarity(), Similarity(eps=0.0), Similarity(scale_free=True), Similarity(eps=0.0, scale_free=True)]
)
def test_whether_it_depends_on_scale(psi):
    weight = torch.randn(6, 2, 3, 3, dtype=torch.float64)
    differs = not torch.allclose(pairwise_psi(weight, **psi.options()), pairwise_psi(1e-2 * weight, **psi.options()))
    assert psi.depends_on_scale == differs


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (1, "1"), (0.25, "0.25"), (0.01, "0.01"), (0.001, "1e-3"), (1.5e-5, "1.5e-5"), (2e4, "2e4")],
)
def test_numbers_keep_all_their_digits(number, text):
    assert written(number) == text
    assert float(text) == number


def test_the_options_are_those_of_the_functions_on_weights():
    weight, psi = torch.randn(5, 2, 3, 3, dtype=torch.float64), Similarity("psi", 1.0, 0.5, 2.0, 1e-2, scale_free=True)
    unit = weight / weight.square().mean().sqrt()
    expected = reference.pairwise_psi(unit, Similarity("psi", 1.0, 0.5, 2.0, 1e-2))
    torch.testing.assert_close(pairwise_psi(weight, **psi.options()), expected)
    assert resolve({**psi.options(), "backend": "reference"}, "measure") == (psi, "reference")
    assert resolve({"eps": 1}, "measure") == (Similarity(eps=1.0), None)


def test_any_number_becomes_a_plain_float():
    psi = Similarity(alpha=1, eps=np.float32(0.5))
    assert [type(value) for value in psi.options().values()] == [str] + [float] * 4 + [bool] * 2


@pytest.mark.parametrize("name", ["alpha", "beta", "gamma", "eps"])
@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
def test_numbers_refused(name, value):
    with pytest.raises(ValueError, match=rf"{name} must be a finite number >= 0, got {value}"):
        Similarity(**{name: value})


def test_what_is_no_number_is_refused():
    with pytest.raises(TypeError, match="eps must be a finite number >= 0, got 'small'"):
        Similarity(eps="small")
