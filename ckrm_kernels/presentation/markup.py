"""Small pieces of HTML. Text is escaped on its way in, unless it is `Markup` already."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape


class Markup(str):
    """HTML, as opposed to text."""


def html(text: str) -> str:
    """Text as HTML; `Markup` as it is."""
    return text if isinstance(text, Markup) else escape(text)


def element(tag: str, *content: str, **attributes: str | None) -> Markup:
    """An element with an end tag.

    attributes: an underscore at the end of a name is dropped, one inside is a hyphen; those that are None are left out
    """
    written = "".join(
        f' {name.strip("_").replace("_", "-")}="{escape(value)}"'
        for name, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{tag}{written}>{''.join(map(html, content))}</{tag}>")


def image(png: bytes, alternative: str, style: str) -> Markup:
    """A PNG file inside the page. style: the class"""
    data = base64.b64encode(png).decode()
    return Markup(f'<img class="{style}" alt="{escape(alternative)}" src="data:image/png;base64,{data}">')


def section(title: str, *content: str) -> Markup:
    """A section under its heading."""
    return element("section", element("h2", title), *content)


def paragraph(*content: str, class_: str | None = None) -> Markup:
    """A paragraph."""
    return element("p", *content, class_=class_)


def table(
    caption: str, head: Sequence[str], rows: Sequence[Sequence[str]], *, foot: Sequence[Sequence[str]] = ()
) -> Markup:
    """A table. The first column names the rows, the others are numbers.

    caption: stands above it; head: one a column; rows, foot: cells, as many as head
    """
    bodies = [element("tbody", *map(_row, rows))] + ([element("tfoot", *map(_row, foot))] if foot else [])
    heading = element("tr", *(element("th", cell, scope="col") for cell in head))
    return captioned(caption, element("table", element("thead", heading), *bodies))


def captioned(caption: str, inner: str, style: str = "scroll") -> Markup:
    """A table under its caption, in a box that scrolls sideways, by keys too. style: the box's classes"""
    box = element("div", inner, class_=style, role="region", aria_label=caption, tabindex="0")
    return element("figure", element("figcaption", caption), box, class_="table")


def _row(cells: Sequence[str]) -> Markup:
    return element("tr", element("th", cells[0], scope="row"), *(element("td", cell) for cell in cells[1:]))


def swatch(name: str) -> Markup:
    """A candidate's name behind a dot of its colour."""
    return Markup(f'<span class="swatch {escape(name)}">{escape(name)}</span>')
