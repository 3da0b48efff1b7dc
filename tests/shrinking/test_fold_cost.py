"""What the fold is said to take, against what it holds and how often networks run."""

from __future__ import annotations

import pytest
import torch
from chains import chain
from torch import nn

from ckrm_kernels.shrinking import fold_cost, forward_passes
from ckrm_kernels.shrinking.fold_cost import Cost, RegressionSize, cost
from ckrm_kernels.shrinking.inputs import Inputs
from ckrm_kernels.shrinking.surgery import without

INPUTS = Inputs((torch.randn(2, 2, 6, 6),))
SUMS = 6 * 8 * (9 * 4) ** 2  # six float64 matrices of the columns that stay
OUTPUTS = 8192 * (5 * 4 + 8)  # rows of five float32 filters, and their positions
HELD = 2 * 4 * 4 * 4 * 4  # two inputs, four filters of 4x4 positions in float32


def networks() -> tuple[nn.Module, nn.Module, tuple]:
    model = nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 3), nn.ReLU(), nn.Conv2d(5, 4, 1))
    graph, removed = chain(model, "0", "2", "4"), {"0": (0, 1)}
    return model, without(model, graph, removed), (graph, removed)


def test_memory_is_of_sums_of_what_the_original_gives_and_of_passes_that_wait(monkeypatch) -> None:
    model, small, given = networks()
    assert cost(model, small, *given, INPUTS, 10, 4).memory == SUMS + OUTPUTS + 10 * HELD
    monkeypatch.setattr(forward_passes, "AT_ONCE", 3 * HELD)
    assert cost(model, small, *given, INPUTS, 10, 4).memory == SUMS + OUTPUTS + 3 * HELD


def test_no_more_passes_are_held_than_wait(monkeypatch) -> None:
    model, small, given = networks()
    monkeypatch.setattr(forward_passes, "MOST_WAITING", 2)
    assert cost(model, small, *given, INPUTS, 10, 5).memory == SUMS + OUTPUTS + 4 * HELD


@pytest.mark.parametrize(("waiting", "small_passes"), [(4, 1), (2, 1.25), (0, 1.5)])
def test_time_is_of_passes_and_products(waiting: float, small_passes: float, monkeypatch) -> None:
    model, small, given = networks()
    monkeypatch.setattr(forward_passes, "AT_ONCE", waiting * HELD)
    monkeypatch.setattr(fold_cost, "_timed", lambda call, device: (call(), 1.0)[1])
    monkeypatch.setattr(fold_cost, "_seconds_of_a_product", lambda device: 1e-6)
    rows, columns, targets = 8, 36, 5  # four times two inputs of one position
    products = rows * columns * (5 / 8 * columns + targets) + 5 * (columns**3 / 6 + 3 * columns**2 * targets)
    found = cost(model, small, *given, INPUTS, 4, 4)
    assert found.seconds == pytest.approx(4 * (1 + small_passes) + 1e-6 * products)


def test_products_are_of_as_many_rows_as_suffice() -> None:
    rows, columns, targets = 8192, 36, 5
    summed = rows * columns * (5 / 8 * columns + targets)
    solved = 5 * (columns**3 / 6 + 3 * columns**2 * targets)
    assert RegressionSize(3, columns, targets, 4).multiply_adds(10**6) == pytest.approx(3 * (summed + solved))


def test_nothing_takes_nothing() -> None:
    model, _, (graph, _) = networks()
    assert cost(model, model, graph, {}, INPUTS, 4, 4) == Cost(0.0, 0)
