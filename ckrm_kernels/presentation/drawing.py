"""Figures of one width and one size of type, as files and as part of the page."""

from __future__ import annotations

import re
from io import BytesIO
from typing import TYPE_CHECKING, Any

from ckrm_kernels.extras import require
from ckrm_kernels.presentation.colours import LIGHT
from ckrm_kernels.presentation.markup import Markup, element

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, MARGIN = 5.0, 0.2  # inches, the latter on both sides, which the page cuts off
TYPE = 10.0


def new_figure(height: float) -> Figure:
    """An empty figure of the page's width; height in inches. It leaves pyplot's state alone."""
    with require("the report", "matplotlib"):
        from matplotlib.figure import Figure
    return Figure(figsize=(WIDTH, height))


def plain(axes: Axes) -> None:
    """Axes in the page's manner: one line at the bottom, soft numbers."""
    axes.set_facecolor("none")
    axes.tick_params(labelsize=TYPE, color=LIGHT["line"], labelcolor=LIGHT["soft"], length=3)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(LIGHT["line"])


def svg_file(figure: Figure, name: str) -> bytes:
    """The figure as an SVG file, the same bytes whenever it is made; its text is text."""
    return _svg(figure, name, facecolor=LIGHT["back"])


def inline_svg(figure: Figure, name: str, label: str) -> Markup:
    """The figure as part of the page: in the page's colours and type, without a background.

    name: of the figure, which its ids begin with; label: what it shows, for who cannot see it
    """
    text = _svg(figure, name, facecolor="none").decode()
    height = 72 * figure.get_figheight()
    box = f'viewBox="{72 * MARGIN:g} 0 {72 * (WIDTH - 2 * MARGIN):g} {height:g}"'
    body = text[text.index("</metadata>") + len("</metadata>") : text.rindex("</svg>")]
    body = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", body, flags=re.DOTALL)
    used = set(re.findall(r"#([A-Za-z]\w*)(?=[)\"])", body))
    body = re.sub(r' id="([^"]*)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", body)
    body = re.sub(r"(url\(|href=\")#(\w+)", rf"\g<1>#{name}-\2", body)
    for variable, colour in LIGHT.items():
        body = body.replace(colour, f"var(--{variable})")
    body = re.sub(r' d="([^"]*)"', lambda m: f' d="{_shortened(m[1])}"', body)
    body = re.sub(r"\n\s*", "\n", body)
    opening = element("svg", role="img", aria_label=label).removesuffix("></svg>")
    return Markup(f"{opening} {box}>{body}</svg>")


def _shortened(path: str) -> str:
    """A path's numbers in hundredths of a unit, on one line."""
    return re.sub(r"\d+\.\d{3,}", lambda m: f"{float(m[0]):.2f}", path).replace("\n", "").strip()


def _svg(figure: Figure, name: str, **options: Any) -> bytes:
    import matplotlib

    buffer = BytesIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata={"Date": None}, **options)
    return buffer.getvalue()
