from __future__ import annotations

import base64
import re
from pathlib import Path

import jinja2
import pytest
from markupsafe import Markup

from ckrm_kernels.presentation.markup import Table, breakable, image, render, swatch
from ckrm_kernels.presentation.theme import DARK, LIGHT

NASTY = '<b class="x">&\'</b>'
ESCAPED = "&lt;b class=&#34;x&#34;&gt;&amp;&#39;&lt;/b&gt;"
TABLE = '{% from "table.html.jinja" import table %}{{ table(of) }}'


def rendered(folder: Path, template: str, **values: object) -> str:
    """The template beside a module that need not exist."""
    (folder / "some.html.jinja").write_text(template)
    return render(str(folder / "some.py"), **values)


def test_text_is_escaped_and_markup_is_not(tmp_path):
    text = rendered(tmp_path, '<p title="{{ text }}">{{ text }}{{ html }}</p>', text=NASTY, html=Markup("<br>"))
    assert text == f'<p title="{ESCAPED}">{ESCAPED}<br></p>'
    assert isinstance(text, Markup)
    assert swatch(NASTY) == f'<span class="swatch {ESCAPED}">{ESCAPED}</span>'


def test_a_missing_value_is_an_error(tmp_path):
    with pytest.raises(jinja2.UndefinedError, match="'text' is undefined"):
        rendered(tmp_path, "{{ text }}")


def test_an_image_is_inside_the_page():
    tag = image(b"\x89PNG", NASTY, "matrix")
    assert f'class="matrix" alt="{ESCAPED}"' in tag
    assert base64.b64decode(re.search('base64,([^"]+)', tag)[1]) == b"\x89PNG"


def test_a_name_may_be_broken_behind_its_parts():
    assert breakable("layer1.conv_dw/x") == "layer1.<wbr>conv_<wbr>dw/<wbr>x"
    assert breakable(NASTY).replace("<wbr>", "") == ESCAPED


def test_a_table_names_the_column_of_each_cell(tmp_path):
    rows, foot = [["a", "1", Markup("<i>2</i>")], [NASTY, "3", ""]], [["sum", "4", "2"]]
    head = ["name", swatch("standard"), NASTY]
    text = rendered(tmp_path, TABLE, of=Table(NASTY, head, rows, foot))
    cells = re.findall(r'<td data-label="([^"]*)">(.*?)</td>', text)
    assert cells == [
        *[("standard", "1"), (ESCAPED, "<i>2</i>")],
        *[("standard", "3"), (ESCAPED, "")],
        *[("standard", "4"), (ESCAPED, "2")],
    ]
    assert re.findall('<th scope="row">(.*?)</th>', text) == ["a", ESCAPED, "sum"]
    assert NASTY not in text


def test_a_page_has_every_colour_for_light_and_dark(tmp_path):
    page = '{% extends "base.html.jinja" %}{% block main %}<p>{{ title }}</p>{% endblock %}'
    text = rendered(tmp_path, page, title=NASTY)
    assert text.startswith("<!doctype html>")
    light, dark = re.findall(r":root \{(.*?)\}", text)
    assert all(f"--{name}: {colour};" in light for name, colour in LIGHT.items())
    assert all(f"--{name}: {colour};" in dark for name, colour in DARK.items())
    assert set(re.findall(r"var\(--(\w+)\)", text)) <= {*LIGHT, "share"}


def test_a_colour_has_one_name():
    assert LIGHT.keys() == DARK.keys()
    assert len(set(LIGHT.values())) == len(LIGHT)
    assert len(set(DARK.values())) == len(DARK)
