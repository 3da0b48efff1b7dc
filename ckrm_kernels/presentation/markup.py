"""Pages from templates, and small pieces of HTML. What is not `Markup` is escaped on its way in."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ckrm_kernels.presentation.theme import DARK, LIGHT


class Table(NamedTuple):
    """What the macro `table` of table.html.jinja draws. The first column names the rows, the others are numbers.

    caption: stands above it; head: one a column; rows, foot: cells, as many as head
    """

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    foot: Sequence[Sequence[str]] = ()


def render(module: str, **values: object) -> Markup:
    """The template that stands beside a module, x.html.jinja beside x.py, filled in.

    module: the module's `__file__`; values: what the template names, beside what this file gives to all templates
    It may extend base.html.jinja and import table.html.jinja.
    """
    path = Path(module)
    return Markup(_environment(path.parent).get_template(f"{path.stem}.html.jinja").render(values))


def image(png: bytes, alternative: str, style: str) -> Markup:
    """A PNG file inside the page. style: the class"""
    data = base64.b64encode(png).decode()
    return Markup('<img class="{}" alt="{}" src="data:image/png;base64,{}">').format(style, alternative, data)


def breakable(name: str) -> Markup:
    """A long name that may be broken behind its dots, underscores and slashes."""
    return Markup("<wbr>").join(re.split(r"(?<=[._/])", name))


def swatch(name: str) -> Markup:
    """A candidate's name behind a dot of its colour."""
    return Markup('<span class="swatch {0}">{0}</span>').format(name)


@cache
def _environment(folder: Path) -> Environment:
    """Of the templates of a folder and of this one."""
    environment = Environment(
        loader=FileSystemLoader([folder, Path(__file__).parent]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(light=LIGHT, dark=DARK, image=image, swatch=swatch, breakable=breakable)
    return environment
