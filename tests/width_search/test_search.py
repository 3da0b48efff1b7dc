import json
import math
from dataclasses import asdict, replace
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from ckrm_kernels import measure, pairwise_psi, psi_histogram, redundant_groups, reference
from ckrm_kernels import redundancy as lambda_of
from ckrm_kernels.comparison import measured_layers, tables
from ckrm_kernels.comparison.candidates import Candidate, compare_candidates, evaluate_candidate
from ckrm_kernels.comparison.latency import Latency
from ckrm_kernels.comparison.measured_layers import (
    CONFIGURED,
    SCALE_FREE,
    SMALLER_EPS,
    Level,
    MeasuredLayer,
    measure_networks,
    names_of_settings,
    psi_settings,
)
from ckrm_kernels.models import ResNetShape, count_parameters, network_shape
from ckrm_kernels.presentation.drawing import png_file
from ckrm_kernels.similarity import Similarity
from ckrm_kernels.storage.settings import typed
from ckrm_kernels.training import Score
from ckrm_kernels.width_search.conclusions import conclusions
from ckrm_kernels.width_search.narrowing import multiply_adds_of, narrowed_alike, parameters_of
from ckrm_kernels.width_search.report.omega_figure import comparison_figure
from ckrm_kernels.width_search.rules import BracketRule, Change, Observation
from ckrm_kernels.width_search.search import Outcome, Round, Search, Trained, observe_widths
from ckrm_kernels.width_search.tables import changes_in_words, rounds_table

PSI = Similarity()


def layer(name="conv1", filters=16, redundancy=0.0, *, chance=0.0, scale_free=0.0, distinct=None, seeds=3):
    """A measured layer with the same lambda in every network."""
    pairs = filters * (filters - 1) // 2
    levels = {name: Level((0.0,) * seeds, 0.0) for name in psi_settings(PSI)}
    levels[CONFIGURED] = Level((redundancy,) * seeds, 0.0)
    levels[SCALE_FREE] = Level((scale_free,) * seeds, chance)
    histogram = (pairs - round(redundancy * pairs),) + (0,) * 40 + (round(redundancy * pairs),) + (0,) * 8
    distinct = filters if distinct is None else distinct
    return MeasuredLayer(name, filters, 8, (3, 3), pairs, (distinct,) * seeds, levels, (histogram,) * seeds)


def within(width):
    return Observation(width, True, width, 3)


def redundant(width):
    return Observation(width, False, 1, 3)


class TestVerdict:
    def test_at_most_the_target(self):
        assert layer(redundancy=0.01).is_within(0.01)
        assert not layer(redundancy=0.0101).is_within(0.01)

    def test_no_more_than_chance(self):
        # 3 networks of 120 pairs, each permuted 16 times: 0.05 + 3 sqrt(0.05 * 0.95 (1 / 120 + 1 / 1920) / 3) = 0.0855
        assert layer(redundancy=0.085, chance=0.05).is_within(0.01)
        assert not layer(redundancy=0.086, chance=0.05).is_within(0.01)

    def test_the_chance_level_at_the_absolute_eps_excuses_nothing(self):
        wide = layer(redundancy=0.9)
        levels = {**wide.levels, CONFIGURED: Level((0.9, 0.9, 0.9), 0.95)}
        assert not MeasuredLayer(**{**vars(wide), "levels": levels}).is_within(0.01)

    def test_tied_layers_speak_with_one_voice(self):
        layers = [layer("a", 8), layer("b", 8, 0.2, distinct=5), layer("c", 8, 0.3, distinct=3), layer("d", 4)]
        seen = observe_widths({"out": 8, "in": 4}, {"a": "out", "b": "out", "c": "out", "d": "in"}, layers, 0.01)
        assert seen == {"out": Observation(8, False, 8, 3, "a", ("b", "c")), "in": Observation(4, True, 4, 3)}

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
            layer(name, width, 0.0 if width <= self._limits[name] else 0.5, distinct=max(-(-width // 9), 1))
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
    def test_nothing_to_narrow(self):
        rounds, outcome = searched(Limited({"a": 32, "b": 64}, {"a": 32, "b": 99}))
        assert outcome == Outcome(0, "every layer is within target")
        assert [change.after for change in rounds[0].changes] == [32, 64]

    def test_it_goes_down_and_up_until_every_layer_is_within_target(self):
        rounds, outcome = searched(Limited({"a": 90, "b": 90}, {"a": 9, "b": 40}))
        assert [each.widths for each in rounds] == [{"a": 90, "b": 90}, {"a": 10, "b": 10}, {"a": 2, "b": 30}]
        assert outcome == Outcome(2, "every layer is within target")

    @given(st.lists(st.tuples(st.integers(2, 300), st.integers(1, 300)), min_size=1, max_size=5))
    def test_it_ends_within_target_where_every_layer_has_a_limit(self, layers):
        names = [f"layer{place}" for place in range(len(layers))]
        widths = dict(zip(names, (width for width, _ in layers), strict=True))
        limits = dict(zip(names, (limit for _, limit in layers), strict=True))
        rounds, outcome = searched(Limited(widths, limits), most_rounds=30)
        chosen = rounds[outcome.chosen]
        assert chosen.within_target
        assert all(chosen.widths[name] <= min(widths[name], limits[name]) for name in names)
        # a layer that was within target from the start keeps its width
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

    @pytest.mark.parametrize(
        ("accuracies", "redundant_widths", "chosen"),
        [
            ((0.99, 0.83, 0.985), (2, 1, 2), 2),  # the round in the middle has lost its accuracy
            ((0.99, 0.985, 0.985), (2, 1, 2), 1),
            ((0.99, 0.83, 0.97), (2, 1, 1), 0),
            (
                (0.99, 0.5, 0.5),
                (2, 1, 0),
                2,
            ),  # within target: the comparison tells what it costs
        ],
    )
    def test_an_inaccurate_round_is_chosen_only_if_it_is_within_target(self, accuracies, redundant_widths, chosen):
        rounds = []
        for place, (accuracy, count) in enumerate(zip(accuracies, redundant_widths, strict=True)):
            seen = {name: (redundant if at < count else within)(30 - place) for at, name in enumerate("abc")}
            widths = {name: each.width for name, each in seen.items()}
            rounds.append(Round(widths, Trained((accuracy - 0.01, accuracy + 0.01), ()), seen, ()))
        assert Search(Limited({}, {}), BracketRule(), margin=0.01).outcome(rounds).chosen == chosen

    def test_of_rounds_with_as_many_redundant_widths_the_smallest_is_chosen(self):
        rounds = []
        for width in (30, 8, 14):
            seen = {"a": redundant(width), "b": within(10)}
            rounds.append(Round({"a": width, "b": 10}, Trained((0.99, 0.99), ()), seen, ()))
        assert Search(Limited({}, {}), BracketRule()).outcome(rounds).chosen == 1

    def test_the_search_of_other_settings_goes_on_where_it_would_have_gone(self):
        shape = Limited({"a": 90, "b": 90}, {"a": 9, "b": 40})
        rounds, _ = searched(shape)
        stopped, outcome = searched(shape, most_rounds=2)
        assert outcome.reason == "the limit of 2 rounds is reached"
        longer = Search(shape, BracketRule(minimum=1), most_rounds=6, margin=0.2, target=0.02)
        assert longer.replayed(stopped) == stopped == rounds[:2]
        assert longer.next_widths(stopped) == rounds[2].widths
        # the observations are those of the new target
        lenient = Search(shape, BracketRule(minimum=1), target=0.5)
        assert lenient.replayed(rounds[:1])[0].within_target

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"rule": BracketRule(minimum=12)}, "after 1 round they ask for the widths 12/12, not for 10/10"),
            ({"target": 0.5}, "after 1 round they ask for no further round, not for 10/10"),
            ({"most_rounds": 2}, "most_rounds must be at least 3, for so many are done, got 2"),
        ],
    )
    def test_the_search_of_settings_that_lead_elsewhere_is_refused(self, options, message):
        shape = Limited({"a": 90, "b": 90}, {"a": 9, "b": 40})
        rounds, _ = searched(shape)
        with pytest.raises(ValueError, match=message):
            Search(shape, **{"rule": BracketRule(minimum=1), **options}).replayed(rounds)

    def test_rounds_survive_json(self):
        rounds, _ = searched(Limited({"a": 90, "b": 90}, {"a": 9, "b": 40}))
        assert typed(list[Round], json.loads(json.dumps([asdict(each) for each in rounds])), "rounds") == rounds

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"target": -0.1}, r"target must lie in \[0, 1\], got -0.1"),
            ({"target": math.nan}, r"target must lie in \[0, 1\], got nan"),
            ({"most_rounds": 0}, "most_rounds must be a whole number >= 1, got 0"),
            ({"most_rounds": 2.0}, r"most_rounds must be a whole number >= 1, got 2\.0"),
            ({"most_rounds": True}, "most_rounds must be a whole number >= 1, got True"),
        ],
    )
    def test_options_refused(self, options, message):
        with pytest.raises(ValueError, match=message):
            Search(ResNetShape(), BracketRule(), **options)


class TestMeasuring:
    @pytest.fixture
    def models(self):
        return [ResNetShape(stem=6, inner=((5,),), out=(4,)).build() for _ in range(2)]

    @pytest.mark.parametrize(
        ("psi", "names"),
        [
            (PSI, ("eps 1e-6 absolute", "eps 1e-4 absolute", "scale-free")),
            (Similarity(eps=1e-3, alpha=1), ("alpha 1, eps 1e-5 absolute", "alpha 1, eps 1e-3 absolute", "scale-free")),
            (
                Similarity(eps=0.02, scale_free=True),
                ("eps 2e-4 relative to each layer's scale", "eps 0.02 relative to each layer's scale"),
            ),
            (Similarity(eps=0.0), ("eps 0",)),
        ],
        ids=["default", "another eps", "scale-free", "no eps"],
    )
    def test_lambda_by_its_definition_at_the_psi_and_its_neighbours(self, models, psi, names):
        layers = measure_networks(models, 0.4, psi)
        assert [each.name for each in layers] == ["conv1", "layer1.0.conv1", "layer1.0.conv2"]
        assert [(each.filters, each.slices, each.kernel_size) for each in layers] == [
            (6, 1, (3, 3)),
            (5, 6, (3, 3)),
            (4, 5, (3, 3)),
        ]
        for each in layers:
            weights = [model.get_submodule(each.name).weight.detach().double() for model in models]
            by_name = {
                SMALLER_EPS: (psi.eps / 100, psi.scale_free),
                CONFIGURED: (psi.eps, psi.scale_free),
                SCALE_FREE: (psi.eps, True),
            }
            assert set(each.levels) == set(psi_settings(psi))
            assert tuple(names_of_settings(psi).values()) == names
            for name, level in each.levels.items():
                eps, scale_free = by_name[name]
                units = [weight / weight.square().mean().sqrt() if scale_free else weight for weight in weights]
                omegas = [reference.pairwise_psi(unit, Similarity("psi", psi.alpha, 1.0, 1.0, eps)) for unit in units]
                assert level.per_model == pytest.approx([(omega > 0.4).double().mean().item() for omega in omegas])
            assert each.configured == each.levels[CONFIGURED]
            assert each.scale_free == each.levels.get(SCALE_FREE, each.configured)

    @pytest.mark.parametrize("psi", [Similarity(eps=1e-3), Similarity(eps=0.02, scale_free=True)])
    def test_what_is_kept_of_each_network_is_at_the_configured_psi(self, models, psi):
        with torch.no_grad():
            models[1].conv1.weight[3:] = models[1].conv1.weight[:3] + 0.02 * torch.randn(3, 1, 3, 3)
        for each in measure_networks(models, 0.6, psi):
            for model, distinct, histogram in zip(models, each.distinct, each.histograms, strict=True):
                module = model.get_submodule(each.name)
                assert distinct == redundant_groups(module, 0.6, **psi.options()).kept.numel()
                assert histogram == tuple(psi_histogram(module, 50, **psi.options()).tolist())
            # by hand: at most the target of 0.01, or three standard errors above the chance level
            chance = measure(models, 0.6, **replace(psi, scale_free=True).options())
            (level,) = (row.chance for row in chance.layers if row.name == each.name)
            error = math.sqrt(level * (1 - level) * (1 / each.pairs + 1 / min(16 * each.pairs, 3072)) / 2)
            assert each.is_within(0.01) == (each.configured.mean <= max(0.01, level + 3 * error))

    def test_every_psi_is_measured_once(self, models, monkeypatch):
        calls, measure_layers = [], measured_layers.measure_layers

        def recorded(*given, **options):
            calls.append((given[3], options))
            return measure_layers(*given, **options)

        monkeypatch.setattr(measured_layers, "measure_layers", recorded)
        layers = measure_networks(models, 0.6, PSI)
        settings = psi_settings(PSI)
        smaller = settings[measured_layers.SMALLER_EPS]
        assert calls == [(PSI, {}), (smaller, {"scale_free_beside": False})]
        for name, each in settings.items():
            rows = measure(models, 0.6, **each.options()).measured
            assert [layer.levels[name].per_model for layer in layers] == [row.per_model for row in rows]
            assert [layer.levels[name].chance for layer in layers] == [row.chance for row in rows]

    @pytest.mark.parametrize("psi", [Similarity("cosine"), Similarity("cosine", signed=True)], ids=str)
    def test_a_similarity_without_eps_has_no_neighbours(self, models, psi):
        assert psi_settings(psi) == {CONFIGURED: psi}
        for each in measure_networks(models, 0.4, psi):
            modules = [model.get_submodule(each.name) for model in models]
            shares = tuple(lambda_of(module, 0.4, **psi.options()).item() for module in modules)
            assert each.configured.per_model == shares
            assert each.scale_free is each.configured

    def test_histograms_are_those_of_each_network(self, models):
        for each in measure_networks(models, 0.6, PSI):
            for model, histogram in zip(models, each.histograms, strict=True):
                omega = pairwise_psi(model.get_submodule(each.name))
                assert histogram == tuple(torch.histc(omega, 50, 0, 1).long().tolist())
                assert sum(histogram) == each.pairs

    def test_repeats_are_seen_at_every_eps(self, models):
        with torch.no_grad():
            for model in models:
                model.conv1.weight[3:] = model.conv1.weight[:3]
        stem = measure_networks(models, 0.6, PSI)[0]
        assert all(level.mean >= 3 / 15 for level in stem.levels.values())
        assert max(stem.distinct) <= 3

    def test_layers_survive_json(self, models):
        layers = measure_networks(models, 0.6, PSI)
        assert (
            typed(tuple[MeasuredLayer, ...], json.loads(json.dumps([asdict(each) for each in layers])), "layers")
            == layers
        )


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

    @pytest.mark.exhaustive
    def test_the_nearest_number_where_inferred_widths_let_it_fall_between(self):
        shape = network_shape("resnet-paper-digits")
        steps = sorted({(2 * count + 1 + 1e-9) / (2 * width) for width in (24, 32, 48, 96) for count in range(width)})
        scaled = [{name: max(round(width * step), 1) for name, width in shape.widths().items()} for step in steps]
        counts = [parameters_of(shape.with_widths(widths)) for widths in scaled]
        assert counts != sorted(counts)
        for wanted in counts[5::16]:
            assert parameters_of(narrowed_alike(shape, wanted)) == wanted

    def test_widths_keep_their_proportions(self):
        narrowed, shape = narrowed_alike(ResNetShape(), 28_000).widths(), ResNetShape().widths()
        ratios = [narrowed[name] / shape[name] for name in shape]
        assert max(ratios) - min(ratios) < 1 / 32

    def test_the_nearest_number_of_multiply_adds(self):
        def by_hand(network):  # of one 8x8 image: 3x3 and 1x1 convolutions at two resolutions, and the linear layer
            stem, ((first,), (second,)), (one, two) = network.stem, network.inner, network.out
            stage1 = 64 * (9 * stem * first + 9 * first * one + stem * one)
            return 64 * 9 * stem + stage1 + 16 * (9 * one * second + 9 * second * two + one * two) + 10 * two

        shape = ResNetShape(stem=6, inner=((8,), (16,)), out=(8, 16))
        size_of = partial(multiply_adds_of, image_shape=(1, 8, 8))
        assert size_of(shape) == by_hand(shape)
        widths = shape.widths().items()
        scaled = [{name: max(round(width * step / 400), 1) for name, width in widths} for step in range(1, 401)]
        counts = [by_hand(shape.with_widths(each)) for each in scaled]
        for wanted in (20_000, 60_000):
            found = by_hand(narrowed_alike(shape, wanted, size_of))
            assert abs(found - wanted) <= min(abs(count - wanted) for count in counts)

    def test_a_number_refused(self):
        with pytest.raises(ValueError, match="size must be a whole number >= 1, got 0"):
            narrowed_alike(ResNetShape(), 0)


def compared(name, accuracy, parameters=1000, multiply_adds=5000, layers=(), of_seeds=(-0.01, 0.0, 0.01)):
    scores = tuple(Score(accuracy + offset, 0.99) for offset in of_seeds)
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
        result = evaluate_candidate("standard", {"a": 4}, [model], [layer()], Dataset("random", 4, part, part, part))
        assert result.accuracies == pytest.approx([(model(images).argmax(1) == labels).float().mean().item()])
        assert (result.parameters, result.multiply_adds) == (68, 64)
        assert typed(Candidate, json.loads(json.dumps(asdict(result))), "candidate") == result

    def test_nothing_to_narrow(self):
        rounds = [one_round(within(8), within(16))]
        sentences = conclusions(
            rounds, Outcome(0, "every layer is within target"), [compared("standard", 0.9)], (), 0.01, PSI, 0.1
        )
        assert "there is nothing to narrow" in sentences[0]
        assert sentences[1] == "Its held-out accuracy is 0.9000 ± 0.0100."

    @pytest.mark.parametrize(
        ("accuracy", "said"),
        [
            (
                0.90,
                "searched less standard 0.0000 [−0.0430, +0.0430], paired by seed: undecided, not told apart "  # noqa: RUF001
                "(p = 1.000), but not shown",
            ),
            (0.70, ": standard is better (p = 0.002)."),
            (0.99, ": searched is better (p = 0.012)."),
        ],
    )
    def test_what_the_tests_show_is_said(self, accuracy, said):
        """Differences of 0.02, -0.01 and -0.01 about the mean: error 0.01, 4.303 times which is half the interval."""
        standard = compared("standard", 0.90, layers=[layer(redundancy=0.9), layer(redundancy=0.2, scale_free=0.2)])
        searched = compared("searched", accuracy, 250, 1000, of_seeds=(0.01, -0.01, 0.0))
        uniform = compared("uniform", accuracy, 240, 500)
        rounds = [one_round(redundant(8), within(16)), one_round(within(4), within(16))]
        networks = [standard, searched, uniform]
        comparisons = compare_candidates(networks, 0.01)
        sentences = conclusions(
            rounds, Outcome(1, "every layer is within target"), networks, comparisons, 0.01, PSI, 0.1
        )
        assert sentences[0] == "After 2 rounds of training every layer is within target at eps 1e-4 absolute."
        assert sentences[1] == "The searched network keeps 25.0% of the parameters and 20.0% of the multiply-adds."
        assert said in sentences[2].replace("\N{NO-BREAK SPACE}", " ")
        assert "Narrowed alike to 240 parameters" in sentences[3]
        assert "with 0.50 times the searched network's multiply-adds" in sentences[3]
        assert "searched less uniform 0.0000 [−0.0430, +0.0430], paired by seed: undecided" in sentences[3]  # noqa: RUF001
        assert sentences[4].startswith("Of the standard network's 2 redundant layers, 1 is within target when measured")

    def test_a_scale_free_search_says_nothing_of_scale(self):
        measured = layer(redundancy=0.9)
        levels = {name: measured.levels[name] for name in psi_settings(Similarity(scale_free=True))}
        layers = [replace(measured, levels=levels)]
        networks = [compared(name, 0.9, layers=layers) for name in ("standard", "searched", "uniform")]
        rounds = [one_round(redundant(8), within(16)), one_round(within(4), within(16))]
        comparisons, psi = compare_candidates(networks, 0.01), Similarity(scale_free=True)
        outcome = Outcome(1, "every layer is within target")
        sentences = conclusions(rounds, outcome, networks, comparisons, 0.01, psi, 0.1)
        assert sentences[0].endswith("every layer is within target at eps 1e-4 relative to each layer's scale.")
        assert len(sentences) == 4

    @pytest.mark.parametrize(("most_frequent", "warned"), [(0.87, False), (0.88, True), (0.95, True)])
    def test_a_network_that_learnt_nothing(self, most_frequent, warned):
        # 0.89, 0.90 and 0.91: Student's interval of the mean begins at 0.9 - 4.303 * 0.01 / sqrt(3) = 0.8752
        rounds = [one_round(within(8), within(16))]
        found = [compared("standard", 0.9)]
        sentences = conclusions(rounds, Outcome(0, "every layer is within target"), found, (), 0.01, PSI, most_frequent)
        assert sentences[0].startswith("The standard network is not shown to have learnt anything") == warned
        assert "there is nothing to narrow" in sentences[warned]

    @pytest.mark.parametrize(("most_frequent", "warned"), [(0.89, False), (0.9, True)])
    def test_two_networks_are_too_few_to_show_whether_anything_was_learnt(self, most_frequent, warned):
        rounds = [one_round(within(8), within(16))]
        three = compared("standard", 0.9)
        found = [replace(three, scores=(three.scores[0], three.scores[2]))]  # 0.89 and 0.91
        sentences = conclusions(rounds, Outcome(0, "every layer is within target"), found, (), 0.01, PSI, most_frequent)
        assert not any("not shown to have learnt" in sentence for sentence in sentences)
        assert sentences[0].startswith("The standard network has not learnt anything that shows: its ") == warned

    def test_a_search_that_did_not_end_within_target_says_what_is_left(self):
        rounds = [one_round(redundant(8), redundant(16)), one_round(redundant(4), within(8))]
        networks = [compared(name, 0.9) for name in ("standard", "searched", "uniform")]
        sentences = conclusions(
            rounds,
            Outcome(1, "the limit of 2 rounds is reached"),
            networks,
            compare_candidates(networks, 0.01),
            0.01,
            PSI,
            0.1,
        )
        assert sentences[0] == (
            "The search ended after 2 rounds of training: the limit of 2 rounds is reached. Round 1 was chosen: of the "
            "rounds that keep the validation accuracy it leaves the fewest widths redundant, 1 of 2 at eps 1e-4 "
            "absolute: a."
        )


class TestViews:
    @pytest.fixture
    def networks(self):
        layers = [layer("conv1", 8, chance=0.2), layer("layer1.0.conv1", 16, 0.25, distinct=12)]
        return [compared("standard", 0.9, layers=layers), compared("searched", 0.9, 250, 1000, layers=layers)]

    def test_the_table_holds_what_was_measured(self, networks):
        rounds = [one_round(redundant(8), within(16))]
        text = tables.as_text(
            [
                tables.compared(networks, [Latency("CPU", 64, {"standard": 0.012, "searched": 0.0034})]),
                tables.layers_of(networks[0], 0.6, PSI),
                rounds_table(rounds, PSI),
                "An [end].",
            ]
        )
        for expected in (
            "250 (25.0%)",
            "1,000",
            "0.9000 ± 0.0100",
            ".250±.000",
            "12.0",
            "8/16",
            "1 of 2",
            "An [end].",
            "64 images, CPU",
            "3.40 ms",
        ):
            assert expected in text
        rows = {line.strip().partition("  ")[0]: line.split()[-2:] for line in text.splitlines()}
        assert rows["lambda of all pairs"] == ["0.203", "0.203"]  # a quarter of 120, and none of 28
        assert rows["lambda, scale-free"] == ["0.000", "0.000"]
        assert (rows["by chance"], rows["by chance, scale-free"]) == (["0.000"] * 2, ["0.038"] * 2)  # 0.2 of 28
        assert all(len(line) <= 80 for line in text.splitlines())

    def test_the_changes_are_told_in_words_and_those_that_stay_are_not(self):
        first = one_round(redundant(8), within(16))
        changed = (Change("a", 8, 4, "4.0 of 8 filters repeat another"), Change("b", 16, 16, "within_target"))
        assert changes_in_words(Round(first.widths, first.trained, first.observations, changed)) == [
            "a: 8 -> 4: 4.0 of 8 filters repeat another"
        ]

    def test_the_figure_has_a_panel_for_each_layer_of_each_network(self, networks):
        figure = comparison_figure(networks[::-1], 0.6, PSI, 0.01)
        assert len(figure.axes) == 4
        assert [len(axes.lines) for axes in figure.axes] == [4] * 4  # the threshold and three seeds
        texts = [text.get_text() for text in figure.axes[2].texts]
        assert texts == ["layer1.0.conv1", "16×8×3×3", "λ = 0.250 ± 0.000", "chance 0.000"]  # noqa: RUF001
        assert "Searched network, 250 parameters (25.0%)" in [text.get_text() for text in figure.texts]
        assert png_file(figure).startswith(b"\x89PNG")

    def test_a_curve_is_the_density_of_its_pairs(self, networks):
        line = comparison_figure(networks, 0.6, PSI, 0.01).axes[2].lines[1]
        places, heights = line.get_data()
        assert places[heights.argmax()] == pytest.approx(0.01, abs=0.011)  # three quarters of the pairs, in bin 0
        area = (heights[1:] + heights[:-1]) / 2
        assert area[places[1:] > 0.6].sum() / area.sum() == pytest.approx(0.25, abs=0.01)

    def test_the_figure_of_a_signed_similarity_goes_down_to_minus_1(self, networks):
        axes = comparison_figure(networks, -0.2, Similarity(signed=True), 0.01).axes[2]
        assert axes.get_xlim() == (-1, 1)
        places, heights = axes.lines[1].get_data()
        assert places[heights.argmax()] == pytest.approx(-0.98, abs=0.022)  # bin 0

    def test_the_figure_leaves_pyplot_alone(self, networks):
        import subprocess
        import sys

        script = (
            "import sys\nfrom ckrm_kernels.presentation.drawing import png_file\n"
            "from ckrm_kernels.width_search.report.omega_figure import comparison_figure\n"
            "from ckrm_kernels.comparison.candidates import Candidate\n"
            "from ckrm_kernels.comparison.measured_layers import *\n"
            "from ckrm_kernels.training import Score\n"
            "row = MeasuredLayer('a', 2, 1, (3,), 1, (2,), "
            "{n: Level((0.0,), 0.0) for n in psi_settings(Similarity())}, ((1,) * 50,))\n"
            "standard = Candidate('standard', {}, 1, 1, 4, (Score(1, 1),), (row,))\n"
            "png_file(comparison_figure([standard], 0.6, Similarity(), 0.01))\n"
            "assert 'matplotlib.pyplot' not in sys.modules"
        )
        subprocess.run([sys.executable, "-c", script], check=True, timeout=120)
