"""docs/studies/vgnet.md: its table is that of the numbers beside it."""

import csv
import json
import re
import statistics
from pathlib import Path

import pytest
from scipy import stats

from ckrm_kernels.models.vgnet import VARIANTS

MINUS = "\N{MINUS SIGN}"
STUDIES = Path(__file__).parents[2] / "docs" / "studies"
FOUND = {each["variant"]: each for each in json.loads((STUDIES / "vgnet.json").read_text())["variants"]}
ROWS = {
    line.split(" | ")[0].removeprefix("| VGNet").lower(): line.split(" | ")
    for line in (STUDIES / "vgnet.md").read_text().splitlines()
    if line.startswith("| VGNet") and len(line.split(" | ")) == 8
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_page_has_the_numbers_of_the_file(variant):
    _, downsampling, mixing, last, parameters, accuracy, difference, _ = ROWS[variant]
    assert {"downsampling": downsampling, "mixing": mixing, "last": last} == FOUND[variant]["kernels"]
    values = FOUND[variant]["accuracies"]
    assert parameters == f"{FOUND[variant]['parameters']:,}"
    assert accuracy == f"{statistics.fmean(values):.4f} ± {statistics.stdev(values):.4f}"
    if variant != "c":
        interval = stats.ttest_rel(values, FOUND["c"]["accuracies"]).confidence_interval(0.95)
        numbers = [sign + digits for sign, digits in re.findall(r"(\W)(0\.\d+)", difference)]
        found = [float(each.replace(MINUS, "-")) for each in numbers]
        assert found[1:] == pytest.approx([interval.low, interval.high], abs=5e-5)


def test_differences_from_networks_with_norms():
    rows = csv.DictReader((STUDIES / "vgnet_norms.csv").read_text().splitlines())
    with_norms = [float(row["accuracy"]) for row in rows]
    page = (STUDIES / "vgnet.md").read_text().replace(MINUS, "-")
    for name, first, second in (
        ("VGNetG with norms less VGNetG", with_norms, FOUND["g"]["accuracies"]),
        ("VGNetF1 less VGNetG with norms", FOUND["f1"]["accuracies"], with_norms),
        ("VGNetF3 less VGNetG with norms", FOUND["f3"]["accuracies"], with_norms),
    ):
        test = stats.ttest_rel(first, second)
        low, high = test.confidence_interval(0.95)
        mean = statistics.fmean(first) - statistics.fmean(second)
        assert f"| {name} | {mean:+.4f} [{low:+.4f}, {high:+.4f}] | {test.pvalue:.3f} |" in page


def test_what_is_said_to_be_told_apart_is():
    p = {
        variant: stats.ttest_rel(FOUND[variant]["accuracies"], FOUND["c"]["accuracies"]).pvalue
        for variant in VARIANTS
        if variant != "c"
    }
    assert {variant: round(value, 3) for variant, value in p.items() if variant != "f1"} == {
        "g": 0.038,
        "f2": 0.046,
        "f3": 0.008,
        "f4": 0.002,
    }
    assert p["f1"] > 0.05
