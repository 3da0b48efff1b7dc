import csv
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from html import unescape
from io import BytesIO, StringIO, TextIOWrapper
from pathlib import Path

import pytest
import torch
from exhaustive import also
from rich.console import Console
from small_training import interrupted_after

from ckrm_kernels.data import DataConfig, digits
from ckrm_kernels.models import ResNetShape, network_of
from ckrm_kernels.training import Runtime, TrainingConfig, evaluate, load, workers
from ckrm_kernels.training.progress import Display
from ckrm_kernels.width_search import RuleConfig, Similarity, WidthSearchConfig, experiment
from ckrm_kernels.width_search.pipeline import report, search_widths
from ckrm_kernels.width_search.state import config_of

# so much weight decay that a few steps make a layer redundant
SMALL = WidthSearchConfig(
    network=ResNetShape(stem=6, inner=((8,),), out=(32,)),
    training=TrainingConfig(epochs=3, batch_size=64, weight_decay=0.1),
    seeds=2,
    final_seeds=3,
    most_rounds=2,
    margin=0.5,
)
ON_CPU = Runtime(device="cpu", checkpoint_seconds=0.1)


def small(folder, config=SMALL, processes=1) -> str:
    """Runs it and returns what it printed, less the times before progress lines."""
    file = StringIO()
    search_widths(folder, config, runtime=ON_CPU, processes=processes, console=Console(file=file, width=100))
    return re.sub(r"^\d\d:\d\d:\d\d ", "", file.getvalue(), flags=re.MULTILINE)


def results(folder) -> tuple[object, str, dict[str, bytes]]:
    """Everything that was found, but for the time that it took."""
    found = json.loads((folder / "report.json").read_text())
    assert found.pop("seconds")["training"] > 0
    weights = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("weights.safetensors")}
    return found, (folder / "report.txt").read_text(), weights


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, str]:
    """A search that ran unbroken, and what it printed."""
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    return folder, small(folder)


def test_the_report(finished):
    folder, printed = finished
    report, table, _ = results(folder)
    networks = {network["name"]: network for network in report["networks"]}
    assert list(networks) == ["standard", "searched", "uniform"]
    assert networks["standard"]["widths"] == SMALL.network.widths()
    assert networks["searched"]["parameters"] < networks["standard"]["parameters"]
    rounds = report["search"]["rounds"]
    assert networks["searched"]["widths"] == rounds[report["search"]["chosen"]]["widths"]
    assert rounds[0]["observations"]["layer1"]["within_target"] is False
    assert all(len(network["scores"]) == 3 for network in networks.values())
    assert all(len(each["trained"]["validation_accuracy"]) == 2 for each in rounds)
    assert {(each["first"], each["second"], each["metric"]) for each in report["comparisons"]} == {
        ("searched", other, metric) for other in ("standard", "uniform") for metric in ("accuracy", "auc")
    }
    for sentence in report["conclusions"]:
        assert sentence in printed
        assert "".join(sentence.split()) in "".join(table.split())  # lines break at no-break spaces, too


def texts(folder: Path) -> dict[str, str]:
    """Everything that a report says, by file: its words, with single blanks between, and what stands for pictures."""
    files = [folder / "report.html", folder / "report.txt", *folder.glob("figures/*.svg"), *folder.glob("tables/*.csv")]
    said = {}
    for file in files:
        text = re.sub(r"<style>.*?</style>", "", file.read_text(), flags=re.DOTALL)
        labels = re.findall(r' (?:alt|aria-label)="([^"]*)"', text)
        words = text if file.suffix in (".txt", ".csv") else re.sub(r"<[^>]*>", " ", text)
        said[str(file.relative_to(folder))] = " ".join(unescape(" ".join([words, *labels])).split())
    return said


@pytest.mark.parametrize(
    ("psi", "words", "neighbour"),
    [
        (Similarity(eps=1e-3), "eps 1e-3 absolute", "eps 1e-5 absolute"),
        (
            Similarity(eps=0.02, scale_free=True),
            "eps 0.02 relative to each layer's scale",
            "eps 2e-4 relative to each layer's scale",
        ),
        (
            Similarity(scale_free=True),
            "eps 1e-4 relative to each layer's scale",
            "eps 1e-6 relative to each layer's scale",
        ),
    ],
    ids=["another eps", "another eps, scale-free", "scale-free"],
)
def test_a_search_at_another_psi_goes_by_it_and_says_so(tmp_path, psi, words, neighbour):
    from safetensors.torch import load_file

    config = replace(SMALL, similarity=psi, final_seeds=2)
    printed = " ".join(small(tmp_path, config).split())
    found, _, _ = results(tmp_path)
    # the verdicts, by the definition
    network = replace(SMALL.network, classes=10)
    width_of_layer = network.width_of_layer()
    for place, done in enumerate(found["search"]["rounds"]):
        runs = [tmp_path / "networks" / f"round-{place}" / f"seed-{seed}" for seed in range(SMALL.seeds)]
        weights = [load_file(run / "weights.safetensors") for run in runs]
        within = dict.fromkeys(done["widths"], True)
        for layer in done["trained"]["layers"]:
            name = f"{layer['name']}.weight"
            shares, chances = zip(*(shares_above(each[name], psi) for each in weights), strict=True)
            assert layer["levels"]["configured"]["per_model"] == pytest.approx(shares)
            chance = layer["levels"].get("scale_free", layer["levels"]["configured"])["chance"]
            assert chance == pytest.approx(sum(chances) / len(chances), abs=0.03)
            shares_of = [layer["pairs"], min(16 * layer["pairs"], 3072)]  # lambda and its chance level
            variance = sum(chance * (1 - chance) / (pairs * len(chances)) for pairs in shares_of)
            allowed = chance + 3 * math.sqrt(variance)
            if sum(shares) / len(shares) > max(SMALL.target, allowed):
                within[width_of_layer[layer["name"]]] = False
        assert {name: each["within_target"] for name, each in done["observations"].items()} == within
    # the words
    assert found["config"]["similarity"] == asdict(psi)
    said = {**texts(tmp_path), "printed": printed}
    for name, text in said.items():
        if not re.search("quality|latency|comparisons|structure|accuracy|auc|widths.svg", name):
            assert words in text, name
        # eps is named as it is here or in a neighbour's column; no other eps is
        named = set(re.findall(r"eps \d[\de.-]* (?:absolute|relative to each)", text))
        assert named <= {words.removesuffix(" layer's scale"), neighbour.removesuffix(" layer's scale")}
        assert not re.search("10⁻|ε = ", text)
        assert psi.eps == 1e-4 or "1e-4" not in text
    rows = list(csv.DictReader((tmp_path / "tables" / "layers.csv").open()))
    assert all(bool(row["scale_free_lambda_mean"]) != psi.scale_free for row in rows)
    assert all((row["psi"], row["smaller_eps_psi"]) == (words, neighbour) for row in rows)


def shares_above(weight: torch.Tensor, psi: Similarity) -> tuple[float, float]:
    """lambda of a weight, by the definition, and its scale-free chance level."""
    from ckrm_kernels import chance_redundancy
    from ckrm_kernels.reference import pairwise_psi

    exact = weight.double()
    unit = exact / exact.square().mean().sqrt()
    omega = pairwise_psi(unit if psi.scale_free else exact, Similarity(eps=psi.eps))
    generator = torch.Generator().manual_seed(0)
    chance = chance_redundancy(weight, 0.6, rounds=16, generator=generator, eps=psi.eps, scale_free=True)
    return (omega > 0.6).double().mean().item(), chance.item()


def test_the_scores_are_those_of_the_saved_weights(finished):
    from safetensors.torch import load_file

    from ckrm_kernels.data import digits

    folder, _ = finished
    network = replace(SMALL.network, classes=10).build().eval()
    network.load_state_dict(load_file(folder / "networks" / "round-0" / "seed-1" / "weights.safetensors"))
    held_out = digits().held_out
    accuracy = (network(held_out.images).argmax(1) == held_out.labels).float().mean().item()
    report, _, _ = results(folder)
    assert report["networks"][0]["scores"][1]["accuracy"] == pytest.approx(accuracy)


def test_a_finished_demo_is_shown_again_and_trains_nothing(finished):
    folder, printed = finished
    before = results(folder)
    again = small(folder)
    assert results(folder) == before
    assert "epoch" in printed
    assert "epoch" not in again
    assert again in printed


def test_another_configuration_in_the_same_folder(finished):
    folder, _ = finished
    other = replace(SMALL, seeds=1, margin=0.4)
    with pytest.raises(ValueError, match=r"of another configuration \(seeds is 2, not 1\): choose another folder"):
        search_widths(folder, other)


def trains_nothing(monkeypatch):
    monkeypatch.setattr(workers, "run_job", lambda job, on_event: pytest.fail(f"{job.folder} is trained"))


def sessions(folder):
    return json.loads((folder / "state.json").read_text())["sessions"]


@pytest.mark.exhaustive
def test_more_rounds_go_on_to_the_same_result(finished, tmp_path):
    small(tmp_path, replace(SMALL, most_rounds=1, final_seeds=2))
    alone = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("weights.safetensors")}
    assert alone == {f"networks/round-0/seed-{seed}/weights.safetensors" for seed in (0, 1)}
    found, _, _ = results(tmp_path)
    assert [network["name"] for network in found["networks"]] == ["standard"]
    assert found["conclusions"][-1].startswith("There are widths left to try: ") or any(
        "`most_rounds` is 1" in sentence for sentence in found["conclusions"]
    )
    printed = small(tmp_path)
    assert "Going on in" in printed
    assert "the search is done" not in printed
    assert "1 of at most 2 rounds are done, and 0 of 2 networks of round 1" in printed
    assert "most_rounds: 2, was 1" in printed
    assert results(tmp_path) == results(finished[0])
    first, second = sessions(tmp_path)
    assert (first["rounds"], first["changes"], second["rounds"]) == (0, [], 1)
    assert second["changes"] == [
        {"setting": "final_seeds", "before": 2, "after": 3},
        {"setting": "most_rounds", "before": 1, "after": 2},
    ]
    assert first["versions"]["torch"] == torch.__version__
    assert config_of(tmp_path).most_rounds == 2


def test_another_margin_trains_nothing(finished, tmp_path, monkeypatch):
    folder = tmp_path / "copy"
    shutil.copytree(finished[0], folder)
    trains_nothing(monkeypatch)
    small(folder, replace(SMALL, margin=0.25))
    found, _, _ = results(folder)
    assert {each["margin"] for each in found["comparisons"]} == {0.25}
    report(folder, Console(quiet=True))
    assert results(folder)[0] == found
    small(folder)  # and back
    assert results(folder) == results(finished[0])
    assert [each["changes"] for each in sessions(folder)] == [
        [],
        [{"setting": "margin", "before": 0.5, "after": 0.25}],
        [{"setting": "margin", "before": 0.25, "after": 0.5}],
    ]


def test_a_setting_that_came_later_has_its_default(finished, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(finished[0], folder)
    state = json.loads((folder / "state.json").read_text())
    del state["config"]["data"]["fraction"]
    (folder / "state.json").write_text(json.dumps(state))
    report(folder, Console(quiet=True))
    assert results(folder) == results(finished[0])


def test_more_networks_are_compared(finished, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(finished[0], folder)
    before = results(folder)[2]
    small(folder, replace(SMALL, final_seeds=4))
    found, _, weights = results(folder)
    assert all(len(network["scores"]) == 4 for network in found["networks"])
    assert before.items() <= weights.items()
    assert len(weights) == len(before) + 3


def test_a_setting_that_would_have_led_elsewhere_is_refused_and_nothing_is_lost(finished, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(finished[0], folder)
    with pytest.raises(ValueError, match=r"would not have led on the same way \(rule.minimum 4 -> 20\): after 1 round"):
        small(folder, replace(SMALL, rule=RuleConfig(minimum=20)))
    small(folder)
    assert results(folder) == results(finished[0])


def test_where_nothing_is_shrunk_the_best_narrower_round_is_compared(tmp_path, monkeypatch):
    original = experiment.run_round

    def inaccurate(networks, workers, search, rounds, *others):
        """A round that, unless it is the first, has lost all accuracy and has a redundant width."""
        done = original(networks, workers, search, rounds, *others)
        trained = replace(done.trained, validation_accuracy=(0.0, 0.0))
        seen = {name: replace(each, within_target=False) for name, each in done.observations.items()}
        return replace(done, trained=trained, observations=seen) if rounds else done

    monkeypatch.setattr(experiment, "run_round", inaccurate)
    printed = small(tmp_path, replace(SMALL, margin=0.01, final_seeds=2))
    found, _, _ = results(tmp_path)
    assert "Nothing was shrunk, because " in printed
    assert found["search"]["chosen"] == 0
    assert [network["name"] for network in found["networks"]] == ["standard", "narrower", "uniform"]
    narrower = found["search"]["narrower"]
    assert found["networks"][1]["widths"] == found["search"]["rounds"][narrower]["widths"]
    page = texts(tmp_path)["report.html"]
    assert f"in round {narrower}, not chosen" in page
    assert not re.search("searched", page)


def test_other_data_of_the_same_configuration(finished, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(finished[0], folder)
    state = json.loads((folder / "state.json").read_text())
    state["data"]["key"] = "of other files"
    (folder / "state.json").write_text(json.dumps(state))
    with pytest.raises(ValueError, match="holds an experiment of other data"):
        search_widths(folder, SMALL)


def test_the_folder_of_trained_runs(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="holds something else, not an experiment: choose another folder"):
        search_widths(tmp_path, SMALL)


def test_the_accuracy_of_a_round_is_that_of_the_weights_kept(tmp_path):
    config = replace(
        SMALL,
        training=TrainingConfig(epochs=8, early_stop=1, optimizer="adamw", learning_rate=0.1),
        seeds=1,
        final_seeds=1,
        most_rounds=1,
    )
    small(tmp_path, config)
    history = json.loads((tmp_path / "networks" / "round-0" / "seed-0" / "run.json").read_text())["history"]
    best = min(history, key=lambda epoch: epoch["validation_loss"])
    assert best["number"] < history[-1]["number"]
    found, _, _ = results(tmp_path)
    assert found["search"]["rounds"][0]["trained"]["validation_accuracy"] == [best["validation_accuracy"]]


def test_a_state_file_of_something_else(tmp_path):
    (tmp_path / "state.json").write_text('{"epoch": 3}')
    with pytest.raises(ValueError, match=r"state\.json is not the state of an experiment; choose another folder"):
        search_widths(tmp_path, SMALL)


@pytest.mark.parametrize("epochs", [18, *also(1, 4, 9, 14, 20)])
def test_interrupted_in_any_phase_it_ends_the_same(finished, tmp_path, monkeypatch, epochs):
    with interrupted_after(epochs, monkeypatch):
        small(tmp_path)
    assert not (tmp_path / "report.json").exists()
    small(tmp_path)
    assert results(tmp_path) == results(finished[0])


@pytest.mark.parametrize("step", ["make_and_evaluate", *also("time_networks")])
def test_interrupted_between_phases_it_ends_the_same(finished, tmp_path, monkeypatch, step):
    with monkeypatch.context() as patched:
        patched.setattr(experiment, step, lambda *arguments: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            small(tmp_path)
    if step == "make_and_evaluate":
        for weights in (tmp_path / "networks" / "round-0").rglob("weights.safetensors"):
            weights.unlink()  # trained again where they are needed again
    small(tmp_path)
    assert results(tmp_path) == results(finished[0])


def test_no_report_of_a_folder_that_another_process_works_in(finished, in_use):
    folder, _ = finished
    with in_use(folder), pytest.raises(ValueError, match="is in use by another process"):
        report(folder)


def test_a_search_that_is_not_finished_has_no_report(tmp_path):
    with pytest.raises(ValueError, match=r"holds no search of `ckrm search`: state\.json is missing"):
        report(tmp_path)
    started = experiment.Experiment(tmp_path, SMALL, ON_CPU, Display(Console(quiet=True)))
    started.state_file.save(started.state)
    with pytest.raises(ValueError, match=rf"is not finished; `ckrm search --resume {tmp_path}` goes on with it"):
        report(tmp_path)


def test_the_report_can_be_written_again(finished, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(finished[0], folder)
    (folder / "report.json").unlink()
    report(str(folder), Console(quiet=True))
    assert results(folder) == results(finished[0])


def test_the_report_needs_no_data(finished, tmp_path, monkeypatch):
    folder = tmp_path / "copy"
    shutil.copytree(finished[0], folder)
    for name in ("report.json", "report.html", "networks.json"):
        (folder / name).unlink()
    monkeypatch.setattr(DataConfig, "load", None)
    report(folder, Console(quiet=True))
    assert results(folder) == results(finished[0])
    assert (folder / "networks.json").read_text() == (finished[0] / "networks.json").read_text()


def test_an_experiment_of_an_earlier_version_is_refused(finished, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(finished[0], folder)
    state = json.loads((folder / "state.json").read_text())
    del state["summary"], state["data"]["contents"]
    (folder / "state.json").write_text(json.dumps(state))
    with pytest.raises(ValueError, match=r"holds an experiment of an earlier version .* no digest of their data"):
        search_widths(folder, SMALL)
    with pytest.raises(ValueError, match=r"holds an experiment of an earlier version .* kept nothing of its data"):
        report(folder)


def test_the_networks_found_can_be_used_elsewhere(finished):
    folder, printed = finished
    found, _, _ = results(folder)
    networks = {network["name"]: network for network in found["networks"]}
    for which in ("standard", "searched", "uniform"):
        loaded = load(folder, which=which, seed=1)
        assert loaded.network.widths() == networks[which]["widths"]
        score = evaluate(loaded.model, digits().held_out, 10)
        assert json.loads(json.dumps(asdict(score))) == networks[which]["scores"][1]
        assert f"the {which} networks: {loaded.folder.parent}" in printed
    assert load(folder).network == network_of(str(folder)) == load(folder, which="searched").network


def test_finished_networks_of_other_widths_keep_their_folder(finished):
    stored = experiment.Experiment.stored(finished[0], Display(Console(quiet=True)))
    standard, networks = stored.config.network, stored.networks
    assert networks.folder_of("round-0", standard) == finished[0] / "networks" / "round-0"
    other = standard.with_widths({"conv1": 5})
    assert networks.folder_of("round-0", other) == finished[0] / "networks" / "round-0-2"
    assert networks.jobs("round-0", other)[0].folder == finished[0] / "networks" / "round-0-2" / "seed-0"


@pytest.mark.exhaustive
def test_the_report_where_the_output_takes_ascii_alone(finished, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(finished[0], folder)
    for name in ("report.html", "report.json"):
        (folder / name).unlink()
    with pytest.raises(UnicodeEncodeError):
        report(folder, Console(file=TextIOWrapper(BytesIO(), "ascii")))
    assert results(folder) == results(finished[0])
    assert (folder / "report.html").exists()
    command = "import sys; from ckrm_kernels.cli import main; sys.argv = ['ckrm', 'report', sys.argv[1]]; main()"
    ascii_alone = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", command, str(folder)], env=ascii_alone, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert b"written to" in done.stdout


@pytest.mark.exhaustive
def test_widths_tied_by_stage(tmp_path):
    config = replace(
        SMALL,
        network=ResNetShape(6, ((8, 8), (16, 16)), None, block="bottleneck", form="paper-small"),
        rule=RuleConfig(tied="stage", multiple=2),
        final_seeds=2,
    )
    small(tmp_path, config)
    found, _, _ = results(tmp_path)
    for network in found["networks"][:2]:
        widths = network["widths"]
        assert widths["layer1.0.conv2"] == widths["layer1.1.conv2"]
        assert widths["layer2.0.conv2"] == widths["layer2.1.conv2"]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_killed_it_leaves_no_process_and_goes_on_to_the_same_result(finished, tmp_path):
    script = "from test_experiment import *\nif __name__ == '__main__': small(Path(sys.argv[1]), processes=2)\n"
    main = tmp_path / "main.py"
    main.write_text(script)
    paths = [
        str(Path(__file__).parent),
        *(str(path) for path in Path(__file__).parents[1:3]),
        os.environ.get("PYTHONPATH", ""),
    ]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    folder = tmp_path / "demo"
    process = subprocess.Popen([sys.executable, main, folder], env=environment)
    try:
        deadline = time.monotonic() + 120
        while not list(folder.rglob("run.json")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert len(children) >= 2
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    while any(_alive(child) for child in children):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert not (folder / "report.json").exists()
    small(folder)
    assert results(folder) == results(finished[0])


def _alive(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_where_every_layer_is_within_target_it_says_that_there_is_nothing_to_narrow(tmp_path):
    config = WidthSearchConfig(
        network=ResNetShape(stem=2, inner=((4,),), out=(4,)),
        training=TrainingConfig(epochs=1, batch_size=256, weight_decay=0.0),
        seeds=1,
        final_seeds=1,
        target=0.5,
    )
    printed = small(tmp_path, config)
    assert "there is nothing to narrow" in printed
    report, _, _ = results(tmp_path)
    assert [network["name"] for network in report["networks"]] == ["standard"]
    assert not (tmp_path / "networks" / "uniform").exists()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"seeds": 0}, "seeds must be a whole number >= 1, got 0"),
        ({"final_seeds": 2}, "final_seeds must be a whole number >= seeds, 3, got 2"),
        ({"threshold": 1.5}, r"threshold must lie in \[0, 1\], got 1.5"),
        ({"threshold": -0.1}, r"threshold must lie in \[0, 1\], got -0.1"),
        ({"threshold": -1.1, "similarity": Similarity(signed=True)}, r"threshold must lie in \[-1, 1\], got -1.1"),
        ({"margin": 0.0}, "margin must be a finite number > 0, got 0.0"),
        (
            {"network": ResNetShape(8, ((8,),), (8,), block="bottleneck")},
            "network.widths must each count the filters of a layer that is measured, or be inferred, to be searched; "
            "those of layer1 are of 1x1 convolutions or linear layers alone",
        ),
        ({"most_rounds": 0}, "most_rounds must be a whole number >= 1, got 0"),
        (
            {"network": ResNetShape(inner=((32,), (63,), (128,))), "rule": RuleConfig(tied="stage")},
            "widths tied by stage must be equal in each stage, got layer2.0.conv1 = 63 and layer2 = 64",
        ),
    ],
)
def test_configurations_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        WidthSearchConfig(**fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tied": "block"}, "tied must be layer or stage, got 'block'"),
        ({"minimum": 0}, "minimum must be a whole number >= 1, got 0"),
        ({"multiple": 0}, "multiple must be a whole number >= 1, got 0"),
    ],
)
def test_rules_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        RuleConfig(**fields)
