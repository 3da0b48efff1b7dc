"""The report as text."""

from __future__ import annotations

import statistics
from dataclasses import replace

import pytest
import torch
from hand_made import ARTEFACT, DEAD, EVERYTHING, NORMS, NOTHING, REPEATS, SHARED, SINGLE, layer, report, skipped
from torch import nn

from ckrm_kernels import RedundancyReport, measure
from ckrm_kernels.report.columns import columns
from ckrm_kernels.report.result import TARGET, Source, allowed_by_chance, exceeds_chance
from ckrm_kernels.report.table import lines
from ckrm_kernels.report.words import verdict
from ckrm_kernels.similarity import Similarity

FEW = report(REPEATS, ARTEFACT, NOTHING, DEAD, SINGLE)


def text_of(of: RedundancyReport, width: int | None = None, every: bool = False) -> list[str]:
    return [line.text for line in lines(of, width, every=every)]


def row_of(name: str, of: RedundancyReport, width: int | None = None) -> str:
    return next(text for text in text_of(of, width) if text.startswith(name))


# ---- the heading -----------------------------------------------------------------------------------------------------


def test_the_heading_says_what_was_measured_and_ends_with_the_verdict():
    first, *notes, counted, found, blank, _ = text_of(replace(EVERYTHING, notes=("the ema weights", "no groups")))[:7]
    assert first == "Redundancy (lambda) is the share of pairs of filters with Psi above 0.6; eps 1e-4 absolute."
    assert notes == ["note: the ema weights", "note: no groups"]
    assert counted == "5 of 49 layers measured."
    assert found == verdict(EVERYTHING)
    assert blank == ""


def test_several_models_are_counted():
    of = report(layer("a", models=3), models=3, similarity=Similarity(eps=1e-3, alpha=0.5, scale_free=True))
    assert text_of(of)[0].endswith("alpha 0.5, eps 1e-3 relative to each layer's scale; mean of 3 models.")


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        ([NOTHING, DEAD], "No layer repeats itself beyond chance."),
        ([NOTHING, ARTEFACT], "No layer repeats itself beyond chance; in 1 of 2 layers only scale speaks: stem.conv."),
        ([REPEATS, NOTHING], "1 of 2 layers repeats itself beyond chance: blocks.11.conv_dw."),
        (
            [REPEATS, ARTEFACT, replace(ARTEFACT, name="b")],
            "1 of 3 layers repeats itself beyond chance: blocks.11.conv_dw; in 2 others only scale speaks.",
        ),
        (
            [layer(f"l{i}", 0.5, scale_free=(i / 10, 0.0, 5)) for i in range(1, 9)],
            "8 of 8 layers repeat themselves beyond chance: l8, l7, l6, l5, l4, 3 more.",
        ),
        (
            [layer("a", 0.5, None, scale_free=None)],
            "No chance level is known, so this does not say whether layers repeat themselves beyond it.",
        ),
        ([], "Nothing was measured: there is no layer with a weight."),
        (NORMS, "Nothing was measured: 41 layers skipped: normalisation, no filters."),
        ([*NORMS, *SHARED], "Nothing was measured: 44 layers skipped."),
        (
            [*NORMS, skipped("head", "pointwise, a slice of one number has no structure", "Linear")],
            "Nothing was measured: 42 layers skipped, 1 as pointwise, which --pointwise vector measures "
            '(in Python, pointwise="vector").',
        ),
    ],
)
def test_the_one_thing_to_know(layers, said):
    assert verdict(report(*layers)) == said


# ---- rows ------------------------------------------------------------------------------------------------------------


def test_a_row_has_lambda_as_measured_and_scale_free_with_chance_and_distinct():
    groups, head = text_of(FEW)[4:6]
    assert groups.split() == [
        "-------",
        "eps",
        "1e-4",
        "-------",
        "------",
        "scale-free",
        "------",
        "----",
        "live",
        "----",
    ]
    measured = ["lambda", "chance", "distinct"]
    assert head.split() == [
        "layer",
        "kind",
        "shape",
        *measured,
        *measured,
        "dead",
        *measured[:2],
        "median",
        "Psi",
        "finding",
        "note",
    ]
    repeats = ["0.7000", "0.1000", "12", "0.6520", "0.0009", "15", "0", "0.99", "repeats"]
    assert row_of("blocks.11", FEW).split() == ["blocks.11.conv_dw", "Conv2d", "672x1x5x5", *repeats]
    assert row_of("dead", FEW).split()[-4:] == ["48", "0.0800", "0.0160", "0.01"]
    assert head.index("lambda") > groups.index("-- eps") - 10


def test_distinct_is_shown_only_where_lambda_exceeds_chance():
    """The stem with a folded batch norm: lambda 1.0, chance 1.0, and distinct 1 of 64 would be said of nothing."""
    assert row_of("stem", FEW).split()[3:9] == ["1.0000", "1.0000", "–", "0.0000", "0.0000", "–"]  # noqa: RUF001
    just = TARGET + 1e-9
    for redundancy, chance, shown in ((just, 0.0, True), (TARGET, 0.0, False), (0.3, 0.299, False), (0.5, 0.2, True)):
        one = layer("one", redundancy, chance, scale_free=None, distinct=7)
        distinct = next(column for column in columns(report(one), [one]) if column.key == "distinct")
        assert distinct.text(one) == ("7" if shown else "–")  # noqa: RUF001


def test_distinct_is_not_shown_where_the_finding_is_that_nothing_repeats():
    """A random depthwise layer: .0465 is above what its own chance level allows, not above what the scale-free does."""
    one = layer("one", 0.0465, 0.0441, scale_free=(0.0467, 0.0450, 49), distinct=49, shape=(384, 1, 3, 3))
    assert one.finding == "none"
    assert row_of("one", report(one)).split()[3:9] == ["0.0465", "0.0441", "–", "0.0467", "0.0450", "–"]  # noqa: RUF001


@pytest.mark.parametrize(("of", "mark"), [(REPEATS, "repeats"), (ARTEFACT, "scale"), (NOTHING, ""), (DEAD, "")])
def test_the_finding_is_a_word_and_a_style(of, mark):
    line = next(line for line in lines(FEW) if line.text.startswith(of.name))
    assert line.style == mark
    assert (line.text.split()[-1] == mark) == bool(mark)


def test_only_what_is_shown_is_explained():
    words = {word: f"\n{word}: " for word in ("scale-free", "chance", "repeats", "scale", "distinct", "dead")}
    assert all(word in str(FEW) for word in words.values())
    quiet = str(report(NOTHING))
    assert [word for word, begin in words.items() if begin in quiet] == ["scale-free", "chance", "distinct"]
    scale = str(report(ARTEFACT))
    limit = "above 0.01 and above the scale-free chance level by three standard errors"
    assert f"scale: only lambda at eps 1e-4 is {limit}:" in scale
    assert f"scale: only lambda at eps 1e-4 is {limit}:" in str(FEW)  # beside "repeats" too


def test_live_filters_of_which_no_two_are_left_have_a_dash():
    for filters, dead, shown in ((4, 2, "0.5000"), (4, 3, "–"), (4, 4, "–"), (4, 0, "")):  # noqa: RUF001
        one = layer("one", shape=(filters, 16, 3, 3), dead=dead, live=(0.5, 0.5))
        texts = {column.key: column.text(one) for column in columns(report(DEAD, one), [DEAD])}
        assert (texts["live redundancy"], texts["live chance"]) == (shown, shown)


def test_fewer_than_two_filters_have_no_redundancy():
    row = row_of("single", FEW)
    assert "0.0000" not in row
    assert row.split().count("–") == 6  # noqa: RUF001
    assert row.endswith("fewer than two filters")
    assert "1 measured: fewer than two filters (single)" in text_of(FEW, 80)


def test_without_details_and_scale_free_the_other_columns_go():
    without = replace(NOTHING, chance=None, distinct=None, scale_free=None, dead=None, name="plain")
    assert row_of("layer", report(without)).split() == ["layer", "kind", "shape", "lambda", "median", "Psi"]
    free = replace(NOTHING, scale_free=None, name="free")
    head = row_of("layer", report(free, similarity=Similarity(scale_free=True)))
    assert head.split() == ["layer", "kind", "shape", "lambda", "chance", "distinct", "dead", "median", "Psi"]
    assert "scale-free" not in str(report(free))


def test_deviations_are_shown_of_several_models():
    assert row_of("layer", report(layer("a", 0.5, models=3), models=3)).split().count("deviation") == 2


def test_what_a_real_model_gives_has_a_line_a_layer():
    net = nn.Sequential(nn.Conv2d(1, 20, 5), nn.Conv2d(6, 6, 3, groups=6), nn.BatchNorm2d(6))
    of = measure(net)
    for each in of.measured:
        assert f"{each.redundancy:.4f}" in row_of(f"{each.name} ", of)
    assert "depthwise, all filters compared" in row_of("1 ", of)
    assert "1 skipped: normalisation, no filters (2)" in text_of(of)
    assert "(whole)" in str(measure(nn.Conv2d(1, 3, 3)))


def test_lines_have_no_blanks_at_their_end():
    assert all(text == text.rstrip() for text in text_of(EVERYTHING))


def test_a_name_cannot_move_the_cursor():
    text = str(report(layer("a\nb\x1b[2J", 0.5)))
    assert "\x1b" not in text
    assert r"a\nb\x1b[2J" in text


# ---- skipped layers --------------------------------------------------------------------------------------------------


def test_skipped_layers_are_one_line_a_reason():
    found = [text for text in text_of(EVERYTHING) if " skipped: " in text]
    listed = ", ".join(each.name for each in NORMS[:5])
    assert found == [
        f"41 skipped: normalisation, no filters ({listed}, ...)",
        "3 skipped: shares its weight with … (copy0, copy1, copy2)",
    ]
    assert len(text_of(EVERYTHING)) < 30


def test_reasons_that_differ_in_numbers_are_one_line():
    shapes = [skipped(f"s{i}", f"weight must have 3 to 5 dimensions, got shape ({i}, 7)") for i in range(3)]
    found = [text for text in text_of(report(*shapes, skipped("t", "4 groups"))) if " skipped: " in text]
    assert found == [
        "3 skipped: weight must have … to … dimensions, got shape … (s0, s1, s2)",
        "1 skipped: 4 groups (t)",
    ]


def test_all_lists_every_skipped_layer_with_its_own_reason():
    text = text_of(EVERYTHING, every=True)
    for each in NORMS:
        assert f"  {each.name}" in [line.partition("  BatchNorm2d")[0].rstrip() for line in text]
    assert [line.split(maxsplit=2)[2] for line in text if line.startswith("  copy")] == [each.reason for each in SHARED]


# ---- widths ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [48, 60, 80, 100, 132, 200])
@pytest.mark.parametrize("every", [False, True])
def test_a_width_is_kept_and_no_word_is_broken(width, every):
    narrow = text_of(EVERYTHING, width, every)
    assert max(map(len, narrow)) <= width
    whole = {word.strip("(),.:") for word in " ".join(text_of(EVERYTHING, every=every)).split()}
    for word in " ".join(narrow).split():
        assert word.strip("(),.:") in whole or "…" in word or set(word) == {"-"}, word


def test_at_80_columns_what_matters_is_there():
    head = row_of("layer", EVERYTHING, 80)
    assert head.split() == ["layer", *("lambda", "lambda", "chance", "distinct"), "dead", "lambda", "finding"]
    assert row_of("blocks.11.conv_dw", EVERYTHING, 80).endswith("repeats")
    assert row_of("blocks.…", EVERYTHING, 80).startswith("blocks.…_its_own.conv ")


def test_shortened_names_differ_where_names_do():
    many = [layer(f"backbone.stage{i}.block.branch.conv_with_a_name.weight", 0.1) for i in range(20)]
    rows = [text.split()[0] for text in text_of(report(*many), 80) if text.startswith("back")]
    assert len(set(rows)) == len(rows) == 20


def test_many_files_are_a_few_lines_where_the_width_is_limited():
    of = report(NOTHING, sources=[Source(f"shard-{number}.safetensors", 1000, "0" * 64) for number in range(30)])
    assert sum(text.startswith("measured: ") for text in text_of(of)) == 30
    short = [text for text in text_of(of, 80) if text.startswith("measured: ")]
    assert short[0] == "measured: shard-0.safetensors, 1.0 kB, sha256 000000000000…"
    assert short[8:] == ["measured: 22 more"]


def test_the_end_says_what_it_was_made_from():
    *_, measured, settings, date, versions = text_of(EVERYTHING)
    assert measured == f"measured: weights/model.safetensors, 44.7 MB, sha256 {'0123456789abcdef' * 4}"
    assert settings == "settings: threshold 0.6, eps 1e-4 absolute, pointwise skip"
    assert date == "date: 2026-11-27T04:30:00+00:00"
    assert versions == "versions: ckrm_kernels 1.0, torch 2.13.0"


def test_a_table_names_the_similarity_and_its_median():
    signed = replace(NOTHING, histogram=(0, 10, *[0] * 98), lowest=-1.0, scale_free=None, dead=2)
    of = report(signed, similarity=Similarity("cosine", signed=True))
    assert "is the share of pairs of filters with cosine above 0.6; signed cosine." in str(of)
    assert "median cosine" in str(of)
    assert "Psi" not in str(of)
    assert "-0.97" in row_of(NOTHING.name, of)
    assert "dead: filters that are all but zero; live" in str(of)
    assert "dead: filters that are all but zero, all alike; live" in str(report(signed))


# ---- chance ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pairs", "models", "drawn"), [(130_816, 1, 3072), (130_816, 3, 3072), (6, 1, 96), (192, 2, 3072), (100, 1, 1600)]
)
def test_chance_allows_three_errors_of_both_shares(pairs, models, drawn):
    """Of lambda over the pairs of each model, and of the chance level over those drawn for it: their variances add."""
    chance = 0.2
    variance = sum(chance * (1 - chance) / (number * models) for number in (pairs, drawn))
    limit = chance + 3 * variance**0.5
    assert allowed_by_chance(chance, pairs, models) == pytest.approx(limit, rel=1e-12)
    assert exceeds_chance(limit + 1e-9, chance, pairs, models)
    assert not exceeds_chance(limit - 1e-9, chance, pairs, models)


def test_random_layers_are_within_chance_as_often_as_three_errors_say():
    generator = torch.Generator().manual_seed(1)
    model = nn.ModuleList(nn.Conv2d(1, 120, 3) for _ in range(40))
    for conv in model:
        nn.init.normal_(conv.weight, generator=generator)
    errors = []
    for row in measure(model).layers:
        found, chance = row.scale_free.redundancy, row.scale_free.chance
        errors.append(3 * (found - chance) / (allowed_by_chance(chance, row.pairs, 1) - chance))
    assert sum(error > 3 for error in errors) <= 1
    assert 0.7 < statistics.stdev(errors) < 1.2  # one error, or a little less
    assert abs(statistics.fmean(errors)) < 0.5
