"""What is shown and logged while networks train, by a clock of the tests' own."""

import re
from io import StringIO

import pytest
from rich.console import Console

from ckrm_kernels.presentation.numbers import roughly
from ckrm_kernels.training import Epoch, Resumed, Step
from ckrm_kernels.training.forecast import Pace, remaining_seconds
from ckrm_kernels.training.progress import Display, Forecast, TrainingBars


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


class Shown:
    """A display, and what it has shown less the times."""

    def __init__(self):
        self._file = StringIO()
        self.display = Display(Console(file=self._file, width=200))

    def lines(self) -> list[str]:
        return [line[9:].strip() for line in self._file.getvalue().splitlines()]


@pytest.fixture
def shown():
    return Shown()


def epoch(number: int) -> Epoch:
    return Epoch(number, 0.5, 0.4, 0.25, 0.1)


@pytest.mark.parametrize(
    ("epochs", "side_by_side", "expected"),
    [
        ([], 2, 0),
        ([20], 4, 20),
        ([20, 20, 20], 1, 60),
        ([20, 20, 20], 2, 40),  # the third when the first is done
        ([19, 19.5, 20], 2, 39),  # 19, then 20
        ([20] * 30, 4, 160),  # eight turns: 4 * 7 + 2
        ([1, 10, 10], 2, 11),
    ],
)
def test_remaining_seconds(epochs, side_by_side, expected):
    assert remaining_seconds(130.0, epochs, side_by_side) == pytest.approx(130 * expected)


def test_the_pace_is_what_was_seen_from_first_to_last():
    pace = Pace()
    assert pace.seconds_per_epoch is None
    pace.see(0, 0.1, 100.0)
    assert pace.seconds_per_epoch is None
    pace.see(0, 1.0, 118.0)  # 20 s an epoch
    assert pace.seconds_per_epoch == pytest.approx(20)
    pace.see(1, 3.0, 100.0)
    pace.see(1, 4.1, 142.0)  # in all 60 s for two epochs
    assert pace.seconds_per_epoch == pytest.approx(30)
    assert (pace.epochs(0), pace.epochs(1), pace.epochs(2)) == (1.0, 4.1, 0.0)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.4, "0 s"),
        (99, "99 s"),
        (100, "2 min"),
        (43 * 60, "43 min"),
        (5940, "99 min"),
        (12000, "3 h 20 min"),
        (21.6 * 3600, "21 h"),
        (52 * 3600, "2 days 4 h"),
        (72 * 3600, "3 days"),
    ],
)
def test_durations_in_words(seconds, words):
    assert roughly(seconds) == words


def test_after_the_first_epoch_the_whole_is_forecast(shown, clock):
    forecast = Forecast(shown.display, [20, 0, 20, 20], 2, clock)  # the second is finished
    for place, batch, now in ((0, 10, 10.0), (2, 10, 10.0), (0, 50, 50.0)):
        clock.now = now
        forecast.on_event(place, Step(1, batch, 100, 0.5))
    assert shown.lines() == []
    clock.now = 100.0
    forecast.on_event(0, epoch(1))
    # 90 s for 0.9 epochs of one, but none seen yet for the other: 19 to go, 19.9, then 20 after the first: 39 epochs
    assert shown.lines() == [
        "an epoch takes 2 min, the 3 networks take about 65 min more",
        "what makes it shorter: --epochs, --seeds, or a part of the images, such as --set data.fraction=0.1",
    ]
    forecast.on_event(0, epoch(2))
    assert len(shown.lines()) == 2


def test_what_is_short_is_not_forecast(shown, clock):
    forecast = Forecast(shown.display, [20], 1, clock)
    forecast.on_event(0, Step(1, 1, 2, 0.5))
    clock.now = 1.5
    forecast.on_event(0, epoch(1))  # 3 s an epoch, 57 s to go
    assert shown.lines() == []


def test_a_network_taken_up_is_forecast_from_where_it_goes_on(shown, clock):
    forecast = Forecast(shown.display, [20], 1, clock)
    forecast.on_event(0, Resumed(15, 50, 100, 1, 1))
    forecast.on_event(0, Step(15, 50, 100, 0.5))
    clock.now = 10.0
    forecast.on_event(0, epoch(15))  # half an epoch in 10 s; 5 to go
    assert shown.lines() == ["an epoch takes 20 s, the network takes about 2 min more"]


def test_long_epochs_have_a_line_a_minute(shown, clock):
    bars = TrainingBars(shown.display, ["seed 0", "seed 1"], 20, (), clock)
    for second in range(0, 181, 10):
        clock.now = float(second)
        bars.on_event(0, Step(1, second + 1, 200, 0.5))
    clock.now = 190.0
    bars.on_event(1, Step(1, 1, 200, 0.5))  # begins now
    bars.on_event(0, epoch(1))
    clock.now = 241.0
    bars.on_event(0, epoch(2))
    assert shown.lines() == [
        *(f"seed 0: epoch 1 of 20, batch {batch} of 200, loss 0.500" for batch in (61, 121, 181)),
        "seed 0: epoch 2 of 20, loss 0.500, validation accuracy 0.250",
    ]


def test_what_is_resumed_says_so(shown):
    with shown.display.bars(["seed 0", "seed 1", "seed 2"], 20, finished={1}) as bars:
        bars.on_event(0, Resumed(7, 0, 71, 2, 2))
        bars.on_event(2, Resumed(3, 5, 71, 1, 2))
    assert shown.lines() == [
        "finished already: 1 of 3 networks",
        "seed 0: goes on at epoch 7 of 20",
        "seed 2: goes on at epoch 3 of 20, after 5 of its 71 batches",
        "seed 2: threads are 1, were 2: the result may differ in its last bits from that of an unbroken run",
    ]


@pytest.mark.parametrize("terminal", [True, False])
def test_every_line_is_logged_with_its_date(tmp_path, terminal):
    file, log = StringIO(), tmp_path / "log.txt"
    for _ in range(2):  # a second start adds to it
        display = Display(Console(file=file, force_terminal=terminal, width=100), log)
        before = log.read_text(encoding="utf-8") if log.exists() else None
        display.print_line("left out: 1 of the images")
        assert (log.read_text(encoding="utf-8") if log.exists() else None) == before  # it may yet be refused
        display.phase("Round 0")
        display.print_line("found ± it")
        with display.bars(["seed 0"], 1) as bars:
            bars.on_event(0, epoch(1))
    lines = log.read_text(encoding="utf-8").splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", line) for line in lines)
    texts = [
        "  left out: 1 of the images",
        "Round 0",
        "  found ± it",
        "  seed 0: epoch 1 of 1, loss 0.500, validation accuracy 0.250",
    ]
    assert [line[20:] for line in lines] == texts * 2
    assert bool(re.search(r"^\d\d:\d\d:\d\d", file.getvalue(), re.MULTILINE)) != terminal


def test_what_is_tracked_without_a_terminal_leaves_no_line(shown):
    assert list(shown.display.track("abc", "reading")) == ["a", "b", "c"]
    assert shown.lines() == []
