"""What the user sees while networks train: bars on a terminal, lines with the time elsewhere, and a log of both."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from ckrm_kernels.data import Dataset
from ckrm_kernels.distributed import team
from ckrm_kernels.extras import require
from ckrm_kernels.presentation.numbers import roughly
from ckrm_kernels.storage.files import append_line
from ckrm_kernels.training.forecast import FirstEpoch, remaining_seconds
from ckrm_kernels.training.history import Epoch, Event, Resumed, Step

Item = TypeVar("Item")
_LINES = 2  # progress lines for each network where there is no terminal, and those of long epochs:
_SECONDS_BETWEEN_LINES = 60.0
_SHORT, _LONG = 60.0, 600.0  # seconds: what is shorter is not forecast, what is longer might be made shorter
_SHORTER = "what makes it shorter: --epochs, --seeds, or a part of the images, such as --set data.fraction=0.1"


class Display:
    """Shows phases and, within one, a bar for each network that trains. Use `bars` in a `with` statement.

    console: a rich console; None makes one on standard output. What is no terminal gets the time before each line
    log: a file to which every line is added, with date and time, from the first phase on: what comes before may yet be
        refused, and leaves nothing in the folder
    """

    def __init__(self, console: Any = None, log: Path | None = None) -> None:
        with require("progress", "rich"):
            from rich.console import Console
        self.console, self._log = console or Console(quiet=not team().is_first), log if team().is_first else None
        self._before: list[str] | None = []  # lines that come before the first phase

    def phase(self, text: str) -> None:
        """Announces what happens next."""
        before, self._before = self._before or [], None
        if self._log:
            for line in before:
                append_line(self._log, line)
        self._print(text, "bold")

    def print_line(self, text: str) -> None:
        """A line of what was found."""
        self._print(f"  {text}")

    def in_place_of_bars(self, text: str) -> None:
        """A line that is printed where no bars are shown, and logged."""
        self._print(f"  {text}", bars=True)

    def _print(self, text: str, style: str = "", *, bars: bool = False) -> None:
        """Prints and logs a line. bars: one that stands in for bars, and is only logged where those are shown"""
        now = datetime.now().astimezone()
        if not (bars and self.console.is_terminal):
            line = text if self.console.is_terminal else f"{now:%H:%M:%S} {text}"
            self.console.print(line, style=style, highlight=False, markup=False, soft_wrap=True)
        logged = f"{now:%Y-%m-%d %H:%M:%S} {text}"
        if self._before is not None:
            self._before.append(logged)
        elif self._log:
            append_line(self._log, logged)

    def show(self, renderable: Any) -> None:
        """A table or any other thing that rich can draw."""
        self.console.print(renderable)

    def track(self, items: Iterable[Item], description: str, total: int | None = None) -> Iterable[Item]:
        """Iterates with a bar of its own."""
        from rich.progress import track

        quiet = not self.console.is_terminal  # where rich would leave an empty line
        return track(items, f"  {description}", total, console=self.console, transient=True, disable=quiet)

    def skipped(self, data: Dataset) -> None:
        """Lists what was left out of the data."""
        for each in data.skipped:
            self.print_line(f"left out {each.path}: {each.reason}")
        if data.skipped:
            self.print_line(f"left out: {len(data.skipped)} of the images")

    def bars(self, names: Sequence[str], epochs: int, finished: Collection[int] = ()) -> TrainingBars:
        """A bar of so many epochs for each network named, full for those at the places that are finished already."""
        return TrainingBars(self, names, epochs, finished)


class TrainingBars:
    """Bars, or a few lines for each network where the console is not a terminal; one of long epochs each minute."""

    def __init__(
        self,
        display: Display,
        names: Sequence[str],
        epochs: int,
        finished: Collection[int] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._display, self._names, self._epochs, self._clock = display, list(names), epochs, clock
        self._finished = len(finished)
        self._last_line: dict[int, float] = {}  # when each network had one, or was first seen
        self._progress = Progress(
            TextColumn("  {task.description}"),
            BarColumn(bar_width=None),
            TextColumn("epoch {task.completed:.1f} of {task.total}"),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
            console=display.console,
            transient=True,
            disable=not display.console.is_terminal,
        )
        self._tasks = [
            self._progress.add_task(name, total=epochs, completed=epochs * done, note="finished" if done else "waiting")
            for name, done in ((name, place in finished) for place, name in enumerate(names))
        ]

    def on_event(self, place: int, event: Event) -> None:
        """Moves the bar of the network at that place of the list."""
        match event:
            case Step():
                self._on_step(place, event)
            case Epoch():
                self._on_epoch(place, event)
            case Resumed():
                self._on_resumed(place, event)

    def _on_step(self, place: int, step: Step) -> None:
        note = f"batch {step.batch} of {step.batches}, loss {step.loss:#.3g}"
        self._move(place, step.epoch - 1 + step.batch / step.batches, note)
        if self._is_due(place):
            self._line(place, f"epoch {step.epoch} of {self._epochs}, {note}")

    def _on_epoch(self, place: int, epoch: Epoch) -> None:
        note = f"loss {epoch.loss:#.3g}, validation accuracy {epoch.validation_accuracy:.3f}"
        self._move(place, epoch.number, note)
        every = -(-self._epochs // _LINES)
        if self._is_due(place) or epoch.number % every == 0 or epoch.number == self._epochs:
            self._line(place, f"epoch {epoch.number} of {self._epochs}, {note}")

    def _on_resumed(self, place: int, resumed: Resumed) -> None:
        within = f", after {resumed.batch} of its {resumed.batches} batches" if resumed.batch else ""
        self._display.print_line(f"{self._names[place]}: goes on at epoch {resumed.epoch} of {self._epochs}{within}")
        if resumed.threads != resumed.threads_before:
            self._display.print_line(
                f"{self._names[place]}: threads are {resumed.threads}, were {resumed.threads_before}: the result may "
                "differ in its last bits from that of an unbroken run"
            )

    def _move(self, place: int, done: float, note: str) -> None:
        self._progress.update(self._tasks[place], completed=done, note=note)

    def _is_due(self, place: int) -> bool:
        now = self._clock()
        return now - self._last_line.setdefault(place, now) >= _SECONDS_BETWEEN_LINES

    def _line(self, place: int, text: str) -> None:
        self._last_line[place] = self._clock()
        self._display.in_place_of_bars(f"{self._names[place]}: {text}")

    def __enter__(self) -> TrainingBars:
        if self._finished:
            self._display.print_line(f"finished already: {self._finished} of {len(self._names)} networks")
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()


class Forecast:
    """Shows, once, when the first epoch is done, how long all networks take, if that is long.

    epochs: still to go at most, of each network
    side_by_side: how many train at once
    """

    def __init__(
        self,
        display: Display,
        epochs: Sequence[int],
        side_by_side: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._display, self._epochs, self._side_by_side = display, epochs, side_by_side
        self._first_epoch = FirstEpoch(self._show, clock)

    def on_event(self, place: int, event: Event) -> None:
        """Takes down how far the network at that place of the list is."""
        self._first_epoch(place, event)

    def _show(self, seconds_per_epoch: float) -> None:
        pace = self._first_epoch.pace
        unfinished = [place for place, epochs in enumerate(self._epochs) if epochs]
        unfinished.sort(key=pace.epochs, reverse=True)  # those that train already first
        to_go = [self._epochs[place] - pace.epochs(place) for place in unfinished]
        seconds = remaining_seconds(seconds_per_epoch, to_go, self._side_by_side)
        if seconds < _SHORT:
            return
        networks = "the network takes" if len(to_go) == 1 else f"the {len(to_go)} networks take"
        self._display.print_line(
            f"an epoch takes {roughly(seconds_per_epoch)}, {networks} about {roughly(seconds)} more"
        )
        if seconds > _LONG:
            self._display.print_line(_SHORTER)
