from __future__ import annotations

import builtins
import csv
import io
import json
import platform
import re
import shutil
import statistics
import subprocess
import xml.etree.ElementTree
from dataclasses import replace
from functools import cache, partial
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from exhaustive import also
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import escape
from PIL import Image
from torch import nn

from ckrm_kernels import reference
from ckrm_kernels.comparison.candidates import Candidate
from ckrm_kernels.comparison.measured_layers import CONFIGURED, SCALE_FREE, Level, MeasuredLayer, measure_networks
from ckrm_kernels.comparison.saliency_examples import SaliencyExamples
from ckrm_kernels.comparison.statistics import Comparison, Interval, compare
from ckrm_kernels.comparison.verdict import in_words, verdict
from ckrm_kernels.presentation.numbers import signed
from ckrm_kernels.presentation.pixels import picture, psi_stops
from ckrm_kernels.report.result import TARGET, LayerRedundancy, ScaleFreeRedundancy
from ckrm_kernels.similarity import Similarity
from ckrm_kernels.training import SaliencyScore, Score
from ckrm_kernels.version import __version__
from ckrm_kernels.width_search.findings import Findings, Latency
from ckrm_kernels.width_search.report import write_report
from ckrm_kernels.width_search.report.boxplots import box_plots
from ckrm_kernels.width_search.report.omega_figure import colour_of_level
from ckrm_kernels.width_search.report.psi_matrix import (
    Pair,
    clustered,
    largest_slices,
    matrix_png,
    most_redundant,
    pair_png,
)
from ckrm_kernels.width_search.report.widths_path import spread_apart
from ckrm_kernels.width_search.rules import Change, Observation
from ckrm_kernels.width_search.search import Outcome, Round, Trained

NASTY = '<script>alert("x")</script>&$a_1$'
PSI = Similarity()
STUDENT = {3: 4.302653}  # the 97.5 % quantile of Student's t by the number of values, from a table
SCORES = {
    "standard": ((0.91, 0.981), (0.92, 0.982), (0.93, 0.983)),
    "searched": ((0.90, 0.979), (0.92, 0.981), (0.925, 0.986)),
    "uniform": ((0.80, 0.90), (0.81, 0.95), (0.70, 0.91)),
}


def networks(width: int, seeds: int) -> list[nn.Module]:
    torch.manual_seed(0)
    models = [
        nn.ModuleDict({"conv1": nn.Conv2d(1, 6, 3), NASTY: nn.Conv2d(6, width, 3), "head": nn.Linear(width, 3)})
        for _ in range(seeds)
    ]
    with torch.no_grad():
        for model in models:
            if width == 12:
                model[NASTY].weight[6:] = model[NASTY].weight[:6]
    return models


def evaluate_candidate(
    name: str, width: int, parameters: int, seeds: int, psi: Similarity
) -> tuple[Candidate, dict[str, torch.Tensor]]:
    models = networks(width, seeds)
    layers = measure_networks(models, 0.6, psi)
    scores = tuple(Score(*pair) for pair in SCORES[name][:seeds])
    widths = {"conv1": 6, NASTY: width}
    made = Candidate(name, widths, parameters, 40 * parameters, 4 * parameters + 200, scores, layers)
    return made, {layer.name: models[0].get_submodule(layer.name).weight.detach() for layer in layers}


def one_round(width: int, within_target: bool, layers, change: Change) -> Round:
    seen = {"conv1": Observation(6, True, 6, 3), NASTY: Observation(width, within_target, 5, 3)}
    stays = Change("conv1", 6, 6, "within target, and no larger width is known to be redundant")
    return Round({"conv1": 6, NASTY: width}, Trained((0.9, 0.95), layers), seen, (stays, change))


@cache
def findings(seeds: int = 3, psi: Similarity = PSI) -> Findings:
    """A search that made the second layer's 12 filters 5, everything in it named in the worst way."""
    named = {"standard": (12, 1000), "searched": (5, 540), "uniform": (7, 550)}
    made = {name: evaluate_candidate(name, *sizes, seeds, psi) for name, sizes in named.items()}
    standard, searched, uniform = (each for each, _ in made.values())
    rounds = (
        one_round(12, False, standard.layers, Change(NASTY, 12, 5, f"6.5 of 12 repeat {NASTY}")),
        one_round(5, True, searched.layers, Change(NASTY, 5, 5, "every layer is within target")),
    )
    comparisons = tuple(
        compare(metric, ("searched", getattr(searched, values)), (other.name, getattr(other, values)), margin)
        for other in (standard, uniform)
        for metric, values, margin in (("accuracy", "accuracies", 0.05), ("auc", "aucs", 0.01))
    )
    return Findings(
        network=f"network {NASTY}",
        data=f"data of {NASTY}",
        images=200,
        threshold=0.6,
        similarity=psi,
        target=0.01,
        rounds=rounds,
        outcome=Outcome(1, "every layer is within target"),
        candidates=(standard, searched, uniform),
        comparisons=comparisons,
        latencies=(Latency(f"device {NASTY}", 64, {"standard": 0.02, "searched": 0.005, "uniform": 0.0004}),),
        weights={name: weights for name, (_, weights) in made.items()},
        conclusions=(f"First {NASTY}.", "Second.", "Third.", "Fourth."),
        advice=(f"`{NASTY}` may help.",),
        brief=f"In brief {NASTY}.",
        provenance={"training": f"epochs 3, {NASTY}"},
    )


def nothing_to_shrink() -> Findings:
    whole = findings()
    done = one_round(12, True, whole.candidates[0].layers, Change(NASTY, 12, 12, "every layer is within target"))
    return replace(
        whole,
        rounds=(done,),
        outcome=Outcome(0, "every layer is within target"),
        candidates=whole.candidates[:1],
        comparisons=(),
    )


class Page(HTMLParser):
    """Checks that tags are balanced and gathers headings, cells by table, ids, addresses and all words."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.headings: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.labels: list[str | None] = []
        self.unfolded: list[str] = []
        self.words = ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        if tag not in ("meta", "br", "img"):
            self.open.append(tag)
        self.note(tag, values)
        if tag == "img":
            self.labels.append(values.get("alt"))
        if tag == "svg":
            self.labels.append(values.get("aria-label"))
        if tag == "details" and "open" in values:
            self.unfolded.append(values["class"])
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if re.fullmatch("h[1-6]", tag):
            self.headings.append("")

    def handle_startendtag(self, tag, attrs):
        self.note(tag, dict(attrs))

    def note(self, tag, values):
        self.ids += [values["id"]] if "id" in values else []
        self.addresses += [values[name] for name in ("href", "src", "xlink:href") if name in values]
        assert not any(name.startswith("on") for name in values)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" in self.open:
            return
        self.words += data
        if {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data
        if re.fullmatch("h[1-6]", self.open[-1] if self.open else ""):
            self.headings[-1] += data


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> tuple[Path, list[Path]]:
    folder = tmp_path_factory.mktemp("report")
    return folder, write_report(findings(), folder)


@pytest.fixture(scope="module")
def page(written) -> Page:
    return Page((written[0] / "report.html").read_text())


def rows(folder: Path, name: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((folder / "tables" / name).read_text())))


# ---- files -----------------------------------------------------------------------------------------------------------


def test_the_files(written):
    folder, files = written
    figures = ["accuracy", "auc", "omega-searched", "omega-standard", "widths"]
    expected = {f"figures/{name}.{kind}" for name in figures for kind in ("png", "svg")}
    expected |= {
        f"tables/{name}.csv" for name in ("structure", "quality", "latency", "comparisons", "layers", "widths")
    }
    assert {str(file.relative_to(folder)) for file in files} == expected | {"report.html"}
    assert {file for file in folder.rglob("*") if file.is_file()} == set(files)
    for name in figures:
        assert Image.open(folder / "figures" / f"{name}.png").size[0] == 650
        root = xml.etree.ElementTree.fromstring((folder / "figures" / f"{name}.svg").read_bytes())
        assert root.get("viewBox").startswith("0 0 360 ")


def test_the_same_findings_give_the_same_bytes(written, tmp_path):
    folder, files = written
    for again in write_report(findings(), tmp_path):
        assert again.read_bytes() == (folder / again.relative_to(tmp_path)).read_bytes()
    assert len(files) == len(list(tmp_path.rglob("*.*")))


def without(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes importing a module fail."""
    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name == module or name.startswith(f"{module}."):
            raise ModuleNotFoundError(f"No module named {module!r}")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)


def test_drawing_leaves_pyplot_alone(tmp_path, monkeypatch):
    whole = nothing_to_shrink()
    without("matplotlib.pyplot", monkeypatch)
    assert write_report(whole, tmp_path)


@pytest.mark.parametrize(("module", "extra"), [("matplotlib", "report"), ("scipy", "train"), ("PIL", "train")])
def test_a_missing_extra_is_named(module, extra, tmp_path, monkeypatch):
    whole = findings()
    without(module, monkeypatch)
    act = (
        partial(picture, np.zeros((2, 2)), psi_stops(0.6))
        if module == "PIL"
        else partial(write_report, whole, tmp_path)
    )
    with pytest.raises(ImportError, match=rf'pip install "ckrm-kernels\[{extra}\]"'):
        act()
    assert not list(tmp_path.rglob("*"))


# ---- tables ----------------------------------------------------------------------------------------------------------


def test_structure(written, page):
    table = page.tables[0]
    assert table[1] == ["conv1", "6×1×3×3", "6×1×3×3", "54", "54", "100%"]  # noqa: RUF001
    assert table[2] == [NASTY, "12×6×3×3", "5×6×3×3", "648", "270", "41.7%"]  # noqa: RUF001
    assert table[3] == ["not measured", "", "", "298", "216", "72.5%"]
    assert table[4] == ["whole network", "", "", "1,000", "540", "54.0%"]
    layer = rows(written[0], "structure.csv")[1]
    assert layer == {
        "part": "layer",
        "layer": NASTY,
        "standard_shape": "12x6x3x3",
        "searched_shape": "5x6x3x3",
        "standard_parameters": "648",
        "searched_parameters": "270",
    }
    for name, whole in (("standard", 1000), ("searched", 540)):
        parameters = [int(row[f"{name}_parameters"]) for row in rows(written[0], "structure.csv")]
        assert parameters[-1] == sum(parameters[:-1]) == whole


def test_means_with_student_intervals(written, page):
    table = next(table for table in page.tables if table[0] == ["network", "seeds", "Accuracy", "AUC"])
    for row, saved, (name, scores) in zip(table[1:], rows(written[0], "quality.csv"), SCORES.items(), strict=True):
        assert row[:2] == [name, "3"]
        for cell, metric, values in zip(row[2:], ("accuracy", "auc"), list(zip(*scores, strict=True)), strict=True):
            mean = statistics.fmean(values)
            half = STUDENT[3] * statistics.stdev(values) / 3**0.5
            assert cell == f"{mean:.4f} [{mean - half:.4f}, {mean + half:.4f}]"
            assert float(saved[f"{metric}_mean"]) == pytest.approx(mean)
            assert float(saved[f"{metric}_low"]) == pytest.approx(mean - half, abs=1e-6)
            assert [float(value) for value in saved[f"{metric}_per_model"].split()] == list(values)


def test_latencies(written):
    device = {"device": f"device {NASTY}", "images": "64"}
    assert rows(written[0], "latency.csv") == [
        {"name": name, **device, "seconds": seconds}
        for name, seconds in (("standard", "0.02"), ("searched", "0.005"), ("uniform", "0.0004"))
    ]
    assert list(rows(written[0], "quality.csv")[0])[-1] == "checkpoint_bytes"


def test_comparisons(written, page):
    table = next(table for table in page.tables if "difference p" in table[0])
    saved = rows(written[0], "comparisons.csv")
    assert [row[0] for row in table[1:]] == [
        "Accuracy: searched − standard",  # noqa: RUF001
        "AUC: searched − standard",  # noqa: RUF001
        "Accuracy: searched − uniform",  # noqa: RUF001
        "AUC: searched − uniform",  # noqa: RUF001
    ]
    for each, row, line in zip(findings().comparisons, saved, table[1:], strict=True):
        assert (row["metric"], row["first"], row["second"]) == (each.metric, each.first, each.second)
        assert float(row["difference"]) == each.difference.mean
        assert float(row["difference_low"]) == each.difference.low
        assert float(row["difference_p"]) == each.difference_p
        assert float(row["equivalence_p"]) == each.equivalence_p
        assert row["equivalent"] == str(each.equivalence_p < 0.05)
        assert line[3] == f"±{each.margin:g}"
        assert in_words(each) in page.words
    # 0.915 - 0.92, by hand
    assert table[1][1].startswith("−0.0050 [")  # noqa: RUF001


def test_costs(page):
    latency = f"64 images, device {NASTY}"
    head = ["network", "parameters", "multiply-adds for one image", "checkpoint", latency]
    table = next(table for table in page.tables if table[0] == head)
    assert table[1:] == [
        ["standard", "1,000", "40,000", "4.2 kB", "20 ms"],
        ["searched", "540 (54.0%)", "21,600 (54.0%)", "2.4 kB", "5 ms (4.0× as fast)"],  # noqa: RUF001
        ["uniform", "550 (55.0%)", "22,000 (55.0%)", "2.4 kB", "400 µs (50.0× as fast)"],  # noqa: RUF001
    ]


def test_layers(written, page):
    saved = rows(written[0], "layers.csv")
    expected = [(each, layer) for each in findings().candidates for layer in each.layers]
    for row, (each, layer) in zip(saved, expected, strict=True):
        assert (row["network"], row["layer"], int(row["filters"])) == (each.name, layer.name, layer.filters)
        assert (row["psi"], row["smaller_eps_psi"]) == ("eps 1e-4 absolute", "eps 1e-6 absolute")
        per_model = [float(value) for value in row["lambda_per_model"].split()]
        assert per_model == list(layer.levels[CONFIGURED].per_model)
        assert float(row["lambda_mean"]) == pytest.approx(statistics.fmean(per_model))
        assert float(row["lambda_deviation"]) == pytest.approx(statistics.stdev(per_model))
        assert float(row["scale_free_lambda_chance"]) == layer.levels[SCALE_FREE].chance
        shown = f"{statistics.fmean(per_model):.3f} ± {statistics.stdev(per_model):.3f}"
        table = page.tables[4 + [other.name for other in findings().candidates].index(each.name)]
        assert shown in next(line for line in table if line[0] == layer.name)
        assert each.name == "uniform" or f"λ = {shown}" in page.words


def test_the_path_of_widths(written, page):
    saved = rows(written[0], "widths.csv")
    assert [(row["round"], row["name"], row["width"], row["within_target"]) for row in saved] == [
        ("0", "conv1", "6", "True"),
        ("0", NASTY, "12", "False"),
        ("1", "conv1", "6", "True"),
        ("1", NASTY, "5", "True"),
    ]
    assert saved[1]["after"] == "5"
    assert saved[1]["reason"] == f"6.5 of 12 repeat {NASTY}"
    assert [row["chosen"] for row in saved] == ["False", "False", "True", "True"]
    assert f"{NASTY} 12 → 5: 6.5 of 12 repeat {NASTY}" in page.words
    assert "conv1 6 → 6" not in page.words


# ---- page ------------------------------------------------------------------------------------------------------------


def test_the_page_is_whole_and_needs_nothing_else(written, page):
    text = (written[0] / "report.html").read_text()
    assert text.startswith("<!doctype html>")
    assert 'name="viewport"' in text
    assert "prefers-color-scheme: dark" in text
    assert all(address.startswith(("data:image/png;base64,", "#")) for address in page.addresses)
    assert all(address[1:] in page.ids for address in page.addresses if address.startswith("#"))
    assert all(place in page.ids for place in re.findall(r"url\(#([^)]+)\)", text))
    assert "@import" not in text
    assert not re.findall(r"url\((?!#)", text)
    assert len(page.ids) == len(set(page.ids))
    assert all(page.labels)
    assert text.count("<svg") == 5
    assert page.headings[0] == f"Width search of network {NASTY} on data of {NASTY}"
    sections = ["Structure", "Quality", "Redundancy", "Search", "Layers looked at", "How it was made"]
    assert [heading for heading in page.headings if heading in sections] == sections
    assert page.headings[-1] == "How to read this"


def test_every_name_is_escaped(written, page):
    text = (written[0] / "report.html").read_text()
    assert "<script" not in text
    assert text.count(escape(NASTY)) >= 8
    assert f"First {NASTY}. Second. Third." in page.words


def test_figures_have_no_fixed_colours_or_background(written):
    text = (written[0] / "report.html").read_text()
    for drawing in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        assert not re.findall(r"#[0-9a-f]{6}\b", drawing)
        assert "var(--text)" in drawing
        assert "var(--line)" in drawing


def test_how_it_was_made(page):
    assert f"trainingepochs 3, {NASTY}" in page.words
    assert f"ckrm_kernels {__version__}, Python {platform.python_version()}, torch {torch.__version__}" in page.words


def test_the_headline(page):
    assert "of the parameters kept54.0%540 of 1,000" in page.words
    comparison = findings().comparisons[0]
    interval = f"95% interval {signed(comparison.difference.low)} to {signed(comparison.difference.high)}"
    assert interval in page.words
    assert verdict(comparison).capitalize() in page.words


def test_the_most_redundant_layer_is_unfolded(page):
    assert page.unfolded.count("layer") == 1
    text = page.words
    assert "12 filters, 66 pairs" in text


def test_nothing_to_narrow_leaves_one_network(tmp_path):
    files = write_report(nothing_to_shrink(), tmp_path)
    page = Page((tmp_path / "report.html").read_text())
    assert sorted(file.name for file in files if file.suffix == ".svg") == [
        "accuracy.svg",
        "auc.svg",
        "omega-standard.svg",
    ]
    assert page.tables[0][0] == ["layer", "standard", "parameters"]
    assert page.tables[0][-1] == ["whole network", "", "1,000"]
    assert "The search ended after its first round: every layer is within target." in page.words
    assert not re.search(r"\b(searched|uniform|nan|None)\b", page.words)
    assert rows(tmp_path, "comparisons.csv") == []


@pytest.mark.parametrize("psi", [Similarity(eps=0.0), Similarity(scale_free=True), Similarity(eps=1e-2)], ids=str)
def test_only_a_psi_that_depends_on_scale_stands_beside_a_scale_free_one(psi, tmp_path):
    write_report(findings(1, psi), tmp_path)
    page = Page((tmp_path / "report.html").read_text())
    (head, *_), *_ = (table for table in page.tables if "distinct" in table[0])
    smaller = {1e-2: "eps 1e-4 absolute", 1e-4: "eps 1e-6 relative to each layer's scale", 0.0: None}[psi.eps]
    beside = "scale-free" if psi.depends_on_scale else None
    row = rows(tmp_path, "layers.csv")[0]
    assert list(row)[9:] == [
        f"{before}{column}"
        for before in ("", "smaller_eps_", "scale_free_")
        for column in ("psi", "lambda_mean", "lambda_deviation", "lambda_per_model", "lambda_chance")
    ]
    assert (row["psi"], row["smaller_eps_psi"]) == (psi.in_words(), smaller or "")
    assert bool(row["scale_free_lambda_mean"]) == psi.depends_on_scale
    expected = ["layer", "shape", smaller, psi.in_words(), beside, "scale-free chance", "distinct"]
    assert head == [name for name in expected if name]
    assert ("small weights" in page.words) == psi.depends_on_scale
    assert (", scale-free 0." in page.words) == psi.depends_on_scale


def test_one_seed_gives_no_intervals(tmp_path):
    write_report(findings(1), tmp_path)
    page = Page((tmp_path / "report.html").read_text())
    assert "where no test is made: it takes at least 3 networks of each kind." in page.words
    assert "Not tested" in page.words
    assert "95%" not in page.words
    assert not re.search(r"\b(nan|None)\b", page.words)
    assert rows(tmp_path, "quality.csv")[0]["accuracy_low"] == ""
    table = next(table for table in page.tables if table[0] == ["network", "seeds", "Accuracy", "AUC"])
    assert table[1] == ["standard", "1", "0.9100", "0.9810"]


@pytest.mark.parametrize(
    ("difference", "equivalence", "said"),
    [
        (0.5, 0.01, ": the same within 0.01 (p = 0.010), and not told apart (p = 0.500)"),
        (0.01, 0.0001, ": standard is better (p = 0.010), but by less than the margin of 0.01 (p < 0.001)"),
        (0.01, 0.2, ": standard is better (p = 0.010)"),
        (0.5, 0.2, ": undecided, not told apart (p = 0.500), but not shown to be the same within 0.01 either"),
    ],
)
def test_a_comparison_in_words(difference, equivalence, said):
    comparison = Comparison(
        "auc", "searched", "standard", Interval(-0.002, -0.003, 0.001), difference, 0.01, equivalence
    )
    words = in_words(comparison).replace("\N{NO-BREAK SPACE}", " ")
    assert words.startswith(f"searched less standard −0.0020 [−0.0030, +0.0010]{said}")  # noqa: RUF001


def test_a_comparison_without_tests_in_words():
    comparison = Comparison("auc", "searched", "standard", Interval(-0.002, None, None), None, 0.01, None)
    words = "searched less standard −0.0020, where no test is made: it takes at least 3 networks of each kind"  # noqa: RUF001
    assert in_words(comparison) == words


def test_a_difference_of_nothing_has_no_sign():
    comparison = Comparison("auc", "searched", "standard", Interval(-1e-9, -1e-6, 0.001), 1.0, 0.01, 0.01)
    assert in_words(comparison).startswith("searched less standard 0.0000 [0.0000, +0.0010]: the same within 0.01")


def test_the_page_says_what_its_colours_mean(page):
    assert (
        "red, amberRed are pairs of filters with Ψ above 0.6; blue, in the squares, are the pairs below." in page.words
    )
    assert "amber where only its small weights make it redundant." in page.words


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("chance", [0.0, 0.05, 1.0])
@pytest.mark.parametrize("scale_free", [0.0, 0.01, 0.051, 0.12, 1.0])
@pytest.mark.parametrize("measured", [0.0, 0.01, 0.051, 0.12, 1.0])
def test_colours_mean_what_they_do_on_the_page_of_measure(measured, scale_free, chance, seeds):
    pairs, of_layer = 120, ("conv1", 16, 8, (3, 3), 120)
    levels = {CONFIGURED: Level((measured,) * seeds, 0.7), SCALE_FREE: Level((scale_free,) * seeds, chance)}
    layer = MeasuredLayer(*of_layer, (16,) * seeds, levels, ((pairs, *[0] * 49),) * seeds)
    free = ScaleFreeRedundancy(scale_free, None, (scale_free,) * seeds, chance, (chance,) * seeds, 16.0, (16,) * seeds)
    row = LayerRedundancy(
        *("conv1", "Conv2d", 16, 8, (3, 3), pairs, measured, None, (measured,) * seeds, 0.7, (0.7,) * seeds),
        *(16.0, (16,) * seeds, None, (), "measured", ""),
        scale_free=free,
    )
    colour = {"repeats": "redundant", "scale": "scale", "none": "text"}[row.finding]
    assert colour_of_level(layer, TARGET) == colour


def test_no_axis_goes_beyond_one():
    for values in ((0.99, 1.0), (1.0, 1.0), (0.9999, 0.99995)):
        (axes,) = box_plots("AUC", [("standard", values)]).axes
        low, high = axes.get_ylim()
        assert low < min(values) <= max(values) < high
        assert high - max(values) <= 0.25 * max(max(values) - min(values), 0.002)
        assert all(tick <= 1 for tick in axes.get_yticks())


def test_no_name_of_a_box_runs_into_another():
    names = ["standard", "searched", "uniform", "uniform-macs", "shrunk", "tuned"]
    for count in (3, 6):
        (axes,) = box_plots("AUC", [(name, (0.9, 0.95)) for name in names[:count]]).axes
        axes.figure.canvas.draw()
        boxes = [label.get_window_extent() for label in axes.get_xticklabels()]
        lines = [boxes] if count == 3 else [boxes[::2], boxes[1::2]]
        assert all(one.x1 < next.x0 for line in lines for one, next in pairwise(line))
        assert axes.figure.bbox.y0 <= min(box.y0 for box in boxes)


# ---- one layer -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("filters", [1, 2, 3, 24])
def test_the_clustered_order_is_a_permutation_of_the_filters(filters):
    torch.manual_seed(1)
    weight = torch.randn(filters, 3, 3, 3)
    order, psi = clustered(weight, PSI)
    assert sorted(order) == list(range(filters))
    expected = reference.cross_psi(weight.double(), weight.double(), Similarity("psi", 0.1, 1, 1, 1e-4))
    assert torch.allclose(psi.double(), expected[order][:, order], atol=1e-5)


def test_filters_that_repeat_each_other_become_neighbours():
    torch.manual_seed(1)
    weight = torch.randn(4, 2, 3, 3).repeat(3, 1, 1, 1) + 1e-3 * torch.randn(12, 2, 3, 3)
    order, _ = clustered(weight, PSI)
    groups = [filter % 4 for filter in order]
    assert sum(before != after for before, after in pairwise(groups)) == 3


def test_the_most_redundant_pairs():
    torch.manual_seed(2)
    weight = 0.05 * torch.randn(7, 2, 3, 3)
    weight[4] = weight[1]
    pairs = most_redundant(weight, PSI)
    every = reference.cross_psi(weight.double(), weight.double(), Similarity("psi", 0.1, 1, 1, 1e-4))
    unit = weight.double() / weight.double().square().mean().sqrt()
    scale_free = reference.cross_psi(unit, unit, Similarity("psi", 0.1, 1, 1, 1e-4))
    best = sorted((-every[i, j].item(), i, j) for i in range(7) for j in range(i + 1, 7))[:6]
    assert [(pair.first, pair.second) for pair in pairs] == [(i, j) for _, i, j in best]
    assert (pairs[0].first, pairs[0].second) == (1, 4)
    for pair, (value, _, _) in zip(pairs, best, strict=True):
        assert pair.psi == pytest.approx(-value, abs=1e-5)
        assert pair.scale_free == pytest.approx(scale_free[pair.first, pair.second].item(), abs=1e-5)


def test_the_largest_slices_of_a_pair():
    weight = torch.zeros(3, 8, 3, 3)
    for place, value in enumerate((5, 1, 7, 2, 0, 3, 4, 6)):
        weight[place % 2, place] = value
    assert largest_slices(weight, Pair(0, 1, 1.0, 1.0)) == [0, 2, 3, 5, 6, 7]
    assert largest_slices(weight[:, :4], Pair(0, 1, 1.0, 1.0)) == [0, 1, 2, 3]


@pytest.mark.parametrize("kernel", [(3, 3), (5,), (2, 3, 2)])
def test_a_pair_is_drawn_with_its_largest_weight_in_full_colour(kernel):
    weight = torch.zeros(2, 4, *kernel)
    weight.view(2, 4, -1)[0, 0, 0], weight.view(2, 4, -1)[1, 3, -1] = -0.25, 0.125
    png, largest = pair_png(weight, Pair(0, 1, 1.0, 1.0))
    assert largest == 0.25
    drawn = np.asarray(Image.open(io.BytesIO(png)).convert("RGBA"))
    height, width = (kernel[0], int(np.prod(kernel[1:]))) if len(kernel) > 1 else (1, kernel[0])
    assert drawn.shape == (2 * 3 * height + 2, 6 * 3 * width + 5 * 2, 4)
    assert tuple(drawn[0, 0]) == (122, 92, 190, 255)  # violet: the most negative
    assert tuple(drawn[1, 3 * width]) == (0, 0, 0, 0)  # between slices
    orange = drawn[-1, 3 * (3 * width + 2) + 3 * width - 1]
    assert tuple(orange[:3]) == (232, 134, 36)
    assert 120 <= orange[3] <= 135  # half as far
    assert (drawn[..., 3] > 8).sum() == 2 * 9


def test_the_matrix_is_red_where_pairs_are_redundant():
    psi = torch.tensor([[1.0, 0.61, 0.0], [0.61, 1.0, 0.59], [0.0, 0.59, 1.0]])
    drawn = np.asarray(Image.open(io.BytesIO(matrix_png(psi, 0.6))).convert("RGBA"))
    assert drawn.shape == (3, 3, 4)
    red, blue = drawn[..., 0] > drawn[..., 2], drawn[..., 2] > drawn[..., 0]
    assert np.array_equal(red, np.array([[0, 1, 0], [1, 0, 0], [0, 0, 0]], bool))
    assert np.array_equal(blue, np.array([[0, 0, 1], [0, 0, 1], [1, 1, 0]], bool))
    assert drawn[0, 2, 3] == 0  # nothing in common is clear
    assert not drawn[range(3), range(3), 3].any()  # and so is a filter with itself


def test_a_large_matrix_is_drawn_by_blocks():
    psi = torch.full((1027, 1027), 0.3)
    psi.fill_diagonal_(1.0)
    drawn = Image.open(io.BytesIO(matrix_png(psi, 0.6)))
    assert drawn.size == (343, 343)
    drawn = np.asarray(drawn.convert("RGBA"))
    assert (drawn[-1, -1, 3], drawn[-2, -2, 3]) == (0, drawn[0, -1, 3])  # the last filter with itself alone is clear
    assert (drawn[..., 3] == drawn[0, 0, 3]).sum() == 343 * 343 - 1


def test_colours_at_the_ends_of_the_threshold():
    for threshold in (0.0, 1.0):
        drawn = Image.open(io.BytesIO(picture(np.array([[0.0, 1.0]]), psi_stops(threshold))))
        assert drawn.size == (2, 1)


# ---- labels ----------------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(0, 100), min_size=1, max_size=12).map(sorted))
def test_labels_keep_order_distance_and_limits(places):
    apart = spread_apart(places, 5.0, 0.0, 100.0)
    assert all(after - before >= 5 - 1e-9 for before, after in pairwise(apart))
    assert apart[0] >= 0
    assert apart[-1] <= 100 + 1e-9
    if all(after - before >= 5 for before, after in pairwise(places)):
        assert apart == pytest.approx(places)


# ---- saliency --------------------------------------------------------------------------------------------------------


def with_saliency() -> Findings:
    """The findings of networks that predict saliency, of two images of classes named in the worst way."""
    whole, generator = findings(), torch.Generator().manual_seed(0)

    def maps() -> torch.Tensor:
        return torch.rand(2, 5, 4, generator=generator)

    names = [each.name for each in whole.candidates]
    examples = SaliencyExamples(
        maps(), maps(), {name: maps() for name in names}, dict.fromkeys(names, (0.25, -0.5)), (1, 0)
    )
    candidates = tuple(
        replace(
            each,
            scores=tuple(
                replace(score, saliency=SaliencyScore(0.5 + place + seed / 10, 0.5, 0.75))
                for seed, score in enumerate(each.scores)
            ),
        )
        for place, each in enumerate(whole.candidates)
    )
    return replace(whole, candidates=candidates, classes=(NASTY, f"b {NASTY}"), saliency=examples)


def test_saliency_has_its_pictures_its_table_and_its_columns(tmp_path):
    files = {str(file.relative_to(tmp_path)) for file in write_report(with_saliency(), tmp_path)}
    assert {"figures/saliency.png", "figures/saliency.svg"} <= files
    page = Page((tmp_path / "report.html").read_text())
    sections = ["Quality", "Where they look", "Redundancy"]
    assert [heading for heading in page.headings if heading in sections] == sections
    assert f"saliency predicted by {', '.join(SCORES)}" in " ".join(filter(None, page.labels))
    head, *body = next(table for table in page.tables if "CC" in table[0])
    assert head == ["network", "KL", "CC", "histogram similarity"]
    spread = STUDENT[3] * 0.1 / 3**0.5
    for place, (row, name) in enumerate(zip(body, SCORES, strict=True)):
        mean = 0.6 + place
        assert row[:2] == [name, f"{mean:.4f} [{mean - spread:.4f}, {mean + spread:.4f}]"]
    assert rows(tmp_path, "quality.csv")[0]["saliency_divergence_per_model"] == "0.5 0.6 0.7"
    assert "<script" not in (tmp_path / "report.html").read_text()
    assert len(page.ids) == len(set(page.ids))


def test_without_saliency_the_page_says_nothing_of_it(written, page):
    assert "saliency" not in page.words
    assert "saliency" not in (written[0] / "tables/quality.csv").read_text()


# ---- in a browser ----------------------------------------------------------------------------------------------------

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PROBE = """<script>
document.querySelectorAll("details").forEach(d => { d.removeAttribute("name"); d.open = true; });
const box = e => { const r = e.getBoundingClientRect(); return [r.width, r.height]; };
const result = {
  inner: innerWidth, page: document.documentElement.scrollWidth, body: document.body.scrollWidth,
  figures: [...document.querySelectorAll("svg, img")].map(box),
  broken: [...document.images].filter(i => !i.complete || !i.naturalWidth).length,
  sideways: [...document.querySelectorAll(".scroll")].filter(b => b.scrollWidth > b.clientWidth).length,
  ink: getComputedStyle(document.querySelector("svg text")).fill,
  outside: [...document.querySelectorAll("svg")].flatMap(s => { const b = s.getBoundingClientRect();
    return [...s.querySelectorAll("text")].filter(t => { const r = t.getBoundingClientRect();
      return r.left < -1 || r.right > innerWidth + 1 || r.top < b.top - 1 || r.bottom > b.bottom + 1; })
      .map(t => t.textContent); }),
};
parent.document.getElementById("result").textContent = JSON.stringify(result);
</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium, chromium-browser or google-chrome is installed")
@pytest.mark.parametrize("width", [390, 1280, *also(500)])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_in_a_browser_every_figure_is_there(written, tmp_path, width, scheme):
    text = (written[0] / "report.html").read_text().replace("</body>", PROBE + "</body>")
    frame = tmp_path / "frame.html"  # a browser's own window cannot be as narrow as a phone
    frame.write_text(
        f'<!doctype html><pre id="result"></pre><iframe width="{width}" height="900" style="border:0" '
        f'srcdoc="{escape(text)}"></iframe>'
    )
    command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    command += ["--enable-logging=stderr", "--virtual-time-budget=5000", "--window-size=1400,1000"]
    command += [
        f"--blink-settings=preferredColorScheme={['dark', 'light'].index(scheme)}",
        "--dump-dom",
        frame.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in done.stderr
    result = json.loads(re.search(r'<pre id="result">(.*?)</pre>', done.stdout, re.DOTALL)[1].replace("&amp;", "&"))
    assert result["inner"] == width
    assert result["page"] <= width
    assert result["body"] <= width
    # five drawings; two legends; for two layers of two networks a matrix and up to six pairs
    assert len(result["figures"]) == 5 + 2 + 2 * 2 * (1 + 6)
    assert all(size[0] > 20 and size[1] > 5 for size in result["figures"])
    assert result["broken"] == 0
    assert result["outside"] == []
    assert result["sideways"] == 0
    assert result["ink"] == {"light": "rgb(28, 30, 33)", "dark": "rgb(230, 232, 234)"}[scheme]
