from __future__ import annotations

from ckrm_kernels.presentation.numbers import duration, percent, signed, size, times


def test_numbers_as_written():
    assert [percent(part, 1000) for part in (5.4, 90, 541, 999, 1000)] == ["0.54%", "9.0%", "54.1%", "100%", "100%"]
    assert [signed(value) for value in (0.00001, -0.00001, 0.5, -0.5)] == ["0.0000", "0.0000", "+0.5000", "−0.5000"]  # noqa: RUF001
    assert signed(-0.04, 1) == "0.0"
    assert [size(number) for number in (500, 118_800, 1_250_000)] == ["0.5 kB", "118.8 kB", "1.2 MB"]
    assert [duration(seconds) for seconds in (2.5, 0.0181, 0.000432)] == ["2.5 s", "18.1 ms", "432 µs"]
    assert times((12, 6, 3, 3)) == "12×6×3×3"  # noqa: RUF001
