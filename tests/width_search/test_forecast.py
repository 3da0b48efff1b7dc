"""How long a search takes, as it is foretold after its first epoch."""

import pytest

from ckrm_kernels.training.forecast import FirstEpoch
from ckrm_kernels.training.history import Epoch, Resumed, Step
from ckrm_kernels.width_search import WidthSearchConfig
from ckrm_kernels.width_search.forecast import Forecast, forecast, in_words


def config(seeds=3, final_seeds=10, most_rounds=6):
    return WidthSearchConfig(seeds=seeds, final_seeds=final_seeds, most_rounds=most_rounds)


def test_from_the_first_round():
    # at least the standard network from 10 seeds; at most 6 rounds of 3, 7 more of two of them, and 10 uniform ones
    found = forecast(config(), rounds=0, finished=0, seconds=60, side_by_side=1, standard=60)
    assert found == Forecast(10, 18 + 7 + 7 + 10, 600, 42 * 60)


def test_networks_side_by_side():
    # two at a time: 3 are 2 waves, 7 are 4, 10 are 5
    found = forecast(config(), rounds=0, finished=0, seconds=60, side_by_side=2, standard=60)
    assert found == Forecast(10, 42, (2 + 4) * 60, (6 * 2 + 4 + 4 + 5) * 60)


def test_from_a_later_round_partly_done():
    # round 2, one of whose networks is done: 2 and, at most, 3 rounds of 3 more
    found = forecast(config(), rounds=2, finished=1, seconds=10, side_by_side=1, standard=60)
    assert found == Forecast(2 + 7 + 7 + 10, 2 + 9 + 7 + 7 + 10, (2 + 7 + 10) * 10 + 7 * 60, (11 + 17) * 10 + 7 * 60)


@pytest.mark.parametrize(
    ("most_rounds", "expected"), [(1, Forecast(10, 10, 600, 600)), (2, Forecast(10, 30, 600, 1800))]
)
def test_few_rounds(most_rounds, expected):
    assert forecast(config(most_rounds=most_rounds), 0, 0, 60, 1, 60) == expected


def test_in_words():
    text = in_words(Forecast(10, 42, 25_800, 108_360), 2580, 1)
    assert text.startswith(
        "The search needs about 7 h 10 min to 30 h more: 10 to 42 networks of 43 min each or less, 1 at a time. "
    )
    assert in_words(Forecast(10, 10, 600, 600), 60, 2).startswith(
        "The search needs about 10 min more: 10 networks of 60 s"
    )


class TestFirstEpoch:
    @pytest.fixture
    def timed(self):
        """Times events, each a moment with its place and what it is, and gives the seconds found."""

        def run(*events):
            seconds, now = [], [0.0]
            timer = FirstEpoch(seconds.append, lambda: now[0])
            for now[0], place, event in events:
                timer(place, event)
            return seconds

        return run

    def test_from_the_first_thing_seen_of_an_epoch(self, timed):
        # a quarter was done at 30, the rest took 90
        assert timed((30, 0, Step(1, 25, 100, 2.0)), (60, 0, Step(1, 50, 100, 2.0)), (120, 0, epoch(1))) == [120]

    def test_from_one_epoch_to_the_next(self, timed):
        assert timed((50, 0, epoch(1)), (51, 1, epoch(1)), (53, 1, epoch(2)), (58, 0, epoch(2))) == [2]

    def test_a_resumed_training_is_timed_from_where_it_goes_on(self, timed):
        resumed = Resumed(4, 50, 100, 1, 1)
        assert timed((1, 0, resumed), (30, 0, Step(4, 60, 100, 2.0)), (34, 0, epoch(4))) == [pytest.approx(10)]


def epoch(number):
    return Epoch(number, 1.0, 1.0, 0.5, 0.1)
