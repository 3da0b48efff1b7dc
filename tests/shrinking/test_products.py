"""Products of rows with themselves, against the plain product."""

from __future__ import annotations

import pytest
import torch

from ckrm_kernels.shrinking.products import add_products, mirror


@pytest.mark.parametrize("columns", [1, 5, 300, 600])
@pytest.mark.parametrize("groups", [1, 2])
def test_the_sum_of_products_is_that_of_all_rows(columns, groups):
    x = torch.randn(groups, 7, columns, dtype=torch.float64)
    total = torch.zeros(groups, columns, columns, dtype=torch.float64)
    for part in x.split(3, 1):
        add_products(total, part)
    found = mirror(total)
    torch.testing.assert_close(found, x.mT @ x, atol=1e-13, rtol=1e-13)
    assert torch.equal(found, found.mT)
