from __future__ import annotations

import csv
import io
import math

from ckrm_kernels.presentation.tables import aligned, csv_text, short_names, together

HEAD = ("name", "count", "note")
ROWS = [HEAD, ("a", "1,000", ""), ("longer", "2", "a note")]


def test_words_stand_to_the_left_and_numbers_to_the_right():
    assert aligned(ROWS, [1]).splitlines() == [
        "name    count  note",
        "a       1,000",
        "longer      2  a note",
    ]


def test_a_rule_below_the_head():
    assert aligned(ROWS, [1], rule=True).splitlines()[1] == "------  -----  ------"
    assert aligned([HEAD], [], rule=True).splitlines() == ["name  count  note", "----  -----  ----"]


def test_long_names_are_cut_where_they_can_still_be_told_apart():
    assert short_names(["abc", "abcdefghijklmno"], 9) == ["abc", "abc…klmno"]
    begin = [f"stage{number}.block.with.a.name" for number in range(9)]
    middle = [f"a.name.of.stage{number}.with.more.behind.it" for number in range(9)]
    end = [f"a.long.name.of.stage.{number}" for number in range(9)]
    for names in (begin, middle, end):
        short = short_names(names, 18)
        assert {len(name) for name in short} == {18}
        assert len(set(short)) == 9
    assert short_names(["abc", "abd"], 1) == ["…", "…"]


def test_csv_reads_back_as_it_was():
    values = [0.1, 1 / 3, math.pi * 1e-300]
    text = csv_text(["name", "x", "all"], [["a,\n\"b'", values[1], together(values)], ["", None, ""]])
    head, first, second = csv.reader(io.StringIO(text))
    assert head == ["name", "x", "all"]
    assert first[0] == "a,\n\"b'"
    assert float(first[1]) == values[1]
    assert [float(value) for value in first[2].split()] == values
    assert second == ["", "", ""]
