from __future__ import annotations

import builtins
import csv
import dataclasses
import io
import json
import subprocess
import sys
from html.parser import HTMLParser
from itertools import combinations

import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.transforms import Bbox
from torch import nn

from ckrm_kernels import RedundancyReport, measure
from ckrm_kernels.presentation.theme import LIGHT

NASTY = '<script>alert("x")</script>&$a_1$'


def model() -> nn.Module:
    torch.manual_seed(0)
    net = nn.ModuleDict(
        {
            "stem": nn.Conv2d(1, 20, 5),
            NASTY: nn.Conv2d(4, 12, 3),
            "norm": nn.BatchNorm2d(12),
            "depthwise": nn.Conv2d(6, 6, 3, groups=6),
            "head": nn.Linear(12, 3),
        }
    )
    with torch.no_grad():
        net[NASTY].weight[8:] = net[NASTY].weight[:4]
    return net


@pytest.fixture(scope="module", params=[1, 3], ids=["one model", "three models"])
def report(request: pytest.FixtureRequest) -> RedundancyReport:
    return measure([model() for _ in range(request.param)])


@pytest.fixture
def empty() -> RedundancyReport:
    return measure(nn.Sequential(nn.BatchNorm2d(3)))


# ---- table -----------------------------------------------------------------------------------------------------------


def test_the_table_has_an_aligned_line_a_layer(report):
    lines = str(report).splitlines()
    assert lines[0].startswith("Redundancy: share of pairs of filters with Psi above 0.6; eps 1e-4 absolute. ")
    assert ("Mean of 3 models" in lines[0]) == (report.models == 3)
    assert "3 of 5 layers measured" in lines[0]
    header, rule, *rows = lines[2:]
    assert ("deviation" in header) == (report.models == 3)
    assert set(rule) == {"-", " "}
    assert [row.split()[0] for row in rows] == ["stem", NASTY.split()[0], "norm", "depthwise", "head"]
    assert all(row == row.rstrip() for row in rows)
    end = header.index("redundancy") + len("redundancy")
    for row, layer in zip(rows, report.layers, strict=True):
        shown = row[:end].split()[-1]
        assert shown == f"{layer.redundancy:.4f}" if layer.redundancy is not None else row[end - 6 : end].strip() == ""
    assert "skipped: normalisation, no filters" in rows[2]
    assert "depthwise, all filters compared" in rows[3]


def test_the_table_names_a_single_layer_and_relative_eps():
    text = str(measure(nn.Conv2d(1, 3, 3), scale_free=True, eps=1e-3, alpha=0.5))
    assert "(whole)" in text
    assert "alpha 0.5, eps 1e-3 relative to each layer's scale" in text


# ---- JSON, CSV, pandas -----------------------------------------------------------------------------------------------


def test_json_has_every_field_and_is_finite(report):
    def refuse(constant: str) -> None:
        pytest.fail(f"{constant} is not JSON")

    value = json.loads(report.to_json(), parse_constant=refuse)
    assert set(value) == {"layers", "threshold", "models", "psi"}
    assert value["threshold"] == 0.6
    assert value["models"] == report.models
    assert value["psi"] == {"alpha": 0.1, "beta": 1.0, "gamma": 1.0, "eps": 1e-4, "scale_free": False}
    for row, layer in zip(value["layers"], report.layers, strict=True):
        fields = {field.name: getattr(layer, field.name) for field in dataclasses.fields(layer)}
        assert row == json.loads(json.dumps(fields))


def test_csv_has_a_row_a_layer(report):
    rows = list(csv.DictReader(io.StringIO(report.to_csv())))
    assert [row["name"] for row in rows] == ["stem", NASTY, "norm", "depthwise", "head"]
    for row, layer in zip(rows, report.layers, strict=True):
        assert row["status"] == layer.status
        assert row["reason"] == layer.reason
        assert row["redundancy"] == ("" if layer.redundancy is None else repr(layer.redundancy))
        for name in ("per_model", "chance_per_model", "distinct_per_model"):
            assert row[name].split() == [repr(value) for value in getattr(layer, name)]
            assert len(row[name].split()) == (report.models if layer.status == "measured" else 0)
        assert not any("histogram" in name for name in row)
    assert rows[0]["kernel_size"] == "5x5"
    assert rows[2]["kernel_size"] == ""
    assert float(rows[0]["median_psi"]) == report.layers[0].quantile(0.5)


def test_pandas_has_a_row_a_layer(report):
    frame = report.to_pandas()
    assert list(frame["name"]) == [layer.name for layer in report.layers]
    assert list(frame["status"]) == [layer.status for layer in report.layers]
    measured = frame[frame["status"] == "measured"]
    assert list(measured["redundancy"]) == [layer.redundancy for layer in report.measured]
    assert list(measured["median_psi"]) == [layer.quantile(0.5) for layer in report.measured]
    assert frame.loc[frame["name"] == "norm", "redundancy"].isna().all()


# ---- HTML ------------------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """Checks that tags are balanced and gathers the words of every cell."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.rows: list[list[str]] = []
        self.links: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "br"):
            self.open.append(tag)
        self.links += [value for name, value in attrs if name in ("href", "src")]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data


def test_the_page_is_well_formed_self_contained_and_escaped(report):
    text = report.to_html()
    page = Page(text)
    assert text.startswith("<!doctype html>")
    assert page.links == []
    assert "http" not in text
    assert "<script" not in text
    assert "prefers-color-scheme: dark" in text
    assert 'name="viewport"' in text
    header, *rows = page.rows
    assert header[:3] == ["layer", "Ψ of all pairs", "kind"]
    assert [row[0] for row in rows] == ["stem", NASTY, "norm", "depthwise", "head"]
    assert f"{report.layers[1].redundancy:.4f}" in rows[1]
    assert rows[2][-1] == "skipped: normalisation, no filters"
    assert text.count("<svg") == 3


def test_the_page_marks_what_lies_above_chance(report):
    assert report.layers[1].redundancy > report.layers[1].chance
    text = report.to_html()
    assert f'class="high" data-label="redundancy">{report.layers[1].redundancy:.4f}<' in text
    assert text.count('class="high"') == sum(layer.above_chance for layer in report.layers)
    assert "a redundancy above it is bold" in text
    assert "Pairs with Psi above the threshold are red" in text


@pytest.mark.parametrize("threshold", [0.0, 1.0])
def test_every_view_at_the_ends_of_the_threshold(threshold):
    report = measure(model(), threshold)
    Page(report.to_html())
    report.plot()
    assert f"above {threshold:g};" in str(report)


def test_every_view_of_a_report_without_measured_layers(empty):
    assert "skipped" in str(empty)
    assert Page(empty.to_html()).rows[1][0] == "0"
    assert json.loads(empty.to_json())["layers"][0]["histogram"] is None
    assert len(empty.to_pandas()) == 1
    assert [text.get_text() for text in empty.plot().axes[0].texts if "no layer" in text.get_text()]


def test_every_view_of_a_model_without_weights():
    report = measure(nn.ReLU())
    assert "0 of 0 layers" in str(report)
    assert len(Page(report.to_html()).rows) == 1
    assert json.loads(report.to_json())["layers"] == []
    assert len(report.to_pandas()) == 0
    assert report.to_csv().count("\n") == 1
    report.plot()


# ---- figure ----------------------------------------------------------------------------------------------------------


def test_the_figure_shows_the_distributions(report):
    figure = report.plot()
    axes = figure.axes[0]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert [label.split("  ")[-1] for label in labels] == ["(20)", "(12)", "(6)"]
    assert labels[0].startswith("stem")
    texts = [text.get_text() for text in axes.texts]
    assert "t = 0.6" in texts
    for layer in report.measured:
        assert any(text.startswith(f"{layer.redundancy:.3f}") for text in texts)
        assert f"{layer.chance:.3f}" in texts
    assert any(line.get_xdata()[0] == 0.6 for line in axes.lines)
    bars = [patch for patch in axes.patches if patch.get_height() > 0]
    filled = sum(count > 0 for layer in report.measured for count in layer.histogram)
    assert len(bars) == filled
    red = [to_hex(patch.get_facecolor()) == LIGHT["redundant"] for patch in bars]
    assert red == [patch.get_x() >= 0.6 - 1e-9 for patch in bars]


def test_the_numbers_beside_the_figure_are_within_it_and_apart(report):
    figure = report.plot()
    FigureCanvasAgg(figure).draw()
    boxes = [text.get_window_extent() for text in figure.axes[0].texts if "0." in text.get_text()]
    assert len(boxes) == 2 + 2 * len(report.measured)
    assert all(box.x0 >= 0 and box.x1 <= figure.bbox.x1 for box in boxes)
    assert not [both for both in combinations(boxes, 2) if Bbox.intersection(*both)]


def test_the_figure_is_drawn_with_any_name_and_without_a_display(report, tmp_path):
    report.plot().savefig(tmp_path / "figure.png")
    report.plot().savefig(tmp_path / "figure.svg")
    assert (tmp_path / "figure.png").stat().st_size > 5000


def test_views_import_only_what_they_need():
    """Neither pyplot's state nor pandas is touched by the figure; the others need neither."""
    code = """
import sys
from torch import nn
import ckrm_kernels
report = ckrm_kernels.measure(nn.Conv2d(1, 4, 3), backend="reference")
str(report), report.to_json(), report.to_csv(), report.to_html()
for name in ("pandas", "matplotlib", "rich", "typer", "scipy", "sklearn", "safetensors"):
    assert name not in sys.modules, name
report.plot()
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(("view", "module"), [("to_pandas", "pandas"), ("plot", "matplotlib")])
def test_a_missing_extra_is_named(view, module, report, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.split(".")[0] == module:
            raise ModuleNotFoundError(f"No module named {module!r}")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=rf'{view} needs {module}: pip install "ckrm-kernels\[report\]"'):
        getattr(report, view)()
