"""What a search says that shrunk nothing: why, what is compared all the same, and what to change."""

from dataclasses import replace

import pytest
from test_search import Limited, compared, layer, redundant, within

from ckrm_kernels.comparison.candidates import compare_candidates
from ckrm_kernels.models import ResNetShape
from ckrm_kernels.similarity import Similarity
from ckrm_kernels.training import Score
from ckrm_kernels.width_search.advice import advice
from ckrm_kernels.width_search.compared import networks_compared
from ckrm_kernels.width_search.comparison_phase import still_valid
from ckrm_kernels.width_search.conclusions import conclusions
from ckrm_kernels.width_search.config import RuleConfig
from ckrm_kernels.width_search.rules import BracketRule, Change, StageRule
from ckrm_kernels.width_search.search import Round, Search, Trained
from ckrm_kernels.width_search.tables import never_trained

RULE = (RuleConfig(), (1, 8, 8))
SEARCH = Search(Limited({}, {}), BracketRule(), margin=0.01, most_rounds=3)


def one_round(place, accuracy, count, *, spread=0.001, redundancy=0.5, scale_free=0.5):
    """A round of two widths, each of 30 less a few filters, of which so many are redundant."""
    width = 30 - 5 * place
    seen = {name: (redundant if at < count else within)(width) for at, name in enumerate("ab")}
    layers = tuple(
        layer(name, width, redundancy if at < count else 0.0, scale_free=scale_free if at < count else 0.0)
        for at, name in enumerate("ab")
    )
    changes = tuple(Change(name, width, width - 5, "for a reason") for name in "ab")
    return Round(dict.fromkeys("ab", width), Trained((accuracy - spread, accuracy + spread), layers), seen, changes)


def search_of(accuracies, counts, **options):
    rounds = [one_round(at, *each, **options) for at, each in enumerate(zip(accuracies, counts, strict=True))]
    return rounds, SEARCH.outcome(rounds)


@pytest.mark.parametrize(
    ("accuracies", "counts", "narrower", "obstacle"),
    [
        (
            (0.9, 0.8, 0.85),
            (2, 1, 1),
            2,
            "every narrower round lost more than the margin of 0.01 in validation accuracy, the best of them 0.0500, "
            "and none is within target",
        ),
        (
            (0.9, 0.8),
            (2, 1),
            1,
            "the one narrower round lost more than the margin of 0.01 in validation accuracy, 0.1000, and is not "
            "within target",
        ),
        ((0.9, 0.895), (1, 2), 1, "every narrower round has more redundant widths than the standard network"),
        (
            (0.9, 0.8, 0.895),
            (1, 1, 2),
            2,
            "of the 2 narrower rounds 1 lost more than the margin of 0.01 in validation accuracy, and the others have "
            "more redundant widths than the standard network",
        ),
        ((0.9, 0.85, 0.85), (2, 2, 1), 2, None),  # of the same accuracy, that of the fewest redundant widths
        ((0.9,), (2,), None, "only the standard network was trained: `most_rounds` is 1"),
    ],
)
def test_why_nothing_was_shrunk_and_the_best_narrower_round(accuracies, counts, narrower, obstacle):
    _, outcome = search_of(accuracies, counts)
    assert (outcome.chosen, outcome.narrower, outcome.compared) == (0, narrower, narrower or 0)
    assert obstacle in (None, outcome.obstacle)


def test_where_no_width_can_fall_the_reasons_are_the_rules():
    widths = {"a": 4, "b": 9}
    changes = (Change("a", 4, 4, "redundant, but at the minimum of 4 already"), Change("b", 9, 9, "within target"))
    only = Round(widths, Trained((0.9,), ()), {"a": redundant(4), "b": within(9)}, changes)
    assert SEARCH.outcome([only]).obstacle == (
        "the rule narrows none of the redundant widths, a: redundant, but at the minimum of 4 already"
    )


@pytest.mark.parametrize(("accuracies", "counts"), [((0.9, 0.895), (2, 1)), ((0.9,), (0,))])
def test_nothing_stands_in_the_way_of_a_search_that_shrinks_or_has_nothing_to(accuracies, counts):
    rounds, outcome = search_of(accuracies, counts)
    assert (outcome.obstacle, outcome.narrower) == ("", None)
    assert advice(SEARCH, rounds, outcome) == []


def test_the_best_narrower_round_is_compared_under_a_name_of_its_own():
    shape = ResNetShape(stem=6, inner=((8,),), out=(32,))
    rounds, outcome = search_of((0.9, 0.8), (2, 1))
    rounds[1] = replace(rounds[1], widths={"conv1": 6, "layer1.0.conv1": 6, "layer1": 12})
    found = networks_compared(shape, rounds, outcome, *RULE)
    assert [each.name for each in found] == ["standard", "narrower", "uniform"]
    assert found[1].shape.widths() == rounds[1].widths
    chosen = networks_compared(shape, rounds, replace(outcome, chosen=1), *RULE)
    assert [each.name for each in chosen] == ["standard", "searched", "uniform"]
    assert [each.stem for each in chosen] == [each.stem for each in found]
    assert [each.name for each in networks_compared(shape, rounds[:1], replace(outcome, narrower=None), *RULE)] == [
        "standard"
    ]


def test_what_was_evaluated_is_kept_up_to_the_first_other_network():
    shape = ResNetShape(stem=6, inner=((8,),), out=(32,))
    rounds, outcome = search_of((0.9, 0.8), (2, 1))
    rounds[1] = replace(rounds[1], widths={"conv1": 6, "layer1.0.conv1": 6, "layer1": 12})
    wanted = networks_compared(shape, rounds, outcome, *RULE)
    evaluated = [replace(compared(each.name, 0.9), widths=each.shape.widths()) for each in wanted]
    assert still_valid(evaluated, wanted, 3) == evaluated
    assert still_valid(evaluated[:2], wanted, 3) == evaluated[:2]
    assert still_valid(evaluated, wanted, 4) == []
    assert (
        still_valid(evaluated, networks_compared(shape, rounds, replace(outcome, chosen=1), *RULE), 3) == evaluated[:1]
    )
    others = [evaluated[0], replace(evaluated[1], widths={}), evaluated[2]]
    assert still_valid(others, wanted, 3) == evaluated[:1]


def test_the_sentences():
    rounds, outcome = search_of((0.9, 0.8), (2, 1))
    networks = [compared(name, accuracy) for name, accuracy in (("standard", 0.9), ("narrower", 0.8), ("uniform", 0.7))]
    sentences = conclusions(
        rounds, outcome, networks, compare_candidates(networks, 0.01), 0.01, Similarity(scale_free=True), 0.1
    )
    assert sentences[:3] == [
        f"Nothing was shrunk, because {outcome.obstacle}.",
        f"The search ended after 2 rounds of training: {outcome.reason}.",
        "Of the standard network's 2 widths 2 are redundant at eps 1e-4 relative to each layer's scale: a, b.",
    ]
    assert sentences[3].startswith(
        "The narrower round, round 1, 8/16, was not chosen, but is compared all the same: it"
    )
    assert "standard 0.9000 ± 0.0100, narrower 0.8000 ± 0.0100; narrower less standard" in sentences[4]
    assert "the narrower network's multiply-adds; narrower less uniform" in sentences[5]


def test_one_network_of_each_kind_is_one_network():
    rounds, outcome = search_of((0.9, 0.8), (2, 1))
    names = ("standard", "narrower", "uniform")
    networks = [replace(compared(name, 0.9), scores=(Score(0.9, 0.9),)) for name in names]
    sentences = conclusions(rounds, outcome, networks, compare_candidates(networks, 0.01), 0.01, Similarity(), 0.1)
    assert sentences[4].startswith("Held-out accuracy of 1 network each: standard 0.9000, narrower 0.9000; ")


def test_the_sentences_where_the_standard_network_alone_was_trained():
    rounds, outcome = search_of((0.9,), (2,))
    sentences = conclusions(rounds, outcome, [compared("standard", 0.9)], (), 0.01, Similarity(), 0.1)
    assert sentences[0].startswith("Nothing was shrunk, because only the standard network was trained: ")
    assert "after 1 round of training" in sentences[1]
    assert sentences[3] == "The standard network has 1,000 parameters and a held-out accuracy of 0.9000 ± 0.0100."


def said(accuracies, counts, **options):
    rounds, outcome = search_of(accuracies, counts, **options)
    return advice(SEARCH, rounds, outcome), rounds


def test_more_rounds_are_advised_where_the_search_stopped_at_its_limit():
    sentences, _ = said((0.9, 0.8, 0.8), (2, 1, 1))
    assert sentences == [
        "There are widths left to try: `ckrm search --resume RUN --set most_rounds=6` goes on from here."
    ]


def test_the_least_margin_that_chooses_a_round_is_named():
    sentences, rounds = said((0.9, 0.8, 0.866), (2, 1, 1))
    assert (
        "If a loss of 0.0340 in validation accuracy is acceptable, `ckrm search --resume RUN --set margin=0.035` "
        in (sentences[1])
    )
    assert replace(SEARCH, margin=0.035).outcome(rounds).chosen == 2
    assert replace(SEARCH, margin=0.033).outcome(rounds).chosen == 0


def test_no_margin_is_named_that_chooses_nothing_or_is_very_wide():
    for accuracies, counts in (((0.9, 0.88), (1, 2)), ((0.9, 0.84), (2, 1))):
        sentences, _ = said(accuracies, counts)
        assert not any("margin=" in sentence for sentence in sentences)


def test_seeds_that_differ_by_more_than_the_margin_are_pointed_at():
    sentences, _ = said((0.9, 0.6), (2, 1), spread=0.02)
    # of 0.88 and 0.92: 0.02 sqrt(2)
    assert any("standard deviation 0.0283 over 2 seeds" in sentence for sentence in sentences)
    sentences, _ = said((0.9, 0.6), (2, 1))
    assert not any("standard deviation" in sentence for sentence in sentences)


def test_the_target_of_a_round_that_is_nearly_within_it_is_named():
    sentences, rounds = said((0.9, 0.6), (2, 1), redundancy=0.034)
    assert any(
        "at most 0.034 in its redundant layers, so that a new run with `target=0.035`" in sentence
        for sentence in sentences
    )
    assert all(each.is_within(0.035) for each in rounds[1].trained.layers)
    sentences, _ = said((0.9, 0.6), (2, 1), redundancy=0.2)
    assert not any("target=" in sentence for sentence in sentences)


@pytest.mark.parametrize("tied", [False, True])
def test_a_higher_minimum_is_advised_where_widths_fell_to_it(tied):
    rounds, outcome = search_of((0.9, 0.6), (2, 1))
    rule = BracketRule(minimum=25)
    search = replace(SEARCH, rule=StageRule(rule, {"a": "a", "b": "b"}) if tied else rule)
    sentence = "In round 1, 1 width fell to the minimum of 25, where few pairs"
    assert any(each.startswith(sentence) for each in advice(search, rounds, outcome))
    assert not any("minimum" in each for each in advice(SEARCH, rounds, outcome))


def test_a_scale_free_search_is_advised_where_scale_alone_is_redundant():
    sentences, _ = said((0.9, 0.6), (2, 1), scale_free=0.0)
    assert "go by the shape of filters alone, and find nothing to shrink among the 2 redundant layers" in sentences[-1]
    sentences, _ = said((0.9, 0.6), (2, 1))
    assert not any("--scale-free" in sentence for sentence in sentences)


def test_what_was_proposed_last_is_labelled():
    _, outcome = search_of((0.9, 0.8, 0.8), (2, 1, 1))
    assert never_trained(outcome) == "proposed, but not trained, since the limit of 3 rounds is reached"
