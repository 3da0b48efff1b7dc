"""How far a loop has come, on standard error: a bar on a terminal, plain lines elsewhere or without rich."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import TypeVar

Item = TypeVar("Item")
_LINES = 10


def tracked(
    items: Sequence[Item], doing: str = "measuring", what: str = "layers", *, lines: bool = True
) -> Iterator[Item]:
    """Iterates over the items and shows how many of them are done. lines: whether any stand in for a bar"""
    try:
        from rich.console import Console
        from rich.progress import track
    except ModuleNotFoundError:
        pass
    else:
        console = Console(stderr=True)
        if console.is_terminal:
            yield from track(items, doing, console=console, transient=True)
            return
    yield from _with_lines(items, doing, what) if lines else items


def _with_lines(items: Sequence[Item], doing: str, what: str) -> Iterator[Item]:
    every = max(len(items) // _LINES, 1)
    for done, item in enumerate(items, 1):
        yield item
        if done % every == 0 or done == len(items):
            print(f"{doing}: {done} of {len(items)} {what}", file=sys.stderr, flush=True)
