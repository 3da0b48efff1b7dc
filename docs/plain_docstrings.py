"""Shows this project's docstrings on the site: `name: what it is` lines become a list, and names in backticks links."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import griffe

_NAME = r"[A-Za-z_]\w*(?: \([^)]*\))?"
_NAMES = rf"{_NAME}(?:, {_NAME})*"
_FIELD = re.compile(rf"({_NAMES}): (.*)")
_SECOND_FIELD = re.compile(rf"; (?=({_NAMES}): )")
_CODE = re.compile(r"(`[^`]+`)")


class PlainDocstrings(griffe.Extension):
    """Rewrites every docstring as Markdown."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rewrites the object's own docstring."""
        if obj.docstring is not None:
            obj.docstring.value = _markdown(obj.docstring.value, obj)


def _markdown(docstring: str, obj: griffe.Object) -> str:
    lines: list[str] = []
    in_list = in_code = False
    for line in _one_field_a_line(docstring, obj):
        field, continued = _FIELD.fullmatch(line), line.startswith("    ")
        if field:
            if not in_list:
                lines.append("")
            lines.append(f"- **{field[1]}**: {_inline(field[2], obj)}")
            in_list = True
            continue
        if in_list and continued:
            lines.append("    " + _inline(line.strip(), obj))
            continue
        if in_list and line:
            lines.append("")
        if line:
            in_list = False
            in_code = continued
        lines.append(line if in_code else _inline(line, obj))
    return "\n".join(lines)


def _one_field_a_line(docstring: str, obj: griffe.Object) -> Iterator[str]:
    """The lines; `first: what it is; second: what it is` makes two where both are the object's."""
    own = {*obj.members, *(each.name for each in getattr(obj, "parameters", ()))}
    for line in docstring.splitlines():
        start = 0
        for second in _SECOND_FIELD.finditer(line) if _FIELD.fullmatch(line) else ():
            if own.issuperset(second[1].split(", ")):
                yield line[start : second.start()]
                start = second.end()
        yield line[start:]


def _inline(text: str, obj: griffe.Object) -> str:
    """Nothing outside of backticks is markup."""
    parts = _CODE.split(text)
    return "".join(_linked(part, obj) if part.startswith("`") else _escaped(part) for part in parts)


def _escaped(text: str) -> str:
    return re.sub(r"([*_\[\]|])", r"\\\1", text).replace("<", "&lt;")


def _linked(code: str, obj: griffe.Object) -> str:
    """The code, as a link where it names something that a page of the site shows."""
    first, *rest = code.strip("`").split(".")
    try:
        target = ".".join([obj.resolve(first), *rest])
    except griffe.NameResolutionError:
        return code
    return f'<autoref optional identifier="{target}">{code}</autoref>'
