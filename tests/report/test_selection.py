from __future__ import annotations

import json

import pytest
from hand_made import ARTEFACT, DEAD, EVERYTHING, NORMS, NOTHING, REPEATS, SINGLE, layer, report

from ckrm_kernels.report.words import verdict

NAMES = [REPEATS.name, ARTEFACT.name, NOTHING.name, DEAD.name, SINGLE.name]


@pytest.mark.parametrize(
    ("sort", "order"),
    [
        ("model", NAMES),
        ("name", [NOTHING.name, REPEATS.name, DEAD.name, SINGLE.name, ARTEFACT.name]),
        ("redundancy", [ARTEFACT.name, REPEATS.name, DEAD.name, NOTHING.name, SINGLE.name]),
        ("scale-free", [REPEATS.name, DEAD.name, ARTEFACT.name, NOTHING.name, SINGLE.name]),
        ("excess", [REPEATS.name, DEAD.name, ARTEFACT.name, NOTHING.name, SINGLE.name]),
        ("distinct", [REPEATS.name, DEAD.name, ARTEFACT.name, NOTHING.name, SINGLE.name]),
        ("dead", [DEAD.name, REPEATS.name, ARTEFACT.name, NOTHING.name, SINGLE.name]),
        ("filters", [REPEATS.name, ARTEFACT.name, NOTHING.name, DEAD.name, SINGLE.name]),
    ],
)
def test_sorting(sort, order):
    layers = EVERYTHING.selected(sort=sort).layers
    assert len(layers) == len(EVERYTHING.layers)
    assert [layer.name for layer in layers if layer.status == "measured"] == order


def test_names_are_sorted_by_their_numbers():
    of = report(*(layer(f"block{i}.conv") for i in (10, 9, 2)))
    assert [each.name for each in of.selected(sort="name").layers] == ["block2.conv", "block9.conv", "block10.conv"]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [("conv_dw", [REPEATS.name]), ("blocks.*.conv_*", [REPEATS.name, NOTHING.name]), ("?tem.conv", [ARTEFACT.name])],
)
def test_a_pattern_is_a_part_of_a_name_or_a_glob(pattern, found):
    chosen = EVERYTHING.selected(pattern)
    assert [each.name for each in chosen.layers] == found
    assert chosen.notes == (f"only the layers whose names fit {pattern!r}, {len(found)} of 49",)


def test_a_name_with_brackets_fits_itself():
    assert len(report(layer("conv[0]"), layer("conv0")).selected("conv[0]").layers) == 2


def test_the_first_layers_leave_what_is_said_of_the_model():
    chosen = EVERYTHING.selected(sort="filters", top=2)
    assert [each.name for each in chosen.layers] == NAMES[:2]
    assert verdict(chosen) == verdict(EVERYTHING) == json.loads(chosen.to_json())["verdict"]
    assert "5 of 49 layers measured." in str(chosen)
    assert "only the first 2 of 5 measured layers, by filters" in str(chosen)
    assert " skipped: " not in str(chosen)


def test_more_than_there_are_is_everything():
    assert EVERYTHING.selected(top=5) == EVERYTHING


def test_a_pattern_narrows_what_is_said():
    assert verdict(EVERYTHING.selected("stem")).startswith(
        "No layer repeats itself beyond chance; in 1 of 1 layer only"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pattern": "nowhere"}, "no layer's name fits the pattern 'nowhere'; names are such as blocks.11.conv_dw, "),
        ({"sort": "size"}, "sort must be one of model, name, redundancy, .*, got 'size'"),
        ({"top": 0}, "top must be at least 1, got 0"),
    ],
)
def test_wrong_selections(arguments, message):
    with pytest.raises(ValueError, match=message):
        EVERYTHING.selected(**arguments)


def test_a_report_without_layers_has_nothing_to_select():
    assert report().selected("x", sort="excess", top=3) == report()
    assert report(*NORMS).selected(top=1).layers == tuple(NORMS)
