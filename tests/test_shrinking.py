import json
import math
from dataclasses import asdict

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from ckrm_kernels import pairwise_psi
from ckrm_kernels.models import ResNetShape, count_parameters
from ckrm_kernels.shrinking import tables
from ckrm_kernels.shrinking.comparison import Candidate, candidate, noise
from ckrm_kernels.shrinking.conclusions import conclusions
from ckrm_kernels.shrinking.figure import comparison_figure, figure_png
from ckrm_kernels.shrinking.measured import ABSOLUTE, MEASURES, SCALE_FREE, Level, MeasuredLayer, measure_networks
from ckrm_kernels.shrinking.narrowing import narrowed_alike, parameters_of
from ckrm_kernels.shrinking.rules import Bracket, BracketRule, Change, Observation
from ckrm_kernels.shrinking.search import Outcome, Round, Search, Trained, observe_widths
from ckrm_kernels.training import Score


def layer(name="conv1", filters=16, redundancy=0.0, *, chance=0.0, scale_free=0.0, distinct=None, seeds=3):
    """A measured layer with the same lambda in every network."""
    pairs = filters * (filters - 1) // 2
    levels = {measure: Level((0.0,) * seeds, 0.0) for measure in MEASURES}
    levels[ABSOLUTE] = Level((redundancy,) * seeds, 0.0)
    levels[SCALE_FREE] = Level((scale_free,) * seeds, chance)
    histogram = (pairs - round(redundancy * pairs),) + (0,) * 40 + (round(redundancy * pairs),) + (0,) * 8
    distinct = float(filters) if distinct is None else distinct
    return MeasuredLayer(name, filters, 8, (3, 3), pairs, distinct, levels, (histogram,) * seeds)


def clean(width):
    return Observation(width, True, float(width))


def redundant(width, distinct=1.0):
    return Observation(width, False, distinct)


def propose(*seen, rule=BracketRule()):  # noqa: B008
    """The change that the rule asks for after the observations of one width."""
    return rule.propose([{"w": each} for each in seen])[0]


class TestBracket:
    @pytest.mark.parametrize(
        ("seen", "bracket"),
        [
            ([], Bracket(None, None)),
            ([clean(8), clean(16)], Bracket(16, None)),
            ([redundant(64), redundant(32)], Bracket(None, 32)),
            ([redundant(64), clean(8), clean(16), redundant(32)], Bracket(16, 32)),
            # what was redundant is clean now, among other widths: the later observation holds
            ([redundant(64), redundant(32), clean(32)], Bracket(32, 64)),
            ([redundant(64), clean(32), redundant(32), clean(8)], Bracket(8, 32)),
            ([clean(32), redundant(16)], Bracket(None, 16)),
        ],
    )
    def test_of_observations(self, seen, bracket):
        assert Bracket.of(seen) == bracket

    @given(st.lists(st.builds(Observation, st.integers(1, 100), st.booleans(), st.just(1.0)), min_size=1))
    def test_it_agrees_with_the_latest_observation_and_is_ordered(self, seen):
        bracket = Bracket.of(seen)
        assert bracket.clean is None or bracket.redundant is None or bracket.clean < bracket.redundant
        latest = seen[-1].width
        if seen[-1].clean:
            assert bracket.clean is not None
            assert bracket.clean >= latest
        else:
            assert bracket.redundant is not None
            assert bracket.redundant <= latest


class TestBracketRule:
    def test_a_clean_width_stays(self):
        assert propose(clean(32)) == Change("w", 32, 32, "clean, and no larger width is known to be redundant")

    def test_a_redundant_width_falls_to_its_distinct_filters(self):
        change = propose(redundant(128, distinct=40.7))
        assert (change.before, change.after) == (128, 41)
        assert change.reason == "87.3 of 128 filters repeat another (mean of the seeds)"

    def test_it_always_falls(self):
        assert propose(redundant(128, distinct=127.9)).after == 127

    def test_it_falls_to_the_minimum_at_most(self):
        change = propose(redundant(128, distinct=1.0), rule=BracketRule(minimum=6))
        assert change.after == 6
        assert change.reason.endswith("; the minimum is 6")

    def test_at_the_minimum_it_stays(self):
        change = propose(redundant(6), rule=BracketRule(minimum=6))
        assert (change.after, change.reason) == (6, "redundant, but not above the minimum of 6")
        assert propose(redundant(3), rule=BracketRule(minimum=6)).after == 3

    def test_up_to_the_geometric_mean_of_an_open_bracket(self):
        change = propose(redundant(128), clean(8))
        assert (change.before, change.after) == (8, 32)
        assert change.reason == "between 8, which is clean, and 128, which is redundant"

    def test_down_to_the_geometric_mean_of_an_open_bracket(self):
        assert propose(redundant(128), clean(8), redundant(32)).after == 16

    def test_a_closed_bracket_gives_its_clean_width(self):
        history = [redundant(128), clean(20), redundant(30)]
        change = propose(*history)
        assert (change.before, change.after) == (30, 20)
        assert change.reason == "redundant; the bracket is closed: 20 is clean, 30 redundant"
        assert propose(*history, clean(20)).after == 20
        assert propose(*history, rule=BracketRule(closed=1.4)).after == 24

    def test_neighbouring_widths_close_a_bracket(self):
        assert propose(redundant(2), clean(1)).after == 1

    def test_every_width_has_its_change(self):
        changes = BracketRule().propose([{"a": redundant(64, 10.0), "b": clean(32)}])
        assert [(change.name, change.after) for change in changes] == [("a", 10), ("b", 32)]

    @given(st.integers(1, 512), st.floats(1, 512), st.integers(1, 16))
    def test_a_first_fall_is_below_the_width_and_not_below_the_minimum(self, width, distinct, minimum):
        after = propose(redundant(width, distinct), rule=BracketRule(minimum=minimum)).after
        assert after < width or width <= minimum
        assert after >= min(minimum, width)

    @given(st.integers(1, 400), st.integers(2, 100), st.floats(1.01, 4))
    def test_the_bracket_closes_on_a_width_that_has_a_limit(self, limit, factor, closed):
        rule, seen = BracketRule(minimum=1, closed=closed), [redundant(limit * factor)]
        for _ in range(40):
            width = propose(*seen, rule=rule).after
            seen.append(clean(width) if width <= limit else redundant(width))
            if propose(*seen, rule=rule).after == width:
                break
        assert width <= limit < max(width * closed, width + 1)

    @pytest.mark.parametrize("minimum", [0, -2, 1.5])
    def test_a_minimum_refused(self, minimum):
        with pytest.raises(ValueError, match=f"minimum must be a whole number >= 1, got {minimum}"):
            BracketRule(minimum=minimum)

    @pytest.mark.parametrize("closed", [1.0, 0.5, math.inf, math.nan])
    def test_a_closing_ratio_refused(self, closed):
        with pytest.raises(ValueError, match=f"closed must be a finite number > 1, got {closed}"):
            BracketRule(closed=closed)

    def test_no_rounds(self):
        with pytest.raises(ValueError, match="at least one round"):
            BracketRule().propose([])


class TestVerdict:
    def test_at_most_the_target(self):
        assert layer(redundancy=0.01).is_clean(0.01)
        assert not layer(redundancy=0.0101).is_clean(0.01)

    def test_no_more_than_chance(self):
        # 3 networks of 120 pairs: 0.05 + 3 sqrt(0.05 * 0.95 / 360) = 0.0845
        assert layer(redundancy=0.084, chance=0.05).is_clean(0.01)
        assert not layer(redundancy=0.085, chance=0.05).is_clean(0.01)

    def test_the_chance_level_at_the_absolute_eps_excuses_nothing(self):
        wide = layer(redundancy=0.9)
        levels = {**wide.levels, ABSOLUTE: Level((0.9, 0.9, 0.9), 0.95)}
        assert not MeasuredLayer(**{**vars(wide), "levels": levels}).is_clean(0.01)

    def test_tied_layers_speak_with_one_voice(self):
        layers = [layer("a", 8), layer("b", 8, 0.2, distinct=5.5), layer("c", 8, 0.3, distinct=3.0), layer("d", 4)]
        seen = observe_widths({"out": 8, "in": 4}, {"a": "out", "b": "out", "c": "out", "d": "in"}, layers, 0.01)
        assert seen == {"out": Observation(8, False, 8.0), "in": Observation(4, True, 4.0)}

    def test_a_width_without_a_measured_layer(self):
        with pytest.raises(ValueError, match="width 'out' belongs to no measured layer; measured were"):
            observe_widths({"out": 8}, {}, [layer("a", 8)], 0.01)


class Limited:
    """A shape whose layers are redundant exactly beyond a limit; building it would be a mistake."""

    def __init__(self, widths, limits):
        self._widths, self._limits = widths, limits

    def widths(self):
        return self._widths

    def with_widths(self, widths):
        return Limited({**self._widths, **widths}, self._limits)

    def width_of_layer(self):
        return {name: name for name in self._widths}

    def build(self):
        raise AssertionError

    def trained(self, widths):
        layers = [
            layer(name, width, 0.0 if width <= self._limits[name] else 0.5, distinct=max(width / 9, 1.0))
            for name, width in widths.items()
        ]
        return Trained((1.0, 0.5, 0.75), tuple(layers))


def searched(shape, **options):
    search = Search(shape, BracketRule(minimum=1), **options)
    rounds = []
    while (widths := search.next_widths(rounds)) is not None:
        rounds.append(search.observe(rounds, widths, shape.trained(widths)))
    return rounds, search.outcome(rounds)


class TestSearch:
    def test_nothing_to_shrink(self):
        rounds, outcome = searched(Limited({"a": 32, "b": 64}, {"a": 32, "b": 99}))
        assert outcome == Outcome(0, "every layer is clean")
        assert [change.after for change in rounds[0].changes] == [32, 64]

    def test_it_goes_down_and_up_until_every_layer_is_clean(self):
        rounds, outcome = searched(Limited({"a": 90, "b": 90}, {"a": 9, "b": 40}))
        assert [each.widths for each in rounds] == [{"a": 90, "b": 90}, {"a": 10, "b": 10}, {"a": 2, "b": 30}]
        assert outcome == Outcome(2, "every layer is clean")

    @given(st.lists(st.tuples(st.integers(2, 300), st.integers(1, 300)), min_size=1, max_size=5))
    def test_it_ends_clean_where_every_layer_has_a_limit(self, layers):
        names = [f"layer{place}" for place in range(len(layers))]
        widths = dict(zip(names, (width for width, _ in layers), strict=True))
        limits = dict(zip(names, (limit for _, limit in layers), strict=True))
        rounds, outcome = searched(Limited(widths, limits), most_rounds=30)
        chosen = rounds[outcome.chosen]
        assert chosen.clean
        assert all(chosen.widths[name] <= min(widths[name], limits[name]) for name in names)
        # a layer that was clean from the start keeps its width
        assert all(chosen.widths[name] == widths[name] for name in names if widths[name] <= limits[name])

    def test_the_limit_of_rounds(self):
        rounds, outcome = searched(Limited({"a": 90, "b": 90}, {"a": 0, "b": 40}), most_rounds=2)
        assert outcome == Outcome(1, "the limit of 2 rounds is reached")
        assert len(rounds) == 2

    def test_brackets_that_close_while_a_layer_stays_redundant(self):
        rounds, outcome = searched(Limited({"a": 4, "b": 20}, {"a": 0, "b": 10}), most_rounds=30)
        assert outcome.reason.startswith("nothing is left to try, the rule asks for the widths of round ")
        assert len(rounds) < 10
        assert rounds[outcome.chosen].redundant == ["a"]

    def test_rounds_survive_json(self):
        rounds, _ = searched(Limited({"a": 90, "b": 90}, {"a": 9, "b": 40}))
        assert [Round.from_json(json.loads(json.dumps(asdict(each)))) for each in rounds] == rounds

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"target": -0.1}, r"target must lie in \[0, 1\], got -0.1"),
            ({"target": math.nan}, r"target must lie in \[0, 1\], got nan"),
            ({"most_rounds": 0}, "most_rounds must be a whole number >= 1, got 0"),
        ],
    )
    def test_options_refused(self, options, message):
        with pytest.raises(ValueError, match=message):
            Search(ResNetShape(), BracketRule(), **options)


class TestMeasuring:
    @pytest.fixture
    def models(self):
        return [ResNetShape(stem=6, inner=((5,),), out=(4,)).build() for _ in range(2)]

    def test_lambda_by_its_definition(self, models):
        layers = measure_networks(models, 0.4)
        assert [each.name for each in layers] == ["conv1", "layer1.0.conv1", "layer1.0.conv2"]
        assert [(each.filters, each.slices, each.kernel_size) for each in layers] == [
            (6, 1, (3, 3)),
            (5, 6, (3, 3)),
            (4, 5, (3, 3)),
        ]
        for each in layers:
            for name, options in MEASURES.items():
                omegas = [pairwise_psi(model.get_submodule(each.name), **options) for model in models]
                expected = [(omega > 0.4).double().mean().item() for omega in omegas]
                assert each.levels[name].per_seed == pytest.approx(expected)

    def test_histograms_are_those_of_each_network(self, models):
        for each in measure_networks(models, 0.6):
            for model, histogram in zip(models, each.histograms, strict=True):
                omega = pairwise_psi(model.get_submodule(each.name))
                assert histogram == tuple(torch.histc(omega, 50, 0, 1).long().tolist())
                assert sum(histogram) == each.pairs

    def test_repeats_are_seen_at_every_eps(self, models):
        with torch.no_grad():
            for model in models:
                model.conv1.weight[3:] = model.conv1.weight[:3]
        stem = measure_networks(models, 0.6)[0]
        assert all(level.mean >= 3 / 15 for level in stem.levels.values())
        assert stem.distinct <= 3

    def test_layers_survive_json(self, models):
        layers = measure_networks(models, 0.6)
        assert tuple(MeasuredLayer.from_json(json.loads(json.dumps(asdict(each)))) for each in layers) == layers


class TestNarrowing:
    def test_parameters_of_a_shape(self):
        shape = ResNetShape(stem=3, inner=((4,),), out=(5,))
        assert parameters_of(shape) == count_parameters(shape.build())

    def test_the_nearest_number_of_parameters(self):
        shape, counts = ResNetShape(), []
        for step in range(1, 201):
            scaled = {name: max(round(width * step / 200), 1) for name, width in shape.widths().items()}
            counts.append(parameters_of(shape.with_widths(scaled)))
        for wanted in (5_000, 28_000, 100_000, 309_162):
            distance = abs(parameters_of(narrowed_alike(shape, wanted)) - wanted)
            assert distance < 0.04 * wanted
            assert distance <= min(abs(count - wanted) for count in counts)

    def test_widths_keep_their_proportions(self):
        narrowed, shape = narrowed_alike(ResNetShape(), 28_000).widths(), ResNetShape().widths()
        ratios = [narrowed[name] / shape[name] for name in shape]
        assert max(ratios) - min(ratios) < 1 / 32

    def test_a_number_refused(self):
        with pytest.raises(ValueError, match="parameters must be a whole number >= 1, got 0"):
            narrowed_alike(ResNetShape(), 0)


def compared(name, accuracy, parameters=1000, multiply_adds=5000, layers=()):
    scores = tuple(Score(accuracy + offset, 0.99) for offset in (-0.01, 0.0, 0.01))
    return Candidate(name, {"a": 8, "b": 16}, parameters, multiply_adds, 4 * parameters, scores, tuple(layers))


def one_round(*observations):
    seen = dict(zip("ab", observations, strict=True))
    return Round({name: each.width for name, each in seen.items()}, Trained((1.0,), ()), seen, ())


class TestComparison:
    def test_a_candidate_is_what_its_networks_do(self):
        from ckrm_kernels.data import Dataset, Part

        images, labels = torch.randn(40, 1, 4, 4), torch.arange(40) % 4
        part = Part(images, labels)
        model = nn.Sequential(nn.Flatten(), nn.Linear(16, 4)).eval()
        result = candidate("standard", {"a": 4}, [model], [layer()], Dataset("random", 4, part, part, part))
        assert result.accuracies == pytest.approx([(model(images).argmax(1) == labels).float().mean().item()])
        assert (result.parameters, result.multiply_adds) == (68, 64)
        assert Candidate.from_json(json.loads(json.dumps(asdict(result)))) == result

    def test_noise_by_its_formula(self):
        first, second = compared("standard", 0.9), compared("shrunk", 0.8)
        variance = 2 * 0.01**2 / 3 + (0.9 * 0.1 + 0.8 * 0.2) / 100
        assert noise(first, second, 100) == pytest.approx(2 * math.sqrt(variance))

    def test_nothing_to_shrink(self):
        rounds = [one_round(clean(8), clean(16))]
        sentences = conclusions(rounds, Outcome(0, "every layer is clean"), [compared("standard", 0.9)], 0.01, 100)
        assert "there is nothing to shrink" in sentences[0]
        assert sentences[1] == "Its held-out accuracy is 0.9000 ± 0.0100."

    @pytest.mark.parametrize(
        ("accuracy", "said"),
        [
            (0.90, "no difference that could be told from noise (+0.0000, "),
            (0.70, "standard is better than shrunk (-0.2000, "),
            (0.99, "shrunk is better than standard (+0.0900, "),
        ],
    )
    def test_a_difference_is_named_only_beyond_the_noise(self, accuracy, said):
        standard = compared("standard", 0.90, layers=[layer(redundancy=0.9), layer(redundancy=0.2, scale_free=0.2)])
        shrunk, uniform = compared("shrunk", accuracy, 250, 1000), compared("uniform", accuracy, 240, 500)
        rounds = [one_round(redundant(8), clean(16)), one_round(clean(4), clean(16))]
        sentences = conclusions(rounds, Outcome(1, "every layer is clean"), [standard, shrunk, uniform], 0.01, 400)
        assert sentences[0] == "After 2 rounds of training every layer is clean at eps 1e-4."
        assert sentences[1] == "The shrunk network keeps 25.0% of the parameters and 20.0% of the multiply-adds."
        assert said in sentences[2]
        assert "Narrowed alike to 240 parameters" in sentences[3]
        assert "with 0.50 times the shrunk network's multiply-adds" in sentences[3]
        assert "no difference that could be told from noise" in sentences[3]
        assert sentences[4].startswith("Of the 2 redundant layers of the standard network, 1 are clean when measured")

    def test_a_search_that_did_not_end_clean_says_what_is_left(self):
        rounds = [one_round(redundant(8), redundant(16)), one_round(redundant(4), clean(8))]
        networks = [compared(name, 0.9) for name in ("standard", "shrunk", "uniform")]
        sentences = conclusions(rounds, Outcome(1, "the limit of 2 rounds is reached"), networks, 0.01, 400)
        assert "the limit of 2 rounds is reached. Round 1 has the fewest redundant widths: a." in sentences[0]


class TestViews:
    @pytest.fixture
    def networks(self):
        layers = [layer("conv1", 8), layer("layer1.0.conv1", 16, 0.25, distinct=12.0)]
        return [compared("standard", 0.9, layers=layers), compared("shrunk", 0.9, 250, 1000, layers=layers)]

    def test_the_table_holds_what_was_measured(self, networks):
        rounds = [one_round(redundant(8), clean(16))]
        text = tables.as_text(
            [tables.compared(networks), tables.layers_of(networks[0], 0.6), tables.path(rounds), "An [end]."]
        )
        for expected in ("250 (25.0%)", "1,000", "0.9000 ± 0.0100", ".250±.000", "12.0", "8/16", "1 of 2", "An [end]."):
            assert expected in text
        assert all(len(line) <= 80 for line in text.splitlines())

    def test_the_changes_are_told_in_words_and_those_that_stay_are_not(self):
        first = one_round(redundant(8), clean(16))
        changed = (Change("a", 8, 4, "4.0 of 8 filters repeat another"), Change("b", 16, 16, "clean"))
        assert tables.told(Round(first.widths, first.trained, first.observations, changed)) == [
            "a: 8 -> 4: 4.0 of 8 filters repeat another"
        ]

    def test_the_figure_has_a_panel_for_each_layer_of_each_network(self, networks):
        figure = comparison_figure(networks[::-1], 0.6, 0.01)
        assert len(figure.axes) == 4
        assert [len(axes.lines) for axes in figure.axes] == [4] * 4  # the threshold and three seeds
        texts = [text.get_text() for text in figure.axes[2].texts]
        assert texts == ["layer1.0.conv1", "16×8×3×3", "λ = 0.250 ± 0.000", "chance 0.000"]  # noqa: RUF001
        assert "Shrunk network, 250 parameters (25.0%)" in [text.get_text() for text in figure.texts]
        assert figure_png(figure).startswith(b"\x89PNG")

    def test_a_curve_is_the_density_of_its_pairs(self, networks):
        line = comparison_figure(networks, 0.6, 0.01).axes[2].lines[1]
        places, heights = line.get_data()
        assert places[heights.argmax()] == pytest.approx(0.01, abs=0.011)  # three quarters of the pairs, in bin 0
        area = (heights[1:] + heights[:-1]) / 2
        assert area[places[1:] > 0.6].sum() / area.sum() == pytest.approx(0.25, abs=0.01)

    def test_the_figure_leaves_pyplot_alone(self, networks):
        import subprocess
        import sys

        script = (
            "import sys\nfrom ckrm_kernels.shrinking.figure import comparison_figure, figure_png\n"
            "from ckrm_kernels.shrinking.comparison import Candidate\nfrom ckrm_kernels.shrinking.measured import *\n"
            "from ckrm_kernels.training import Score\n"
            "row = MeasuredLayer('a', 2, 1, (3,), 1, 2.0, {n: Level((0.0,), 0.0) for n in MEASURES}, ((1,) * 50,))\n"
            "figure_png(comparison_figure([Candidate('standard', {}, 1, 1, 4, (Score(1, 1),), (row,))], 0.6, 0.01))\n"
            "assert 'matplotlib.pyplot' not in sys.modules"
        )
        subprocess.run([sys.executable, "-c", script], check=True, timeout=120)
