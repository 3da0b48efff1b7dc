"""Figures of one width and one size of type, as files and as part of the page."""

from __future__ import annotations

import re
from io import BytesIO
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

from ckrm_kernels.extras import require
from ckrm_kernels.presentation.theme import LIGHT

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, MARGIN = 5.0, 0.2  # inches, the latter on both sides, which the page cuts off
TYPE = 10.0


def new_figure(height: float, width: float = WIDTH, *, wanted_by: str = "the report", **options: Any) -> Figure:
    """An empty figure; height and width in inches. No window opens and pyplot's state stays as it is.

    wanted_by: what the error names where matplotlib is missing; options: of matplotlib's `Figure`
    """
    with require(wanted_by, "matplotlib"):
        from matplotlib.figure import Figure
    return Figure(figsize=(width, height), **options)


def plain(axes: Axes) -> None:
    """Axes in the page's manner: one line at the bottom, soft numbers."""
    axes.set_facecolor("none")
    axes.tick_params(labelsize=TYPE, color=LIGHT["line"], labelcolor=LIGHT["soft"], length=3)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(LIGHT["line"])


def shortened(name: str, longest: int) -> str:
    """A name of at most so many characters; of a longer one, its end."""
    return name if len(name) <= longest else "…" + name[1 - longest :]


def png_file(figure: Figure, dots_per_inch: int = 130) -> bytes:
    """The figure as a PNG file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=dots_per_inch)
    return buffer.getvalue()


def figure_file(
    figure: Figure, suffix: str, *, dots_per_inch: int = 150, metadata: dict[str, Any] | None = None
) -> bytes:
    """The figure as a file in a format of matplotlib's, named by its suffix; the text of an SVG file is text."""
    from matplotlib import rc_context

    buffer = BytesIO()
    with rc_context({"svg.fonttype": "none"}):
        figure.savefig(buffer, format=suffix, dpi=dots_per_inch, metadata=metadata)
    return buffer.getvalue()


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
    return Markup(f'<svg role="img" aria-label="{escape(label)}" {box}>{body}</svg>')


def _shortened(path: str) -> str:
    """A path's numbers in hundredths of a unit, on one line."""
    return re.sub(r"\d+\.\d{3,}", lambda m: f"{float(m[0]):.2f}", path).replace("\n", "").strip()


def _svg(figure: Figure, name: str, **options: Any) -> bytes:
    import matplotlib

    buffer = BytesIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata={"Date": None}, **options)
    return buffer.getvalue()
