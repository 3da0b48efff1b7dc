"""What the user sees while networks train: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any, TypeVar

from ckrm_kernels.data import Dataset
from ckrm_kernels.distributed import team
from ckrm_kernels.extras import require
from ckrm_kernels.training.history import Epoch, Step

Item = TypeVar("Item")
_LINES = 2  # progress lines for each network where there is no terminal


class Display:
    """Shows phases and, within one, a bar for each network that trains. Use `bars` in a `with` statement.

    console: a rich console; None makes one on standard output
    """

    def __init__(self, console: Any = None) -> None:
        with require("progress", "rich"):
            from rich.console import Console
        self.console = console or Console(quiet=not team().is_first)

    def phase(self, text: str) -> None:
        """Announces what happens next."""
        self.console.print(text, style="bold", highlight=False, markup=False, soft_wrap=True)

    def print_line(self, text: str) -> None:
        """A line of what was found."""
        self.console.print(f"  {text}", highlight=False, markup=False, soft_wrap=True)

    def show(self, renderable: Any) -> None:
        """A table or any other thing that rich can draw."""
        self.console.print(renderable)

    def track(self, items: Iterable[Item], description: str, total: int | None = None) -> Iterable[Item]:
        """Iterates with a bar of its own."""
        from rich.progress import track

        return track(items, f"  {description}", total, console=self.console, transient=True)

    def skipped(self, data: Dataset) -> None:
        """Lists what was left out of the data."""
        for each in data.skipped:
            self.print_line(f"left out {each.path}: {each.reason}")
        if data.skipped:
            self.print_line(f"left out: {len(data.skipped)} of the images")

    def bars(self, names: Sequence[str], epochs: int, finished: Collection[int] = ()) -> TrainingBars:
        """A bar of so many epochs for each network named, full for those at the places that are finished already."""
        return TrainingBars(self.console, names, epochs, finished)


class TrainingBars:
    """Bars, or a few lines for each network where the console is not a terminal."""

    def __init__(self, console: Any, names: Sequence[str], epochs: int, finished: Collection[int] = ()) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._console, self._names, self._epochs = console, list(names), epochs
        self._progress = Progress(
            TextColumn("  {task.description}"),
            BarColumn(bar_width=None),
            TextColumn("epoch {task.completed:.1f} of {task.total}"),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._tasks = [
            self._progress.add_task(name, total=epochs, completed=epochs * done, note="finished" if done else "waiting")
            for name, done in ((name, place in finished) for place, name in enumerate(names))
        ]

    def on_event(self, place: int, event: Epoch | Step) -> None:
        """Moves the bar of the network at that place of the list."""
        if isinstance(event, Step):
            done = event.epoch - 1 + event.batch / event.batches
            note = f"batch {event.batch} of {event.batches}, loss {event.loss:#.3g}"
            self._progress.update(self._tasks[place], completed=done, note=note)
            return
        note = f"loss {event.loss:#.3g}, validation accuracy {event.validation_accuracy:.3f}"
        self._progress.update(self._tasks[place], completed=event.number, note=note)
        every = -(-self._epochs // _LINES)
        if not self._console.is_terminal and (event.number % every == 0 or event.number == self._epochs):
            line = f"  {self._names[place]}: epoch {event.number} of {self._epochs}, {note}"
            self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def __enter__(self) -> TrainingBars:
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()
