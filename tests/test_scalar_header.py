"""lanes.h, power.h, fitted_power.h, index.h of csrc, through a pybind11 module: errors as stated, indices exact."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from extension import load_extension
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from mpmath import mp, mpf

TESTS = Path(__file__).parent
CSRC = TESTS.parent / "csrc"

TINY, LARGEST = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)
DOUBLE = np.finfo(np.float64)
BINADES = np.arange(-1074, 1023)
normal = st.floats(TINY, LARGEST, width=32)
numbers = st.floats(width=32, allow_nan=False)


@pytest.fixture(scope="module")
def header():
    return load_extension(
        "ckrm_scalar_header",
        sources=[str(TESTS / "cpp" / "scalar_header.cpp")],
        extra_include_paths=[str(CSRC)],
        extra_cflags=["-O2", "-ffp-contract=fast", "-fno-math-errno"],
    )


def every_mantissa(exponent: int) -> np.ndarray:
    """All floats of one binade [2^exponent, 2^(exponent + 1))."""
    return (np.arange(2**23, dtype=np.uint32) + np.uint32((exponent + 127) << 23)).view(np.float32)


# ---- logarithm and powers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("exponent", [-126, -60, -2, -1, 0, 1, 40, 127])
def test_log2_of_every_mantissa(header, exponent):
    x = every_mantissa(exponent)
    exact = np.log2(x.astype(np.float64))
    assert np.all(np.abs(header.fast_log2(x) - exact) <= 1.5e-6 * np.abs(exact))


@given(x=normal)
def test_log2_over_the_whole_range(header, x):
    exact = float(np.log2(np.float64(x)))
    assert abs(float(header.fast_log2(x)) - exact) <= 1.5e-6 * abs(exact)


@given(exponent=st.integers(-126, 127))
def test_log2_of_powers_of_two(header, exponent):
    assert float(header.fast_log2(2.0**exponent)) == exponent


def test_exp2_over_the_whole_range(header):
    y = np.concatenate([np.linspace(-126, 127, 2_000_001), np.arange(-126, 127.5, 0.5)]).astype(np.float32)
    exact = np.exp2(y.astype(np.float64))
    assert np.all(np.abs(header.fast_exp2(y) - exact) <= 2.5e-7 * exact)


@given(y=st.floats(-126, 127, width=32))
def test_exp2_at_any_float(header, y):
    exact = float(np.exp2(np.float64(y)))
    assert abs(float(header.fast_exp2(y)) - exact) <= 2.5e-7 * exact


@given(y=st.floats(max_value=-126, width=32))
def test_exp2_stays_normal_below_its_range(header, y):
    assert float(header.fast_exp2(y)) == 2.0**-126


@given(exponent=st.integers(-126, 127))
def test_exp2_of_whole_numbers(header, exponent):
    assert float(header.fast_exp2(exponent)) == 2.0**exponent


POWERS = ["polynomial_power", "power_of_8", "power_of_16"]  # of exponents in [0, 2]
SLOPES = ["polynomial_power", "slope_of_8", "slope_of_16"]  # of exponents in [-1, 1]
FITS = [(name, e) for name in POWERS for e in (0.1, 0.5, 0.97, 1e-3, 1.0, 1.5, 2.0)]
FITS += [(name, e) for name in SLOPES for e in (-0.9, -0.5, -0.999, -1e-3, 0.3)]


def fitted_bound(name: str, exponent: float, exact: np.ndarray) -> np.ndarray:
    """The relative error that the header states."""
    of_power = 1e-6 if name == "polynomial_power" and exponent < 1 else 1.5e-6
    return (6e-6 if exponent < 0 else of_power) + 1e-7 * np.abs(np.log2(exact))


@pytest.mark.parametrize(("name", "exponent"), FITS)
def test_fitted_power_of_every_mantissa(header, name, exponent):
    for binade in (-100, -1, 0, 1) if name == "polynomial_power" else (-100, -1, 0):
        x = every_mantissa(binade)[::7]
        exact = x.astype(np.float64) ** exponent
        error = np.abs(getattr(header, name)(x, exponent) - exact)
        assert np.all(error <= fitted_bound(name, exponent, exact) * exact + 2.0**-124)


@pytest.mark.parametrize("name", sorted({*POWERS, *SLOPES}))
@given(data=st.data())
@settings(max_examples=300)
def test_fitted_power_over_the_whole_range(header, name, data):
    of_tables = st.floats(2.0**-111, 2, exclude_max=True, width=32)
    x = data.draw(normal if name == "polynomial_power" else of_tables)
    exponent = data.draw(st.floats(-1 if name in SLOPES else 0, 2 if name in POWERS else 1))
    exact = np.float64(x) ** exponent
    assume(exact <= 2.0**126)
    actual = float(getattr(header, name)(np.float32([x]), exponent)[0])
    assert abs(actual - exact) <= fitted_bound(name, exponent, exact) * exact + 2.0**-124


@pytest.mark.parametrize("name", sorted({*POWERS, *SLOPES}))
@given(exponent=st.floats(-1, 2))
def test_fitted_power_of_1_is_exact(header, name, exponent):
    """Alike slices have L = 1."""
    assert getattr(header, name)(np.ones(1, np.float32), exponent)[0] == 1


@pytest.mark.parametrize("name", sorted({*POWERS, *SLOPES}))
def test_fitted_power_of_0(header, name):
    for exponent in (0.1, 2.0, -0.5, 0.0):
        assert getattr(header, name)(np.zeros(1, np.float32), exponent)[0] == (exponent == 0)


def test_powers_of_0_are_0(header):
    for exponent in (0.1, 2.5):
        for of_type in (header.float32, header.float64):
            assert of_type.positive_power(0.0, exponent) == 0
            assert of_type.unit_power(0.0, exponent) == 0
    assert header.float32.unit_power(0.0, 0.0) == header.float64.unit_power(0.0, 0.0) == 1


@given(x=st.floats(2.0**-40, 1, width=32), exponent=st.floats(2.0**-10, 3, width=32))
@settings(max_examples=300)
def test_positive_power(header, x, exponent):
    """Relative error: that of exp2, plus exponent |log2 x| ln 2 times that of log2 and of a rounded product."""
    exact = np.float64(x) ** np.float64(exponent)
    logarithm = abs(np.float64(exponent) * np.log2(np.float64(x)))
    bound = 2.5e-7 + np.log(2) * logarithm * (1.5e-6 + 2.0**-24)
    for power in ("positive_power", "unit_power"):
        actual = float(getattr(header.float32, power)(x, exponent))
        assert abs(actual - exact) <= max(1.01 * bound * exact, 2.0**-126)
        assert float(getattr(header.float64, power)(x, exponent)) == pytest.approx(float(exact), rel=1e-14)


# mantissas on both sides of where log2 changes its exponent, of 1 and of 2
EDGES = [1.0, 0.5**0.5, float(np.nextafter(0.5**0.5, 1)), 1 + 2.0**-52, 2 - 2.0**-52]
doubles = st.floats(0, exclude_min=True, allow_infinity=False) | st.builds(
    np.ldexp, st.sampled_from(EDGES), st.integers(-1074, 1023)
)
EXPONENTS_OF_DOUBLES = [0.1, -0.9, 0.5, -1.0, 1e-6, 2.5, -2.5, 20.0, -1000.0]


def assert_power_within_bound(actual: float, x: float, exponent: float, least: int = -1074) -> None:
    """The error that the header states, 2^least of it absolute, against 40 digits."""
    with mp.workdps(40):
        exact = mpf(float(x)) ** mpf(exponent)
        allowed = exact * mpf(2) ** -52 * (1 + abs(exponent)) + mpf(2) ** least
        if np.isinf(actual):
            assert exact + allowed > DOUBLE.max
        else:
            assert abs(mpf(float(actual)) - exact) <= allowed


@given(x=doubles, exponent=st.sampled_from(EXPONENTS_OF_DOUBLES) | st.floats(-50, 50).filter(bool))
@settings(max_examples=300)
def test_accurate_power_of_any_double(header, x, exponent):
    assert_power_within_bound(header.accurate_power(x, exponent), x, exponent)


@given(x=st.floats(2.0**-1000, 2.0**1000), exponent=st.sampled_from([0.1, -0.9]) | st.floats(-1, 1))
@settings(max_examples=300)
def test_normal_power_of_a_normal_double(header, x, exponent):
    assert_power_within_bound(header.normal_power(x, exponent), x, exponent)


@given(
    x=st.floats(0, 2) | st.builds(np.ldexp, st.sampled_from(EDGES), st.integers(-1074, 0)),
    exponent=st.sampled_from([0.0, 0.1, 0.5, 1.0, 2.5, 1e-6, 1000.0, 1e300]) | st.floats(0, 50),
)
@settings(max_examples=300)
def test_power_of_a_fraction(header, x, exponent):
    assume(x <= 1 or exponent <= 1000)
    assert_power_within_bound(header.power_of_fraction(x, exponent), x, exponent, least=-1000)


@pytest.mark.parametrize("exponent", [0.0, 0.1, 1.0, 2.5, 1e300])
def test_power_of_a_fraction_at_the_ends(header, exponent):
    assert header.power_of_fraction(0.0, exponent) == (exponent == 0)
    assert header.power_of_fraction(1.0, exponent) == 1
    assert np.isnan(header.power_of_fraction(np.nan, exponent))


@pytest.mark.skipif(np.finfo(np.longdouble).eps > 2.0**-63, reason="no longer double to compare with")
@pytest.mark.parametrize("exponent", EXPONENTS_OF_DOUBLES)
def test_powers_of_every_binade_of_doubles(header, exponent):
    rng = np.random.default_rng(0)
    bits = rng.integers(1, 0x7FF << 52, 100_000), rng.integers(1, 1 << 52, 1000)  # all, and the subnormal ones
    x = np.concatenate([np.concatenate(bits).view(np.float64), np.ldexp(np.array(EDGES)[:, None], BINADES).ravel()])
    with np.errstate(over="ignore"):
        exact = x.astype(np.longdouble) ** np.longdouble(exponent)
    bound = exact * np.longdouble(2.0**-52) * (1 + abs(exponent)) + np.longdouble(DOUBLE.smallest_subnormal)
    fits, too_large = exact + bound < DOUBLE.max, exact / 2 > DOUBLE.max
    powers = header.accurate_power(x, exponent)
    assert np.all(np.abs(powers[fits] - exact[fits]) <= bound[fits])
    assert np.all(np.isinf(powers[too_large]))
    if abs(exponent) <= 1:
        normal = (x > 2.0**-1000) & (x < 2.0**1000)
        assert np.all(np.abs(header.normal_power(x[normal], exponent) - exact[normal]) <= bound[normal])


@pytest.mark.parametrize("exponent", EXPONENTS_OF_DOUBLES)
def test_accurate_power_at_the_ends(header, exponent):
    at = {x: float(header.accurate_power(x, exponent)) for x in (0.0, 1.0, np.inf)}
    assert at == {0.0: 0.0, 1.0: 1.0, np.inf: np.inf if exponent > 0 else 0.0}
    assert np.isnan(header.accurate_power(np.nan, exponent))
    if abs(exponent) <= 1:
        assert header.normal_power(0.0, exponent) == 0
        assert header.normal_power(1.0, exponent) == 1


@given(x=st.floats(0, 1, width=32))
def test_power_of_the_exponents_that_need_none(header, x):
    for of_type in (header.float32, header.float64):
        assert float(of_type.power(x, 0.0)) == 1
        assert float(of_type.power(x, 1.0)) == x


# ---- lanes -----------------------------------------------------------------------------------------------------------


@given(x=numbers, y=numbers)
@settings(max_examples=300)
def test_signs_and_maximum(header, x, y):
    for of_type in (header.float32, header.float64):
        assert float(of_type.absolute(x)) == abs(x)
        assert np.copysign(1, of_type.absolute(x)) == 1
        assert float(of_type.maximum(x, y)) == max(x, y)
        signed = of_type.apply_sign(x, y)
        assert float(signed) == (-x if np.signbit(y) else x)
        assert np.signbit(signed) == (np.signbit(x) ^ np.signbit(y))


@given(x=st.floats(-(2.0**60), 2.0**60, width=32), y=st.floats(2.0**-60, 2.0**60, width=32))
def test_ratio_and_inverse(header, x, y):
    for of_type in (header.float32, header.float64):
        assert float(of_type.ratio_or_one(x, y)) == pytest.approx(x / y, rel=2e-7)
        assert float(of_type.inverse_or_zero(y)) == pytest.approx(1 / y, rel=2e-7)


@pytest.mark.parametrize("x", [0.0, -0.0, 1.0, -3.0])
@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_ratio_and_inverse_of_zero(header, x, zero):
    for of_type in (header.float32, header.float64):
        assert of_type.ratio_or_one(x, zero) == 1
        assert of_type.inverse_or_zero(zero) == 0


# ---- index arithmetic ------------------------------------------------------------------------------------------------

LARGEST_FILTERS = 2**20


@pytest.mark.parametrize("n", [2, 3, 4, 7, 33, 65])
def test_every_pair(header, n):
    for index, (i, j) in enumerate(itertools.combinations(range(n), 2)):
        assert header.pair_index(i, j, n) == index
        assert header.pair_of_index(index, n) == (i, j)


def index_by_rows(i: int, j: int, n: int) -> int:
    """Pairs in the rows above, plus those before j in row i, in exact integers."""
    return sum_of_rows(n) - sum_of_rows(n - i) + j - i - 1


def sum_of_rows(n: int) -> int:
    return n * (n - 1) // 2


@given(n=st.integers(2, LARGEST_FILTERS) | st.integers(LARGEST_FILTERS - 3, LARGEST_FILTERS), data=st.data())
@settings(max_examples=300)
def test_pair_index_and_back(header, n, data):
    i = data.draw(st.integers(0, n - 2) | st.integers(max(0, n - 5), n - 2))
    for j in {i + 1, data.draw(st.integers(i + 1, n - 1)), n - 1}:  # the ends of a row are where rounding would show
        index = index_by_rows(i, j, n)
        assert header.pair_index(i, j, n) == index
        assert header.pair_of_index(index, n) == (i, j)


@given(n=st.integers(2, LARGEST_FILTERS), data=st.data())
@settings(max_examples=300)
def test_pair_of_any_index(header, n, data):
    index = data.draw(st.integers(0, sum_of_rows(n) - 1))
    i, j = header.pair_of_index(index, n)
    assert 0 <= i < j < n
    assert index_by_rows(i, j, n) == index


@pytest.mark.parametrize("n", [2**20 - 1, 2**20, 2**26, 2**30])
def test_pairs_of_the_widest_layers(header, n):
    for i in (0, 1, n // 2, n - 3, n - 2):
        for j in (i + 1, n - 1):
            index = index_by_rows(i, j, n)
            assert header.pair_index(i, j, n) == index
            assert header.pair_of_index(index, n) == (i, j)


@pytest.mark.parametrize("n", [1, 2, 3, 8, 33])
def test_every_tile_once_in_row_order(header, n):
    tiles = [(row, column) for row in range(n) for column in range(row, n)]
    assert header.triangle_tiles(n) == len(tiles)
    assert [header.triangle_tile(index, n) for index in range(len(tiles))] == tiles
    assert sorted(header.folded_tile(index, n) for index in range(len(tiles))) == tiles


@given(n=st.integers(1, LARGEST_FILTERS), data=st.data())
@settings(max_examples=200)
def test_tile_of_any_index(header, n, data):
    assert header.triangle_tiles(n) == n * (n + 1) // 2
    row = data.draw(st.integers(0, n - 1))
    before = n * (n + 1) // 2 - (n - row) * (n - row + 1) // 2
    for column in {row, data.draw(st.integers(row, n - 1)), n - 1}:
        assert header.triangle_tile(before + column - row, n) == (row, column)
