"""Ridge regressions against numpy's least squares, by sums and by rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ckrm_kernels.shrinking.least_squares import Rows, Sums


def drawn(rows: int, columns: int, targets: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 2, columns, generator=generator, dtype=torch.float64) + 3
    return x, torch.randn(rows, 2, targets, generator=generator, dtype=torch.float64) - 1


@pytest.mark.parametrize("centred", [True, False])
def test_a_tiny_ridge_is_least_squares(centred: bool) -> None:
    x, t = drawn(40, 5, 3)
    rows = Sums()
    rows.add(x[:7], t[:7])
    rest = rows.alike()
    rest.add(x[7:], t[7:])
    problem = rows.joined(rest).problem(centred)
    found = problem.solved(torch.ones(2, 3, 5, dtype=torch.float64), 1e-13)
    constant = problem.constant(found)
    for group in range(2):
        design = np.hstack([x[:, group], np.ones((40, 1))]) if centred else x[:, group].numpy()
        solution = np.linalg.lstsq(design, t[:, group].numpy(), rcond=None)[0]
        np.testing.assert_allclose(found[group].T, solution[:5], atol=1e-8)
        np.testing.assert_allclose(constant[group], solution[5] if centred else np.zeros(3), atol=1e-8)
    residual = t - torch.einsum("rgc,gtc->rgt", x, found) - constant
    share = float(residual.square().mean(0).sum() / t.var(0, correction=0).sum())
    assert problem.share(found, constant) == pytest.approx(share, rel=1e-9)


@settings(max_examples=20, deadline=None)
@given(
    rows=st.integers(2, 12),
    columns=st.integers(1, 12),
    ridge=st.sampled_from([1e-3, 1.0]),
    centred=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_sums_and_rows_are_the_same_regression(rows: int, columns: int, ridge: float, centred: bool, seed: int) -> None:
    x, t = drawn(rows, columns, 2, seed)
    around = torch.randn(2, 2, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    found = []
    for kind in (Sums, Rows):
        held = kind()
        held.add(x, t)
        problem = held.problem(centred)
        matrix = problem.solved(around, ridge)
        share = problem.share(matrix, t.new_full((2, 2), float(centred)))
        found.append((matrix, problem.constant(matrix), torch.tensor(share)))
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two, atol=1e-8, rtol=1e-8)


def test_a_large_ridge_stays_where_it_was() -> None:
    x, t = drawn(20, 4, 2)
    around = torch.ones(2, 2, 4, dtype=torch.float64)
    for kind in (Sums, Rows):
        held = kind()
        held.add(x, t)
        torch.testing.assert_close(held.problem(True).solved(around, 1e9), around, atol=1e-6, rtol=0)


def test_what_varies_little_about_a_large_mean_keeps_its_digits() -> None:
    x, _ = drawn(200, 2, 1)
    x = 1e6 + 1e-2 * x
    t = 2 * x[:, :, :1] - x[:, :, 1:]
    held = Sums()
    held.add(x, t)
    found = held.problem(True).solved(torch.zeros(2, 1, 2, dtype=torch.float64), 1e-12)
    torch.testing.assert_close(found, torch.tensor([[[2.0, -1.0]], [[2.0, -1.0]]]).double(), atol=1e-6, rtol=0)


def test_a_column_that_never_varies_keeps_its_weight() -> None:
    x, t = drawn(20, 3, 2)
    x[:, :, 1] = 5
    around = torch.full((2, 2, 3), 7.0, dtype=torch.float64)
    for kind in (Sums, Rows):
        held = kind()
        held.add(x, t)
        for ridge in (0.0, 1e-3):
            found = held.problem(True).solved(around, ridge)
            torch.testing.assert_close(found[:, :, 1], around[:, :, 1], atol=1e-6, rtol=0)
            assert bool(torch.isfinite(found).all())


def test_the_share_of_targets_that_do_not_vary() -> None:
    x, _ = drawn(20, 3, 2)
    t = torch.full((20, 2, 2), 4.0, dtype=torch.float64)
    for kind in (Sums, Rows):
        held = kind()
        held.add(x, t)
        problem, none = held.problem(True), torch.zeros(2, 2, 3, dtype=torch.float64)
        assert problem.share(none, problem.constant(none)) == pytest.approx(0.0, abs=1e-3)
        assert problem.share(none, torch.zeros(2, 2, dtype=torch.float64)) > 1e3


def test_of_targets_that_are_all_zero_the_error_is_absolute() -> None:
    x, _ = drawn(20, 3, 2)
    for kind in (Sums, Rows):
        held = kind()
        held.add(x, torch.zeros(20, 2, 2, dtype=torch.float64))
        problem, none = held.problem(True), torch.zeros(2, 2, 3, dtype=torch.float64)
        assert problem.share(none, torch.zeros(2, 2, dtype=torch.float64)) == 0.0
        assert problem.share(none, torch.full((2, 2), 3.0, dtype=torch.float64)) == pytest.approx(4 * 9)
