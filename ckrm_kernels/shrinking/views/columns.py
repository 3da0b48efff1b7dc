"""What a view shows of each layer, as text: the columns of the table and of the page."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ckrm_kernels.presentation.grid import Column
from ckrm_kernels.presentation.tables import printable
from ckrm_kernels.shrinking.rows import ShrunkLayer


def shown(layers: Sequence[ShrunkLayer]) -> list[ShrunkLayer]:
    """The rows that a table shows: where filters leave, or an error was measured. The others have a reason."""
    return [layer for layer in layers if layer.shrinks or layer.error_after is not None]


def columns(layers: Sequence[ShrunkLayer]) -> list[Column[ShrunkLayer]]:
    """Those that say something of at least one of the layers, and the name."""
    return [column for column in _EVERY if column.key == "layer" or any(map(column.text, layers))]


def shown_name(layer: ShrunkLayer) -> str:
    """The name, with what would move a terminal's cursor written out."""
    return printable(layer.name) or "(whole)"


def _number(name: str, form: str) -> Callable[[ShrunkLayer], str]:
    def text(layer: ShrunkLayer) -> str:
        value = getattr(layer, name)
        return "" if value is None else format(value, form)

    return text


def _wanted(layer: ShrunkLayer) -> str:
    return "" if layer.wanted == layer.reached else str(layer.wanted)


def _deviation(layer: ShrunkLayer) -> str:
    return "" if layer.deviation is None else f"{layer.deviation:.0e}" if layer.deviation else "0"


def _coupled_with(layer: ShrunkLayer) -> str:
    return "" if layer.coupling in ("", layer.name) else printable(layer.coupling)


_EVERY = [
    Column[ShrunkLayer]("layer", "layer", "", shown_name, 0, True),
    Column[ShrunkLayer]("kind", "kind", "", lambda layer: layer.kind, 12, True),
    Column[ShrunkLayer]("coupling", "leaves with", "", _coupled_with, 9, True),
    Column[ShrunkLayer]("width", "before", "filters", _number("width", "d"), 1),
    Column[ShrunkLayer]("wanted", "wanted", "filters", _wanted, 7),
    Column[ShrunkLayer]("reached", "after", "filters", _number("reached", "d"), 1),
    Column[ShrunkLayer]("error", "estimate", "error", _number("error", ".4f"), 5),
    Column[ShrunkLayer]("error_before", "plain", "error", _number("error_before", ".4f"), 3),
    Column[ShrunkLayer]("error_after", "folded", "error", _number("error_after", ".4f"), 2),
    Column[ShrunkLayer]("redundancy", "lambda", "", _number("redundancy", ".4f"), 8),
    Column[ShrunkLayer]("chance", "chance", "", _number("chance", ".4f"), 10),
    Column[ShrunkLayer]("psi", "Psi", "", _number("psi", ".2f"), 6),
    Column[ShrunkLayer]("deviation", "proof", "", _deviation, 4),
    Column[ShrunkLayer]("why", "note", "", lambda layer: layer.why, 13, True),
]
