from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from browser import needs_browser, opened
from hand_made import ARTEFACT, DEAD, EVERYTHING, NASTY, NORMS, NOTHING, REPEATS, SINGLE, layer, report, skipped

from ckrm_kernels import RedundancyReport
from ckrm_kernels.similarity import Similarity

_VOID = ("meta", "br", "wbr", "input")


class Page(HTMLParser):
    """Checks that tags are balanced and gathers the words of every cell."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.rows: list[list[str]] = []
        self.links: list[str] = []
        self.scripts = 0
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        if tag not in _VOID:
            self.open.append(tag)
        self.scripts += tag == "script"
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
        if {"td", "th"} & set(self.open[-2:]):
            self.rows[-1][-1] += data


def rows(of: RedundancyReport) -> list[dict[str, str]]:
    """The table's rows, by the heads of its columns; those of a second group are after its name."""
    page = Page(of.to_html())
    *_, head = [row for row in page.rows if row[0] == "layer"]
    body = page.rows[page.rows.index(head) + 1 :]
    return [dict(zip([f"{place} {name}" for place, name in enumerate(head)], row, strict=True)) for row in body]


def test_the_page_is_well_formed_self_contained_and_escaped():
    text = report(layer(NASTY, 0.5, 0.1, kind=NASTY), skipped(NASTY, NASTY, NASTY), notes=(NASTY,)).to_html()
    page = Page(text)
    assert text.startswith("<!doctype html>")
    assert page.links == []
    assert page.scripts == 1
    assert re.sub(r'"http://www.w3.org/2000/svg"', "", text).count("http") == 0
    assert '<script>alert("x")' not in text
    assert "prefers-color-scheme: dark" in text
    assert 'name="viewport"' in text
    assert page.rows[-1][0] == NASTY + NASTY


def test_a_row_of_the_page_has_the_numbers_and_the_finding():
    found = rows(report(REPEATS, ARTEFACT, DEAD, SINGLE))
    assert list(found[0].values()) == [
        *("blocks.11.conv_dwConv2d", "repeats", "", "672x1x5x5"),
        *("0.7000", "0.1000", "12", "0.6520", "0.0009", "15", "0", "", "", "0.99"),
    ]
    assert list(found[1].values())[4:10] == ["1.0000", "1.0000", "–", "0.0000", "0.0000", "–"]  # noqa: RUF001
    assert list(found[2].values())[10:13] == ["48", "0.0800", "0.0160"]
    assert found[3]["0 layer"] == "singleConv2d; fewer than two filters"
    assert list(found[3].values())[4:6] == ["–", "–"]  # noqa: RUF001


@pytest.mark.parametrize(
    ("of", "finding"), [(REPEATS, "repeats"), (ARTEFACT, "scale"), (NOTHING, "none"), (DEAD, "none"), (SINGLE, "none")]
)
def test_what_is_found_is_marked_and_explained(of, finding):
    text = report(of).to_html()
    assert f'<tr class="{finding}" data-name="{of.name}"' in text
    for mark in ("repeats", "scale"):
        assert (f'<dt class="mark {mark}">{mark}</dt>' in text) == (mark == finding)


def test_the_page_ends_with_what_it_was_made_from():
    text = EVERYTHING.to_html()
    provenance = text[text.index('id="provenance"') :]
    for words in ("weights/model.safetensors, 44.7 MB", "0123456789abcdef" * 4, "ckrm_kernels 1.0, torch 2.13.0"):
        assert words in provenance
    assert "threshold 0.6, eps 1e-4 absolute, pointwise skip" in provenance
    assert "2026-11-27T04:30:00+00:00" in provenance


def test_skipped_layers_are_folded_by_reason():
    text = EVERYTHING.to_html()
    assert "<summary>41: normalisation, no filters</summary>" in text
    assert "<summary>3: shares its weight with …</summary>" in text
    assert text.count("<li ") == 44
    assert "<b>copy1</b> Conv2d : shares its weight with 1</li>" in text


def test_a_page_of_nothing_measured_says_so_without_a_script():
    text = report(*NORMS).to_html()
    assert "Nothing was measured: 41 layers skipped: normalisation, no filters." in text
    assert Page(text).scripts == 0
    assert "<table" not in text


# ---- in a browser ----------------------------------------------------------------------------------------------------

MEASURED = (REPEATS, ARTEFACT, NOTHING, DEAD, SINGLE, layer(NASTY, 0.002, 0.001))
HELPERS = """
const shownNames = () => [...document.querySelectorAll("#layers tbody tr")].filter((row) => !row.hidden)
  .map((row) => row.dataset.name);
const head = (key) => document.querySelector(`#layers th[data-key="${key}"]`);
const press = (key, on) => on.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
const lookText = () => look.hidden ? "" : look.querySelector("h2").textContent + "|" + bin.textContent;
"""
USE = (
    HELPERS
    + """
const result = { inModel: shownNames(), count: document.getElementById("count").textContent };
head("redundancy").querySelector("button").click();
result.largest = shownNames();
result.sorted = head("redundancy").ariaSort;
head("redundancy").querySelector("button").click();
result.smallest = shownNames();
head("redundancy").querySelector("button").click();
result.again = shownNames();
list.value = [...list.options].find((option) => option.text === "layer").value;
list.dispatchEvent(new Event("change"));
result.byName = shownNames();
const type = (text) => { filter.value = text; filter.dispatchEvent(new Event("input")); return shownNames(); };
result.part = type("conv");
result.counted = document.getElementById("count").textContent;
result.glob = type("blocks.*_dw");
result.skipped = [...document.querySelectorAll("li[data-name]")].filter((item) => !item.hidden).length;
type("");
result.before = lookText();
rows[0].click();
result.tapped = lookText();
result.drawn = look.querySelectorAll("rect").length;
result.pairs = look.querySelector("p").textContent;
press("ArrowLeft", rows[0].querySelector("td button"));
result.moved = bin.textContent;
press("Escape", document.body);
result.closed = lookText();
rows[5].querySelector("td button").focus();
rows[5].querySelector("td button").dispatchEvent(new FocusEvent("focusin", { bubbles: true }));
result.focused = lookText();
rows[1].dispatchEvent(new PointerEvent("pointerenter", { pointerType: "mouse" }));
result.hovered = lookText();
"""
)


@needs_browser
def test_in_a_browser_the_table_sorts_filters_and_shows_each_distribution(tmp_path):
    text = report(*MEASURED, *NORMS).to_html()
    result = opened(text, USE, tmp_path, 1280)
    names = [each.name for each in MEASURED]
    assert result["inModel"] == result["again"] == names
    assert result["count"] == "6 of 6 measured layers"
    assert result["sorted"] == "descending"
    assert result["largest"] == [ARTEFACT.name, REPEATS.name, DEAD.name, NASTY, NOTHING.name, SINGLE.name]
    assert result["smallest"] == [NOTHING.name, NASTY, DEAD.name, REPEATS.name, ARTEFACT.name, SINGLE.name]
    assert [name for name in result["byName"] if name != NASTY] == sorted(name for name in names if name != NASTY)
    assert result["part"] == [NOTHING.name, REPEATS.name, ARTEFACT.name]
    assert result["counted"] == "3 of 6 measured layers"
    assert (result["glob"], result["skipped"]) == ([REPEATS.name], 0)
    assert (result["before"], result["closed"]) == ("", "")
    above = REPEATS.histogram[-1]
    assert result["tapped"] == f"{REPEATS.name}|Ψ from 0.99 to 1.00: {above:,} pairs"
    assert result["moved"] == "Ψ from 0.98 to 0.99: 0 pairs"
    assert result["drawn"] == 100
    assert result["pairs"] == f"{REPEATS.pairs:,} pairs of filters, {above:,} of them with Ψ above 0.6"
    assert result["focused"].startswith(f"{NASTY}|Ψ from 0.00 to 0.01: ")
    assert result["hovered"].startswith(f"{ARTEFACT.name}|Ψ from 0.99 to 1.00: ")


LAYOUT = (
    HELPERS
    + """
rows[0].click();
const box = look.getBoundingClientRect();
const result = {
  inner: innerWidth, page: document.documentElement.scrollWidth,
  sideways: [...document.querySelectorAll(".scroll")].filter((each) => each.scrollWidth > each.clientWidth).length,
  drawings: [...document.querySelectorAll("svg.histogram")].map((each) => each.getBoundingClientRect().width),
  look: [box.left >= 0, box.right <= innerWidth, box.height > 120],
  heads: document.querySelector("#layers thead").getBoundingClientRect().height,
  ink: getComputedStyle(document.body).color, mark: getComputedStyle(document.querySelector(".repeats .mark")).color,
  scale: getComputedStyle(document.querySelector(".scale .mark")).color,
};
"""
)


@needs_browser
@pytest.mark.parametrize(("width", "scheme"), [(420, "dark"), (1280, "light")])
def test_in_a_browser_everything_fits(width, scheme, tmp_path):
    result = opened(report(*MEASURED, *NORMS).to_html(), LAYOUT, tmp_path, width, scheme)
    assert result["inner"] == width
    assert result["page"] <= width
    assert result["sideways"] == 0
    assert len(result["drawings"]) == 5
    assert min(result["drawings"]) > 100
    assert result["look"] == [True, True, True]
    assert (result["heads"] > 0) == (width > 800)
    assert result["ink"] == {"light": "rgb(28, 30, 33)", "dark": "rgb(230, 232, 234)"}[scheme]
    assert result["mark"] == {"light": "rgb(200, 55, 77)", "dark": "rgb(240, 120, 138)"}[scheme]
    assert result["scale"] not in (result["ink"], result["mark"])


@needs_browser
def test_in_a_browser_a_report_without_details_sorts_too(tmp_path):
    without = [replace(each, chance=None, distinct=None, scale_free=None, dead=None) for each in MEASURED]
    script = HELPERS + 'head("redundancy").querySelector("button").click(); const result = shownNames();'
    assert opened(report(*without).to_html(), script, tmp_path, 1280)[0] == ARTEFACT.name


SIGNED = report(
    replace(REPEATS, histogram=(5, *[0] * 74, 3, *[0] * 24), lowest=-1.0, scale_free=None),
    threshold=0.5,
    similarity=Similarity("cosine", signed=True),
)


def test_a_signed_similarity_is_drawn_from_minus_one_to_one_and_named():
    text = SIGNED.to_html()
    assert "cosine of all pairs" in text
    assert "median cosine" in text
    assert 'd="M75.0 0V20"' in text  # the threshold, of what reaches from 0 to 100
    assert 'class="below" d="M0 20v-19h1v19z"' in text
    assert 'class="redundant" d="M75 20v-11.4h1v11.4z"' in text
    assert "how alike two filters are, between -1 and 1; pairs above the threshold 0.5 are red" in text
    assert "of them with cosine above 0.5" in text
    assert "Ψ" not in text


@needs_browser
def test_in_a_browser_the_bins_of_a_signed_similarity_have_its_values(tmp_path):
    script = (
        HELPERS
        + """rows[0].click();
const red = [...look.querySelectorAll("rect")].findIndex((rect) => rect.classList.contains("redundant"));
const result = [lookText(), red]; choose(75); result.push(bin.textContent);"""
    )
    found = opened(SIGNED.to_html(), script, tmp_path, 1280)
    assert found == [f"{REPEATS.name}|cosine from -1.00 to -0.98: 5 pairs", 75, "cosine from 0.50 to 0.52: 3 pairs"]
