"""The table of networks compared."""

import pytest

from ckrm_kernels.comparison import tables
from ckrm_kernels.comparison.candidates import Candidate
from ckrm_kernels.training import Score


def table_of(*widths):
    candidates = [
        Candidate(f"n{place}", each, 10, 20, 30, (Score(0.9, 0.95),), ()) for place, each in enumerate(widths)
    ]
    return [line.split() for line in tables.as_text([tables.compared(candidates, [])]).splitlines()]


def words(lines):
    return " ".join(word for line in lines for word in line)


@pytest.mark.parametrize(
    ("widths", "rows"),
    [
        (({"a": 4, "b": 8}, {"a": 3, "b": 5}), [["a", "4", "3"], ["b", "8", "5"]]),
        (({"a": 4}, {"a": 3, "c": 5}), [["a", "4", "3"], ["c", "5"]]),
        (({"a": 4}, {}), [["a", "4"]]),  # the second's differ between its seeds
    ],
)
def test_widths_are_listed_where_each_network_shares_a_name_with_the_first(widths, rows):
    lines = table_of(*widths)
    assert [line for line in lines if line and line[0] in "abc"] == rows
    assert words(lines).startswith("Widths, cost, and quality on held-out data")


def test_widths_of_which_no_name_is_shared_are_left_out_with_a_word():
    lines = table_of({"a": 4}, {"a": 3}, {"b": 5}, {})
    assert not [line for line in lines if line and line[0] in "ab"]
    assert words(lines).startswith("Cost and quality on held-out data")
    assert words(lines).endswith("without widths, for not all of the networks share names of them")


def test_four_networks_take_a_second_table():
    heads = [line for line in table_of(*[{"a": 4}] * 4) if line and line[0].startswith("n")]
    assert heads == [["n0", "n1", "n2"], ["n3"]]
