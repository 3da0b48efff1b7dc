"""The search that takes the widths that shrinking keeps: `ckrm search --rule error`."""

import json
from dataclasses import replace
from io import StringIO

import pytest
import torch
from rich.console import Console
from test_search import layer

from ckrm_kernels.comparison.trained_runs import compare_runs
from ckrm_kernels.data import Part, digits
from ckrm_kernels.models import ResNetShape, count_parameters
from ckrm_kernels.shrinking.plan import plan_shrink
from ckrm_kernels.shrinking.saved import load_shrunk
from ckrm_kernels.training import PRESETS, Runtime, TrainingConfig, evaluate, load, train
from ckrm_kernels.training.progress import Display
from ckrm_kernels.training.runs import RunsConfig, TrainedRuns, train_runs
from ckrm_kernels.width_search import RuleConfig, WidthSearchConfig
from ckrm_kernels.width_search.advice import advice
from ckrm_kernels.width_search.error_search import ErrorSearch
from ckrm_kernels.width_search.forecast import forecast
from ckrm_kernels.width_search.pipeline import search_widths
from ckrm_kernels.width_search.rules import BracketRule
from ckrm_kernels.width_search.search import Outcome, Trained
from ckrm_kernels.width_search.shrunk_networks import tuning
from ckrm_kernels.width_search.widths_by_error import calibration_images, widths_by_error

SHAPE = ResNetShape(stem=6, inner=((8,),), out=(12,))
CONFIG = WidthSearchConfig(
    network=SHAPE,
    training=TrainingConfig(epochs=1, batch_size=256),
    rule=RuleConfig(by="error", parameters=0.6, minimum=2),
    seeds=1,
    final_seeds=1,
)


def networks(count):
    found = []
    for seed in range(count):
        torch.manual_seed(seed)
        found.append(SHAPE.build())
    return found


@pytest.mark.exhaustive
def test_the_widths_are_the_medians_of_what_shrinking_keeps():
    models, images = networks(3), torch.randn(32, 1, 8, 8)
    kept = [
        {each.name: len(each.kept) for each in plan_shrink(model, images, calibration=images, parameters=0.6).layers}
        for model in models
    ]
    found = widths_by_error(models, SHAPE.width_of_layer(), images, 0.6)
    assert found == {
        width: sorted(widths[name] for widths in kept)[1]
        for width, name in {"conv1": "conv1", "layer1.0.conv1": "layer1.0.conv1", "layer1": "layer1.0.conv2"}.items()
    }
    one = widths_by_error(models[:1], SHAPE.width_of_layer(), images, 0.6)
    assert count_parameters(SHAPE.with_widths(one).build()) <= 0.6 * count_parameters(models[0])


def test_multiple_and_minimum():
    found = widths_by_error(networks(1), SHAPE.width_of_layer(), torch.randn(16, 1, 8, 8), 0.6, multiple=2, minimum=6)
    assert all(width % 2 == 0 and width >= 6 for width in found.values())


def test_calibration_is_of_the_training_images_and_always_the_same():
    part = Part(torch.arange(400.0).reshape(400, 1, 1, 1), torch.zeros(400, dtype=torch.int64))
    images = calibration_images(part)
    assert images.shape == (256, 1, 1, 1)
    assert len(images.unique()) == 256
    assert torch.equal(images, calibration_images(part))
    assert len(calibration_images(replace(part, images=part.images[:7], labels=part.labels[:7]))) == 7


def test_a_recipe_with_warm_up_can_be_tuned():
    found = tuning(PRESETS["vgnet"])
    assert (found.epochs, found.warmup_epochs, found.learning_rate) == (1, 0, pytest.approx(0.02))
    assert (found.label_smoothing, found.weight_decay_on) == (0.1, "weights")


class Plain:
    def widths(self):
        return {"a": 9, "b": 4}

    def width_of_layer(self):
        return {"a": "a", "b": "b"}


def one_round(search, rounds, widths, kept):
    layers = tuple(layer(name, width, redundancy=0.5 * (name == "a")) for name, width in widths.items())
    return search.observe(rounds, widths, Trained((0.9,), layers, kept))


def test_two_rounds_whatever_is_redundant():
    search = ErrorSearch(Plain(), BracketRule(), parameters=0.3)
    assert search.next_widths([]) == {"a": 9, "b": 4}
    first = one_round(search, [], {"a": 9, "b": 4}, {"a": 5, "b": 4})
    assert [(change.name, change.before, change.after) for change in first.changed] == [("a", 9, 5)]
    assert first.changed[0].reason == (
        "shrunk to 30% of the parameters, the standard networks keep 5 of 9 filters at the least added error"
    )
    assert search.next_widths([first]) == {"a": 5, "b": 4}
    second = one_round(search, [first], {"a": 5, "b": 4}, {})
    assert search.next_widths([first, second]) is None
    outcome = search.outcome([first, second])
    assert (outcome.chosen, outcome.obstacle, outcome.by_error) == (1, "", True)
    assert search.replayed([first, second]) == [first, second]
    assert advice(search, [first, second], outcome) == []


def test_a_width_that_is_not_measured_follows_the_error_alone():
    search, widths = ErrorSearch(Plain(), BracketRule()), {"a": 9, "b": 4}
    trained = Trained((0.9,), (layer("b", 4, redundancy=0.0),), {"a": 5, "b": 4})
    found = search.observe([], widths, trained)
    assert list(found.observations) == ["b"]
    assert found.within_target
    assert found.proposed == {"a": 5, "b": 4}


def test_a_limit_of_one_round_and_nothing_to_change():
    search = ErrorSearch(Plain(), BracketRule(), most_rounds=1)
    first = one_round(search, [], {"a": 9, "b": 4}, {"a": 5, "b": 4})
    assert search.next_widths([first]) is None
    outcome = search.outcome([first])
    assert outcome.obstacle == "only the standard network was trained: `most_rounds` is 1"
    assert advice(search, [first], outcome) == [
        "There are widths left to try: `ckrm search --resume RUN --set most_rounds=4` goes on from here."
    ]
    same = one_round(search, [], {"a": 9, "b": 4}, {"a": 9, "b": 4})
    assert search.outcome([same]) == Outcome(
        0, "no width changes", "shrinking to 50% of the parameters changes no width"
    )


def test_of_at_most_two_rounds():
    assert CONFIG.search().most_rounds == 2
    assert forecast(CONFIG, 0, 0, 1.0, 1, 1.0).most_networks == 4  # standard, searched and two uniform ones


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"by": "size"}, "by must be redundancy or error, got 'size'"),
        ({"by": "error", "tied": "stage"}, "tied must be layer where the rule goes by error, got 'stage'"),
    ],
)
def test_rules_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        RuleConfig(**fields)


@pytest.mark.parametrize("parameters", [0.0, 1.0, float("nan")])
def test_a_budget_that_is_none(parameters):
    with pytest.raises(ValueError, match=f"parameters must lie between 0 and 1, got {parameters}"):
        replace(CONFIG, rule=replace(CONFIG.rule, parameters=parameters))


def search(folder, config):
    output = StringIO()
    runtime = Runtime(device="cpu")
    return search_widths(folder, config, runtime=runtime, processes=1, console=Console(file=output, width=200))


def test_a_search_compares_the_widths_kept_and_is_reported(tmp_path):
    findings = search(tmp_path / "run", CONFIG)
    names = ["standard", "searched", "uniform", "uniform-macs", "shrunk", "tuned"]
    assert [each.name for each in findings.candidates] == names
    standard, searched, _, uniform, shrunk, tuned = findings.candidates
    assert searched.widths == findings.rounds[0].trained.kept
    assert abs(uniform.multiply_adds / searched.multiply_adds - 1) < 0.2
    assert shrunk.parameters == tuned.parameters <= 0.6 * standard.parameters
    assert [each.second for each in findings.comparisons if each.metric == "auc"] == [names[0], *names[2:]]
    assert searched.parameters <= 0.6 * standard.parameters
    assert any(sentence.startswith("The searched network keeps ") for sentence in findings.conclusions)
    assert findings.provenance["rule"] == "by error, parameters 0.6, minimum 2, multiple 1, at most 2 rounds"
    page = (tmp_path / "run" / "report.html").read_text()
    assert "round 1 has the widths that the standard networks keep, shrunk to 60% of the parameters" in page
    assert "falls to their number" not in page
    assert all(f'class="swatch {name}"' in page for name in names)
    _check_shrunk(tmp_path / "run", shrunk, tuned)
    runs = [tmp_path / "run" / "networks" / "round-0", tmp_path / "run"]  # of one network; of the one it ended with
    again, *_ = compare_runs(runs, 0.01, console=Console(file=StringIO()))
    assert [(each.name, each.scores) for each in again] == [("round-0", standard.scores), ("run", searched.scores)]
    trained = tmp_path / "run" / "other" / "trained"  # of `ckrm train`, wherever it lies, with settings of its own
    train_runs(
        trained, RunsConfig(SHAPE, training=replace(CONFIG.training, epochs=2)), console=Console(file=StringIO())
    )
    assert TrainedRuns.of(trained, Display(Console(file=StringIO()))).config.training.epochs == 2
    state = json.loads((tmp_path / "run" / "state.json").read_text())
    (tmp_path / "run" / "state.json").write_text(json.dumps({**state, "candidates": state["candidates"][:4]}))
    (tmp_path / "run" / "networks" / "tuned" / "seed-0" / "plan.json").unlink()  # killed while it was tuned
    again = search(tmp_path / "run", CONFIG)
    assert again.candidates == findings.candidates
    with pytest.raises(ValueError, match="which must be one of standard, searched, uniform, uniform-macs, which"):
        load(tmp_path / "run", which="shrunk")
    for rule in (replace(CONFIG.rule, parameters=0.5), RuleConfig(minimum=2)):
        with pytest.raises(ValueError, match="rule"):
            search(tmp_path / "run", replace(CONFIG, rule=rule))


def _check_shrunk(folder, shrunk, tuned):
    """They are the standard network shrunk, and that trained for one epoch more at a tenth of the learning rate."""
    data, standard = digits(), load(folder, which="standard").model
    images = calibration_images(data.train)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        plan = plan_shrink(standard, images[:2], calibration=images, parameters=0.6, minimum=2)
        small = plan.apply()
        assert_same(small, load_shrunk(SHAPE.build, folder / "networks" / "shrunk" / "seed-0"))
        assert shrunk.scores == (evaluate(small, data.held_out, 10),)
        train(small, data, replace(CONFIG.training, learning_rate=0.01), 0)
        assert_same(small, load_shrunk(SHAPE.build, folder / "networks" / "tuned" / "seed-0"))
        assert tuned.scores == (evaluate(small, data.held_out, 10),)
    finally:
        torch.set_num_threads(threads)


def assert_same(one, other):
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name
