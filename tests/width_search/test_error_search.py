"""The search that takes the widths that shrinking keeps: `ckrm search --rule error`."""

import json
import shutil
from dataclasses import asdict, replace
from io import StringIO
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console
from small_training import interrupted_after
from test_search import layer

from ckrm_kernels.comparison.measured_layers import measure_networks
from ckrm_kernels.comparison.trained_runs import compare_runs
from ckrm_kernels.data import Part, digits
from ckrm_kernels.models import ResNetShape, count_multiply_adds, count_parameters
from ckrm_kernels.models.kinds import described_network
from ckrm_kernels.shrinking.plan import plan_shrink
from ckrm_kernels.shrinking.trained_runs import some_images
from ckrm_kernels.similarity import Similarity
from ckrm_kernels.training import PRESETS, Runtime, TrainingConfig, load, train
from ckrm_kernels.training.progress import Display
from ckrm_kernels.training.runs import RunsConfig, TrainedRuns, train_runs
from ckrm_kernels.training.workers import Workers
from ckrm_kernels.width_search import RuleConfig, WidthSearchConfig, pipeline
from ckrm_kernels.width_search import widths_by_error as by_error
from ckrm_kernels.width_search.advice import advice
from ckrm_kernels.width_search.error_search import ErrorSearch
from ckrm_kernels.width_search.forecast import Forecast, forecast, in_words
from ckrm_kernels.width_search.pipeline import report, search_widths
from ckrm_kernels.width_search.rules import BracketRule
from ckrm_kernels.width_search.search import Outcome, Trained
from ckrm_kernels.width_search.shrunk_network import ShrunkNetwork
from ckrm_kernels.width_search.shrunk_runs import tuning
from ckrm_kernels.width_search.widths_by_error import widths_by_error

SHAPE = ResNetShape(stem=6, inner=((8,),), out=(12,))
CONFIG = WidthSearchConfig(
    network=SHAPE,
    training=TrainingConfig(epochs=1, batch_size=256),
    rule=RuleConfig(by="error", parameters=0.6, minimum=2),
    seeds=1,
    final_seeds=1,
)

NAMES = ["standard", "searched", "uniform", "uniform-macs", "shrunk", "tuned"]


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
    found = widths_by_error(models, SHAPE, images, 0.6)
    assert found == {
        width: sorted(widths[name] for widths in kept)[1]
        for width, name in {"conv1": "conv1", "layer1.0.conv1": "layer1.0.conv1", "layer1": "layer1.0.conv2"}.items()
    }
    one = widths_by_error(models[:1], SHAPE, images, 0.6)
    assert count_parameters(SHAPE.with_widths(one).build()) <= 0.6 * count_parameters(models[0])


def test_multiple_and_minimum():
    found = widths_by_error(networks(1), SHAPE, torch.randn(16, 1, 8, 8), 0.6, multiple=2, minimum=6)
    assert all(width % 2 == 0 and width >= 6 for width in found.values())


INFERRED = ResNetShape(stem=8, inner=((8, 8), (16,)), out=None, block="bottleneck", form="paper-small")


def test_where_widths_are_shared_or_inferred_their_network_meets_the_budget(monkeypatch):
    """As if shrinking kept the share of each 1x1 convolution, and twice as much of each other."""

    def planned(model, images, parameters, **options):
        shares = {
            name: min((1 if name.endswith("conv1") else 2) * parameters, 1.0) for name in INFERRED.width_of_layer()
        }
        widths = {layer: INFERRED.widths()[width] for layer, width in INFERRED.width_of_layer().items()}
        kept = {name: range(round(width * shares[name])) for name, width in widths.items()}
        return SimpleNamespace(layers=[SimpleNamespace(name=name, kept=each) for name, each in kept.items()])

    monkeypatch.setattr(by_error, "plan_by_error", planned)
    whole = count_parameters(INFERRED.build())
    assert INFERRED.with_widths(by_error.widths_by_error([None], INFERRED, None, 1.0)) == INFERRED
    found = INFERRED.with_widths(by_error.widths_by_error([None], INFERRED, None, 0.5))
    assert count_parameters(found.build()) == pytest.approx(0.5 * whole, rel=0.05)


@pytest.mark.exhaustive
def test_a_network_of_inferred_widths_meets_the_budget():
    torch.manual_seed(0)
    found = widths_by_error([INFERRED.build()], INFERRED, torch.randn(32, 1, 8, 8), 0.5, minimum=2)
    whole = count_parameters(INFERRED.build())
    assert count_parameters(INFERRED.with_widths(found).build()) == pytest.approx(0.5 * whole, rel=0.15)


def test_calibration_is_of_the_training_images_and_always_the_same():
    part = Part(torch.arange(400.0).reshape(400, 1, 1, 1), torch.zeros(400, dtype=torch.int64))
    images = some_images(part, 256)
    assert images.shape == (256, 1, 1, 1)
    assert len(images.unique()) == 256
    assert torch.equal(images, some_images(part, 256))
    assert len(some_images(replace(part, images=part.images[:7], labels=part.labels[:7]), 256)) == 7


def test_a_recipe_with_warm_up_can_be_tuned():
    found = tuning(PRESETS["vgnet"])
    assert (found.epochs, found.warmup_epochs, found.learning_rate) == (1, 0, pytest.approx(0.02))
    assert (found.schedule, found.early_stop) == ("cosine", None)
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
    # of one seed: standard, searched, both uniform ones, and tuned, which takes one of two epochs
    found = forecast(replace(CONFIG, training=replace(CONFIG.training, epochs=2)), 0, 0, 60.0, 1, 60.0)
    assert found == Forecast(1, 5, 60, 4.5 * 60, 2)
    assert "2 of them to compare the searched one with: uniform ones of equal multiply-adds" in in_words(found, 60, 1)


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


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A search that ran unbroken, and what it found."""
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    return folder, search(folder, CONFIG)


@pytest.fixture
def unreported(monkeypatch):
    """No report is written, which takes longer than the search."""
    monkeypatch.setattr(pipeline, "write_outputs", lambda *arguments: None)


def test_a_search_compares_the_widths_kept_and_is_reported(finished):
    folder, findings = finished
    assert [each.name for each in findings.candidates] == NAMES
    standard, searched = findings.candidates[:2]
    assert searched.widths == findings.rounds[0].trained.kept
    assert searched.parameters <= 0.6 * standard.parameters
    assert any(sentence.startswith("The searched network keeps ") for sentence in findings.conclusions)
    assert findings.provenance["time"].endswith("summed over 5 networks")  # the shrunk one is not trained
    assert findings.provenance["rule"] == "by error, parameters 0.6, minimum 2, multiple 1, at most 2 rounds"
    page = (folder / "report.html").read_text()
    assert "round 1 has the widths that the standard networks keep, shrunk to 60% of the parameters" in page
    assert "falls to their number" not in page
    assert all(f'class="swatch {name}"' in page for name in NAMES)
    assert search(folder, CONFIG).candidates == findings.candidates
    for rule in (replace(CONFIG.rule, parameters=0.5), RuleConfig(minimum=2)):
        with pytest.raises(ValueError, match="rule"):
            search(folder, replace(CONFIG, rule=rule))


def test_a_budget_out_of_reach_ends_before_anything_is_trained(tmp_path):
    config = replace(CONFIG, rule=replace(CONFIG.rule, parameters=0.01))
    with pytest.raises(ValueError, match="the least that can be reached is"):
        search(tmp_path / "run", config)
    assert not (tmp_path / "run" / "networks").exists()


def test_its_networks_can_be_compared_one_by_one(finished):
    folder, findings = finished
    standard, searched = findings.candidates[:2]
    runs = [folder / "networks" / "round-0", folder]  # of one network; of the one it ended with
    again, *_ = compare_runs(runs, 0.01, console=Console(file=StringIO()))
    assert [(each.name, each.scores) for each in again] == [("round-0", standard.scores), ("run", searched.scores)]
    made = [folder / "networks" / name for name in ("shrunk", "tuned")]
    shrunk, tuned = compare_runs(made, 0.01, console=Console(file=StringIO()))[0]
    by_name = {each.name: each for each in findings.candidates}
    assert [replace(each, layers=()) for each in (shrunk, tuned)] == [by_name["shrunk"], by_name["tuned"]]
    assert shrunk.layers == measure_networks([load(folder, which="shrunk").model], 0.6, Similarity())
    trained = folder / "other" / "trained"  # of `ckrm train`, wherever it lies, with settings of its own
    train_runs(
        trained, RunsConfig(SHAPE, training=replace(CONFIG.training, epochs=2)), console=Console(file=StringIO())
    )
    assert TrainedRuns.of(trained, Display(Console(file=StringIO()))).config.training.epochs == 2


def test_each_network_compared_is_what_its_name_says(finished):
    folder, findings = finished
    by_name = {each.name: each for each in findings.candidates}
    searched, as_fast = by_name["searched"].multiply_adds, by_name["uniform-macs"]
    assert load(folder, which="uniform-macs").network.widths() == as_fast.widths
    for factor in range(1, 41):
        scaled = SHAPE.with_widths({name: max(round(width * factor / 40), 1) for name, width in SHAPE.widths().items()})
        counted = count_multiply_adds(replace(scaled, classes=10).build(), (1, 8, 8))
        assert abs(as_fast.multiply_adds - searched) <= abs(counted - searched)
    data, standard = digits(), load(folder, which="standard").model
    images = some_images(data.train, 256)
    small = plan_shrink(standard, images[:2], calibration=images, parameters=0.6, minimum=2).apply()
    assert same(small, load(folder, which="shrunk").model)
    assert by_name["shrunk"].parameters == count_parameters(small) <= 0.6 * by_name["standard"].parameters
    slow = replace(CONFIG.training, epochs=1, learning_rate=0.01, schedule="cosine")
    train(small, data, slow, 0, runtime=Runtime(device="cpu"))
    assert same(small, load(folder, which="tuned").model)
    compared = [(each.first, each.second) for each in findings.comparisons if each.metric == "accuracy"]
    assert compared == [("searched", name) for name in NAMES if name != "searched"]
    for file in ("report.html", "report.txt", "tables/quality.csv", "tables/comparisons.csv", "tables/latency.csv"):
        assert all(name in (folder / file).read_text() for name in NAMES)
    cells = (folder / "report.txt").read_text().split("Widths, cost, and quality")[1:]
    assert [[name for name in NAMES if name in each.split("conv1")[0].split()] for each in cells] == [
        NAMES[:3],
        NAMES[3:],
    ]
    with pytest.raises(ValueError, match=f"which must be one of {', '.join(NAMES)}, which .* holds, got 'narrower'"):
        load(folder, which="narrower")


def same(one, other):
    states = one.state_dict(), other.state_dict()
    return states[0].keys() == states[1].keys() and all(
        torch.equal(tensor, states[1][name]) for name, tensor in states[0].items()
    )


@pytest.mark.usefixtures("unreported")
def test_killed_while_it_shrinks_and_interrupted_while_it_tunes(finished, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    shutil.copytree(finished[0], folder)
    state = json.loads((folder / "state.json").read_text())
    at = NAMES.index("shrunk")
    (folder / "state.json").write_text(json.dumps({**state, "candidates": state["candidates"][:at], "latencies": []}))
    (folder / "networks" / "shrunk" / "seed-0" / "run.json").unlink()
    shutil.rmtree(folder / "networks" / "tuned")
    with interrupted_after(1, monkeypatch):
        search(folder, CONFIG)
    assert len(json.loads((folder / "state.json").read_text())["candidates"]) == at + 1
    assert search(folder, CONFIG).candidates == finished[1].candidates


@pytest.mark.usefixtures("unreported")
def test_finished_by_a_version_that_compared_fewer_networks_it_is_finished(finished, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    shutil.copytree(finished[0], folder)
    state = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps({**state, "candidates": state["candidates"][:3]}))
    for name in NAMES[3:]:
        shutil.rmtree(folder / "networks" / name)
    monkeypatch.setattr(Workers, "run", lambda *arguments: pytest.fail("it trains"))
    assert report(folder, Console(file=StringIO())).candidates == finished[1].candidates[:3]
    assert search(folder, replace(CONFIG, margin=0.02)).candidates == finished[1].candidates[:3]
    assert json.loads((folder / "networks.json").read_text()).keys() == set(NAMES[:3])


@pytest.mark.exhaustive
@pytest.mark.usefixtures("unreported")
def test_with_its_shrunk_networks_in_other_files_it_is_finished(finished, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished[0], folder)
    for name in NAMES[4:]:
        shutil.rmtree(folder / "networks" / name)
    assert report(folder, Console(file=StringIO())).candidates == finished[1].candidates
    with pytest.raises(ValueError, match="which must be one of standard, searched, uniform, uniform-macs, which"):
        load(folder, which="shrunk")


def test_shrunk_networks_are_not_searched(finished):
    folder, _ = finished
    with pytest.raises(ValueError, match="to be searched, got one that was shrunk: choose its original"):
        replace(CONFIG, network=str(folder / "networks" / "shrunk"))


def test_a_shrunk_network_is_described_whole_and_is_not_searched():
    kept = {"conv1.weight": {0: [0, 2, 5]}, "bn1.weight": {0: [0, 2, 5]}}
    made = ShrunkNetwork.of(SHAPE, kept)
    again = described_network(json.loads(json.dumps(asdict(made))), "a file")
    assert again == made
    assert again.build().conv1.weight.shape == (3, 1, 3, 3)
    assert again.widths() == {
        "conv1": 3,
        "layer1.0.conv1": 8,
        "layer1.0.conv2": 12,
        "layer1.0.downsample.0": 12,
    }
    assert again.with_widths(again.widths()) == again
    with pytest.raises(ValueError, match="the widths of a shrunk network are those that were kept"):
        again.with_widths({**again.widths(), "conv1": 2})
