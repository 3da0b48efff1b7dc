"""What a report of patterns shows: its table, JSON and figure."""

import io
import json

import numpy as np
import pytest
import torch
from torch import nn

from ckrm_kernels import match_patterns
from ckrm_kernels.patterns import edge_detectors, gaussian
from ckrm_kernels.patterns import figure as patterns_figure
from ckrm_kernels.patterns.table import lines
from ckrm_kernels.presentation.theme import PATTERNS


@pytest.fixture(scope="module")
def report():
    blurs = nn.Conv2d(8, 8, 3, groups=8)
    detectors = nn.Conv2d(3, 2, 3)
    with torch.no_grad():
        blurs.weight.copy_(-gaussian(3, 1.1).expand(8, 1, 3, 3))
        blurs.weight[:2] = 0
        detectors.weight.copy_(edge_detectors().view(2, 3, 3, 3))
    return match_patterns(nn.Sequential(blurs, detectors, nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)))


def test_table(report):
    text = str(report)
    assert "85.7% of 14 kernels look like a pattern" in text
    assert "0.0% identity, 42.9% blur, 42.9% edge; 14.3% are zero." in text
    head, _, first, second = text.split("\n\n")[1].split("\n")
    assert head.split()[:6] == ["layer", "kind", "kernels", "size", "identity", "blur"]
    assert first.split()[:9] == ["0", "Conv2d", "8", "3x3", "0.0%", "75.0%", "0.0%", "25.0%", "0.0%"]
    assert first.split()[10] == "-gaussian"
    assert second.split()[:9] == ["1", "Conv2d", "6", "3x3", "0.0%", "0.0%", "100.0%", "0.0%", "0.0%"]
    assert "1 skipped: pointwise, a kernel of one number has no pattern (2)" in text
    assert "1 skipped: normalisation, no filters (3)" in text


@pytest.mark.parametrize("width", [40, 60, 80])
def test_table_within_a_width(report, width):
    assert max(len(line.text) for line in lines(report, width)) <= width


def test_nothing_to_compare():
    report = match_patterns(nn.Linear(3, 4))
    assert "No kernel was compared." in str(report)
    assert report.measured == ()
    report.plot()


def test_json(report, tmp_path):
    report.to_json(tmp_path / "report.json")
    value = json.loads((tmp_path / "report.json").read_text())
    assert value == json.loads(report.to_json())
    assert value["threshold"] == 0.9
    assert value["signed"] is True
    assert value["sources"][0]["name"] == "Sequential"
    blurs, detectors, pointwise, _ = value["layers"]
    assert (blurs["shares"]["-gaussian"], blurs["shares"]["zero"]) == (0.75, 0.25)
    assert detectors["families"] == {
        "identity": 0,
        "blur": 0,
        "edge": pytest.approx(1),
        "zero": 0,
        "none": 0,
    }
    assert detectors["kernel_size"] == [3, 3]
    assert pointwise["shares"] is None


def test_figure_colours_kernels_by_pattern(report, tmp_path):
    image = pytest.importorskip("PIL.Image")
    figure = report.plot(tmp_path / "kernels.png")
    with image.open(tmp_path / "kernels.png") as file:
        assert min(file.size) > 300
    blurs, _, detectors, _ = (each for each in figure.axes)
    red = np.array([int(PATTERNS["zero"][at : at + 2], 16) for at in (1, 3, 5)])
    mosaic = blurs.images[0].get_array()
    assert np.allclose(mosaic[5, 5] * 255, red)  # the first two kernels are zero
    assert np.allclose(mosaic[5, 30] * 255, red)
    assert not np.allclose(mosaic[5, 60] * 255, red)
    shades = detectors.images[0].get_array()[:24, :24].reshape(-1, 3)
    assert {tuple(shade) for shade in shades.round(3)} > {tuple(shades[40].round(3))}
    words = [text.get_text() for text in figure.texts]
    assert "8 of 3x3" in words


@pytest.mark.parametrize("size", [(7,), (1, 9), (64, 1), (3, 3, 3), (4, 6)])
def test_figure_of_other_kernels(size):
    figure = match_patterns(torch.randn(6, 2, *size)).plot()
    figure.savefig(io.BytesIO(), format="svg")


def test_figure_of_many_layers(monkeypatch):
    monkeypatch.setattr(patterns_figure, "_MOST", 3)
    figure = match_patterns(nn.Sequential(*(nn.Conv2d(1, 2, 3) for _ in range(7)))).plot()
    assert len(figure.axes) == 2 * 3
    words = [text.get_text() for text in figure.texts]
    assert "3 of 7 layers drawn" in " ".join(words)
    assert {"0", "2", "4"} < set(words)
