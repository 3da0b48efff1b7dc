from __future__ import annotations

import io
from dataclasses import replace
from itertools import combinations

import pytest
from hand_made import ARTEFACT, DEAD, EVERYTHING, NASTY, NOTHING, REPEATS, SINGLE, layer, report
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox
from PIL import Image

from ckrm_kernels.presentation.theme import LIGHT
from ckrm_kernels.report.figure import _row_height, figure_file
from ckrm_kernels.similarity import Similarity

SHOWN = report(REPEATS, ARTEFACT, NOTHING, DEAD, SINGLE, layer(NASTY, 0.5))


def texts(figure: Figure) -> list[str]:
    return [text.get_text().replace("\N{NO-BREAK SPACE}", " ") for text in figure.texts]


def test_each_layer_has_its_name_and_its_numbers():
    found = texts(SHOWN.plot())
    assert "layer (filters)" in found
    assert "blocks.11.conv_dw (672)" in found
    assert f"{NASTY} (64)" in found
    numbers = [text.split() for text in found]
    assert ["0.7000", "0.1000", "0.6520", "0.0009", "15", "0", "repeats"] in numbers
    assert ["1.0000", "1.0000", "0.0000", "0.0000", "–", "0", "scale"] in numbers  # noqa: RUF001
    assert ["0.2240", "0.1990", "0.2240", "0.1990", "–", "48", "0.0800"] in numbers  # noqa: RUF001
    assert [*"–––––", "0"] in numbers  # noqa: RUF001
    assert ["lambda", "chance", "lambda", "chance", "distinct", "dead", "lambda", "finding"] in numbers
    assert "t = 0.6" in found


def test_the_marks_are_colours_and_words_that_are_explained():
    of = SHOWN.plot()
    by_text = {text.get_text(): text for text in of.texts}
    assert by_text["blocks.11.conv_dw (672)"].get_color() == LIGHT["redundant"]
    assert by_text["blocks.11.conv_dw (672)"].get_weight() == "bold"
    assert by_text["stem.conv (64)"].get_color() == LIGHT["scale"]
    assert by_text["dead (64)"].get_color() == LIGHT["text"]
    foot = " ".join(texts(of))
    for word in ("repeats: filters", "scale: only", "distinct: filters left", "dead: filters", "chance: lambda"):
        assert word in foot
    assert of.texts[-1].get_text() == "versions: ckrm_kernels 1.0, torch 2.13.0"
    assert any(text.startswith("1 of 6 layers repeats itself") for text in texts(of))


def test_the_distributions_are_two_artists_however_many_layers_there_are():
    below, above = SHOWN.plot().axes[0].collections[:2]
    assert [to_hex(each.get_facecolor()[0]) for each in (below, above)] == [LIGHT["below"], LIGHT["redundant"]]
    assert len(below.get_paths()) == len(above.get_paths()) == 5  # the single filter has none
    for collection, low, high in ((below, 0.0, 0.6), (above, 0.6, 1.0)):
        for path in collection.get_paths():
            assert path.vertices[:, 0].min() == pytest.approx(low)
            assert path.vertices[:, 0].max() == pytest.approx(high)
    first = above.get_paths()[1].vertices  # the artefact's: every pair in the last bin
    assert first[:, 1].min() == pytest.approx(2 - 0.85)
    assert first[first[:, 1] < 2][:, 0].min() == pytest.approx(0.99)


@pytest.mark.parametrize("dots", [100, 150])
def test_no_text_leaves_the_figure_or_covers_another(dots):
    of = SHOWN.plot()
    of.set_dpi(dots)
    FigureCanvasAgg(of).draw()
    boxes = [text.get_window_extent() for text in of.texts if text.get_text()]
    assert all(box.x0 >= 0 and box.x1 <= of.bbox.x1 and box.y0 >= 0 and box.y1 <= of.bbox.y1 for box in boxes)
    assert not [both for both in combinations(boxes, 2) if (common := Bbox.intersection(*both)) and common.height > 3]


@pytest.mark.parametrize("threshold", [0.0, 1.0])
def test_the_ends_of_the_threshold(threshold):
    below, above = report(*SHOWN.layers, threshold=threshold).plot().axes[0].collections[:2]
    assert (len(below.get_paths()), len(above.get_paths())) == ((0, 5) if threshold == 0 else (5, 0))


def test_what_was_measured_is_in_the_files(tmp_path):
    for suffix in ("png", "svg", "pdf"):
        SHOWN.plot(tmp_path / f"figure.{suffix}")
    information = Image.open(tmp_path / "figure.png").info
    assert "sha256 " + "0123456789abcdef" * 4 in information["Description"]
    assert information["Software"] == "ckrm_kernels 1.0, torch 2.13.0"
    assert information["Creation Time"] == "2026-11-27T04:30:00+00:00"
    svg = (tmp_path / "figure.svg").read_text()
    assert "0123456789abcdef" * 4 in svg
    assert "<dc:date>2026-11-27T04:30:00+00:00</dc:date>" in svg
    assert "blocks.11.conv_dw (672)" in svg  # text is text
    assert b"/Subject" in (tmp_path / "figure.pdf").read_bytes()


@pytest.mark.parametrize("rows", [1, 50, 100, 1000, 10_000, 100_000])
def test_any_number_of_layers_stays_within_what_can_be_drawn(rows):
    assert rows * _row_height(rows) * 100 < 2**16 - 1000
    assert _row_height(rows) >= (0.2 if rows <= 1000 else 0)


def test_a_hundred_and_twenty_layers_are_few_artists_and_a_file():
    many = report(*[layer(f"stage.{i}.conv", i / 120) for i in range(120)])
    of = many.plot()
    assert len(of.texts) < 2 * 120 + 30
    assert len(of.axes[0].get_children()) < 30
    drawn = Image.open(io.BytesIO(figure_file(many, of, "png")))
    assert drawn.height == pytest.approx(of.get_figheight() * 100, abs=1)


def test_nothing_measured():
    assert "no layer was measured" in [text.get_text() for text in EVERYTHING.selected("bn").plot().axes[0].texts]
    report().plot()


def test_a_signed_similarity_is_drawn_from_minus_one_to_one():
    row = replace(NOTHING, histogram=(7, *[0] * 73, 2, 1, *[0] * 24), lowest=-1.0)
    of = report(row, threshold=0.5, similarity=Similarity("cosine", signed=True)).plot()
    below, above = of.axes[0].collections[:2]
    (drawn_below,), (drawn_above,) = below.get_paths(), above.get_paths()
    assert of.axes[0].get_xlim() == (-1, 1)
    assert of.axes[0].get_xlabel() == "cosine of pairs of filters"
    assert [drawn_below.vertices[:, 0].min(), drawn_below.vertices[:, 0].max()] == pytest.approx([-1, 0.5])
    assert [drawn_above.vertices[:, 0].min(), drawn_above.vertices[:, 0].max()] == pytest.approx([0.5, 1])
    threshold = next(text for text in of.texts if text.get_text() == "t = 0.5")
    box = of.axes[0].get_position()
    assert threshold.get_position()[0] == pytest.approx(box.x0 + 0.75 * box.width)
