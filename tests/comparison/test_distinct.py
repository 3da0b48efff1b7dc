import pytest

from ckrm_kernels.comparison.measured_layers import CONFIGURED, SCALE_FREE, Level, MeasuredLayer
from ckrm_kernels.comparison.tables import distinct


@pytest.mark.parametrize(
    ("configured", "scale_free", "shown"),
    [
        ((0.30, 0.05), (0.30, 0.05), "9.5"),  # repeats
        ((0.30, 0.05), (0.05, 0.05), "9.5"),  # of small weights, beyond what permuted slices give
        ((1.00, 1.00), (0.05, 0.05), "–"),  # noqa: RUF001 - the same of permuted slices
        ((0.06, 0.06), (0.06, 0.06), "–"),  # noqa: RUF001 - chance
        ((0.008, 0.0), (0.008, 0.0), "–"),  # noqa: RUF001 - within the target
    ],
)
def test_distinct_filters_are_shown_only_where_lambda_exceeds_chance(configured, scale_free, shown):
    levels = {
        name: Level((value, value), chance)
        for name, (value, chance) in ((CONFIGURED, configured), (SCALE_FREE, scale_free))
    }
    layer = MeasuredLayer("conv", 32, 4, (3, 3), 496, (9, 10), levels, ((496,), (496,)))
    assert distinct(layer) == shown
