import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckrm_kernels.width_search.rules import Bracket, BracketRule, Change, Observation, StageRule, check_tied


def within(width):
    return Observation(width, True, width, 3)


def redundant(width, distinct=1):
    return Observation(width, False, distinct, 3)


def propose(*seen, rule=BracketRule()):  # noqa: B008
    """The change that the rule asks for after the observations of one width."""
    return rule.propose([{"w": each} for each in seen])[0]


class TestBracket:
    @pytest.mark.parametrize(
        ("seen", "bracket"),
        [
            ([], Bracket(None, None)),
            ([within(8), within(16)], Bracket(16, None)),
            ([redundant(64), redundant(32)], Bracket(None, 32)),
            ([redundant(64), within(8), within(16), redundant(32)], Bracket(16, 32)),
            # what was redundant is within target now, among other widths: the later observation holds
            ([redundant(64), redundant(32), within(32)], Bracket(32, 64)),
            ([redundant(64), within(32), redundant(32), within(8)], Bracket(8, 32)),
            ([within(32), redundant(16)], Bracket(None, 16)),
        ],
    )
    def test_of_observations(self, seen, bracket):
        assert Bracket.of(seen) == bracket

    @given(st.lists(st.builds(Observation, st.integers(1, 100), st.booleans(), st.just(1), st.just(3)), min_size=1))
    def test_it_agrees_with_the_latest_observation_and_is_ordered(self, seen):
        bracket = Bracket.of(seen)
        assert bracket.within is None or bracket.redundant is None or bracket.within < bracket.redundant
        latest = seen[-1].width
        if seen[-1].within_target:
            assert bracket.within is not None
            assert bracket.within >= latest
        else:
            assert bracket.redundant is not None
            assert bracket.redundant <= latest


class TestBracketRule:
    def test_a_width_within_target_stays(self):
        assert propose(within(32)) == Change("w", 32, 32, "within target, and no larger width is known to be redundant")

    def test_a_redundant_width_falls_to_its_distinct_filters(self):
        change = propose(redundant(128, distinct=41))
        assert (change.before, change.after) == (128, 41)
        assert change.reason == "87 of 128 filters repeat another in most of the 3 networks"

    @pytest.mark.parametrize(
        ("networks", "words"), [(1, "the network"), (2, "both networks"), (4, "most of the 4 networks")]
    )
    def test_the_networks_in_words(self, networks, words):
        assert propose(Observation(8, False, 5, networks)).reason == f"3 of 8 filters repeat another in {words}"

    def test_it_falls_by_a_factor_where_no_filters_can_be_dropped(self):
        change = propose(redundant(128, distinct=128))
        assert change.after == 86  # the least width at which the bracket would be closed at once
        assert change.reason == (
            "redundant, though none of 128 filters repeat another in most of the 3 networks: narrowed by a factor of "
            "1.5 instead"
        )
        assert propose(redundant(128, distinct=128), within(86)).after == 86
        assert propose(redundant(128, distinct=128), rule=BracketRule(closed=4)).after == 32
        assert propose(redundant(2, distinct=2), rule=BracketRule(minimum=1)).after == 1

    @pytest.mark.parametrize("repeats", [0, 1])
    def test_few_repeats_do_not_use_up_the_rounds(self, repeats):
        widths = [96]
        while widths[-1] > 4:
            seen = [redundant(width, distinct=width - repeats) for width in widths]
            widths.append(propose(*seen).after)
        assert widths == [96, 64, 43, 29, 20, 14, 10, 7, 5, 4]

    @pytest.mark.parametrize(
        ("width", "distinct", "after"),
        [
            (24, 24, 16),
            (24, 22, 16),  # 24 / 22 is below 1.1
            (24, 21, 21),
            (24, 4, 4),
            (9, 8, 6),  # 9 / 8 is above it, but one filter
            (9, 7, 7),
        ],
    )
    def test_what_repeats_decides_where_it_is_a_step(self, width, distinct, after):
        assert propose(redundant(width, distinct=distinct)).after == after

    def test_a_fine_bracket_is_searched_in_fine_steps(self):
        assert propose(redundant(27, distinct=26), rule=BracketRule(closed=1.01)).after == 26

    def test_it_falls_to_the_minimum_at_most(self):
        change = propose(redundant(128, distinct=1), rule=BracketRule(minimum=6))
        assert change.after == 6
        assert change.reason.endswith("; the minimum is 6")

    def test_at_the_minimum_it_stays(self):
        change = propose(redundant(6), rule=BracketRule(minimum=6))
        assert (change.after, change.reason) == (6, "redundant, but at the minimum of 6 already")
        assert propose(redundant(3), rule=BracketRule(minimum=6)).after == 3

    def test_up_to_the_geometric_mean_of_an_open_bracket(self):
        change = propose(redundant(128), within(8))
        assert (change.before, change.after) == (8, 32)
        assert change.reason == "between 8, which is within target, and 128, which is redundant"

    def test_down_to_the_geometric_mean_of_an_open_bracket(self):
        assert propose(redundant(128), within(8), redundant(32)).after == 16

    def test_a_closed_bracket_gives_its_width_within_target(self):
        history = [redundant(128), within(20), redundant(30)]
        change = propose(*history)
        assert (change.before, change.after) == (30, 20)
        assert change.reason == "20 is within target and 30 redundant: too near to try a width in between"
        assert propose(*history, within(20)).after == 20
        assert propose(*history, rule=BracketRule(closed=1.4)).after == 24

    def test_neighbouring_widths_close_a_bracket(self):
        assert propose(redundant(2), within(1)).after == 1

    def test_every_width_has_its_change(self):
        changes = BracketRule().propose([{"a": redundant(64, 10), "b": within(32)}])
        assert [(change.name, change.after) for change in changes] == [("a", 10), ("b", 32)]

    @given(st.integers(1, 512), st.integers(1, 512), st.integers(1, 16), st.integers(1, 16))
    def test_a_first_fall_is_below_the_width_and_not_below_the_minimum(self, width, distinct, minimum, multiple):
        after = propose(redundant(width, distinct), rule=BracketRule(minimum=minimum, multiple=multiple)).after
        lowest = -(-minimum // multiple) * multiple
        assert after < width or width <= lowest
        assert after >= min(lowest, width)
        assert after == width or after % multiple == 0

    def test_widths_are_multiples(self):
        rule = BracketRule(multiple=8)
        change = propose(redundant(128, distinct=41), rule=rule)
        assert change.after == 48
        assert change.reason.endswith("in most of the 3 networks; widths are multiples of 8")
        assert propose(redundant(128), within(8), rule=rule).after == 32
        assert propose(redundant(30, distinct=29), rule=rule).after == 24
        # between 16 and 24 lies no multiple of 8, though the ratio is above 1.4
        assert propose(redundant(24), within(16), rule=BracketRule(multiple=8, closed=1.4)).after == 16

    @given(st.integers(1, 400), st.integers(2, 100), st.floats(1.01, 4))
    def test_the_bracket_closes_on_a_width_that_has_a_limit(self, limit, factor, closed):
        rule, seen = BracketRule(minimum=1, closed=closed), [redundant(limit * factor)]
        for _ in range(40):
            width = propose(*seen, rule=rule).after
            seen.append(within(width) if width <= limit else redundant(width))
            if propose(*seen, rule=rule).after == width:
                break
        assert width <= limit < max(width * closed, width + 1)

    def test_whole_numbers_of_numpy_are_whole_numbers(self):
        rule = BracketRule(np.int64(6), np.uint8(3))
        assert rule == BracketRule(6, 3)
        assert (type(rule.minimum), type(rule.multiple)) == (int, int)

    @pytest.mark.parametrize("name", ["minimum", "multiple"])
    @pytest.mark.parametrize("value", [0, -2, 1.5, True, "4", np.float64(4)])
    def test_whole_numbers_refused(self, name, value):
        with pytest.raises(ValueError, match=re.escape(f"{name} must be a whole number >= 1, got {value!r}")):
            BracketRule(**{name: value})

    @pytest.mark.parametrize("closed", [1.0, 0.5, math.inf, math.nan])
    def test_a_closing_ratio_refused(self, closed):
        with pytest.raises(ValueError, match=f"closed must be a finite number > 1, got {closed}"):
            BracketRule(closed=closed)

    def test_no_rounds(self):
        with pytest.raises(ValueError, match="at least one round"):
            BracketRule().propose([])


STAGES = {
    "stem": "first",
    "layer1.0.conv2": "second",
    "layer1.1.conv2": "second",
    "layer2.0.conv2": "third",
    "tail": "third",
}


class TestStageRule:
    def test_a_stage_moves_as_its_neediest_width_does(self):
        seen = {
            "stem": within(16),
            "layer1.0.conv2": redundant(64, 20),
            "layer1.1.conv2": within(64),
            "layer2.0.conv2": redundant(64, 9),
            "tail": redundant(64, 30),
        }
        changes = StageRule(BracketRule(), STAGES).propose([seen])
        assert [(change.name, change.before, change.after) for change in changes] == [
            ("stem", 16, 16),
            ("layer1.0.conv2", 64, 43),  # its within target width has all 64 filters distinct
            ("layer1.1.conv2", 64, 43),
            ("layer2.0.conv2", 64, 30),
            ("tail", 64, 30),
        ]
        reasons = [change.reason for change in changes]
        assert reasons[1] == reasons[2]
        assert reasons[1].startswith(
            "redundant in layer1.0.conv2, though none of 64 filters of layer1.1.conv2, which needs the most, repeat"
        )
        assert reasons[3] == reasons[4]
        assert reasons[3] == (
            "redundant in layer2.0.conv2, tail; 34 of 64 filters of tail, which needs the most, repeat another in most "
            "of the 3 networks"
        )

    def test_where_the_neediest_width_alone_is_redundant_it_is_named_once(self):
        seen = {"a": redundant(64, 20), "b": Observation(64, True, 10, 3)}
        changes = StageRule(BracketRule(), {"a": "stage", "b": "stage"}).propose([seen])
        expected = "44 of 64 filters of a, which needs the most, repeat another in most of the 3 networks"
        assert [change.reason for change in changes] == [expected] * 2

    def test_of_many_redundant_widths_a_few_are_named(self):
        seen = {name: redundant(64, 20 + place) for place, name in enumerate("abcde")}
        change, *_ = StageRule(BracketRule(), dict.fromkeys("abcde", "stage")).propose([seen])
        assert change.reason.startswith("redundant in a, b, c and 2 more; 40 of 64 filters of e, which needs the most,")

    def test_a_stage_of_one_width_is_as_that_width(self):
        (alone,) = StageRule(BracketRule(), {"a": "stage"}).propose([{"a": redundant(64, 20)}])
        (free,) = BracketRule().propose([{"a": redundant(64, 20)}])
        assert alone == free

    def test_it_goes_by_all_rounds(self):
        rounds = [
            {"a": redundant(64), "b": within(64)},
            {"a": within(4), "b": within(4)},
        ]
        rule = StageRule(BracketRule(), {"a": "stage", "b": "stage"})
        assert {change.after for change in rule.propose(rounds)} == {16}

    def test_widths_of_a_stage_that_differ(self):
        stages = {"stem": "stem", "a.0": "a", "b.1": "a", "tail": "tail"}
        check_tied({"stem": 8, "a.0": 4, "b.1": 4, "tail": 9}, stages)
        message = "widths tied by stage must be equal in each stage, got a.0 = 4 and b.1 = 5"
        with pytest.raises(ValueError, match=message):
            check_tied({"a.0": 4, "b.1": 5}, stages)
        with pytest.raises(ValueError, match=message):
            StageRule(BracketRule(), stages).propose([{"a.0": within(4), "b.1": within(5)}])

    def test_a_width_without_a_stage(self):
        with pytest.raises(ValueError, match="stage_of_width must name a stage for each width, it has none for b, c"):
            check_tied({"a": 4, "b": 4, "c": 5}, {"a": "stage"})
