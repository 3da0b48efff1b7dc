"""docs/studies/networks: its tables are those of the numbers beside it."""

import runpy
import statistics
from pathlib import Path
from types import SimpleNamespace

import pytest
from scipy import stats

FOLDER = Path(__file__).parents[2] / "docs" / "studies" / "networks"
STUDY = SimpleNamespace(**runpy.run_path(str(FOLDER / "networks.py")))
PAGE = (FOLDER / "index.md").read_text()
ROWS = STUDY.read_rows()


def accuracies(name):
    return [row.accuracy for row in ROWS if row.network == name]


def test_the_page_has_the_tables_of_the_file():
    assert list(STUDY.by_network(ROWS)) == list(STUDY.NAMES.values())
    assert all([row.seed for row in of] == list(range(5)) for of in STUDY.by_network(ROWS).values())
    beside = [STUDY.differences(ROWS, name) for name in (STUDY.STANDARD, STUDY.SEARCHED)]
    assert all(table in PAGE for table in (STUDY.qualities(ROWS), STUDY.redundancies(ROWS), *beside))


def test_the_numbers_of_a_line_by_their_definitions():
    line = next(each for each in PAGE.splitlines() if each.startswith("| VGNetF3 |"))
    values = accuracies("VGNetF3")
    assert f"| {statistics.fmean(values):.4f} ± {statistics.stdev(values):.4f} |" in line
    theirs = stats.ttest_rel(values, accuracies(STUDY.SEARCHED))
    low, high = theirs.confidence_interval(0.95)
    lines = STUDY.differences(ROWS, STUDY.SEARCHED).replace("\N{MINUS SIGN}", "-").splitlines()
    found = next(each for each in lines if each.startswith("| VGNetF3 |"))
    mean = statistics.fmean(values) - statistics.fmean(accuracies(STUDY.SEARCHED))
    assert f"| {mean:+.4f} [{low:+.4f}, {high:+.4f}] |" in found


def test_rows_of_a_comparison():
    def layer(pairs, *shares):
        levels = {
            "configured": {"per_model": shares, "chance": 0.5},
            "scale_free": {"per_model": [0.25], "chance": 0.0},
        }
        return {"pairs": pairs, "levels": levels}

    networks = [
        {
            "name": name,
            "parameters": 7,
            "multiply_adds": 9,
            "scores": [{"accuracy": 0.5, "auc": 0.75}] * 2,
            "layers": [layer(1, 0.0, 1.0), layer(3, 1.0, 1.0)],
        }
        for name in reversed(STUDY.NAMES)
    ]
    seconds = dict.fromkeys(STUDY.NAMES, 0.25)
    latencies = [{"device": "CPU, 1 thread", "batch": batch, "seconds": seconds} for batch in (1, 64)]
    rows = STUDY.rows_of({"networks": networks, "latencies": latencies})
    assert [row.network for row in rows[::2]] == list(STUDY.NAMES.values())
    row = rows[1]
    assert (row.seed, row.parameters, row.accuracy, row.auc, row.milliseconds_of_64) == (1, 7, 0.5, 0.75, 250.0)
    expected = (0.875, 0.5, 0.25, 0.0)  # (0.5 of 1 pair and all of 3) of 4
    assert (row.redundancy, row.chance, row.scale_free_redundancy, row.scale_free_chance) == pytest.approx(expected)
