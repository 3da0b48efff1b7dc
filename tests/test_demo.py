import json
import os
import signal
import subprocess
import sys
import time
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from ckrm_kernels.models import ResNetShape
from ckrm_kernels.shrinking.demo import run_demo
from ckrm_kernels.shrinking.experiment import Experiment, ExperimentConfig
from ckrm_kernels.training import Epoch, TrainingConfig

# so much weight decay that a few steps make a layer redundant
SMALL = ExperimentConfig(
    shape=ResNetShape(stem=6, inner=((8,),), out=(24,)),
    training=TrainingConfig(epochs=3, batch_size=64, weight_decay=0.1),
    seeds=(0, 1),
    most_rounds=2,
)


def small_demo(folder, config=SMALL, processes=1) -> str:
    """Runs it and returns what it printed."""
    file = StringIO()
    run_demo(folder, config=config, processes=processes, console=Console(file=file, width=100))
    return file.getvalue()


def results(folder) -> tuple[object, str, bytes]:
    """Everything that the demo wrote, but for the time that it took."""
    report = json.loads((folder / "report.json").read_text())
    assert report.pop("seconds")["training"] > 0
    return report, (folder / "table.txt").read_text(), (folder / "figure.png").read_bytes()


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, str]:
    """A demo that ran unbroken, and what it printed."""
    folder = tmp_path_factory.mktemp("unbroken") / "demo"
    return folder, small_demo(folder)


def test_the_report(finished):
    folder, printed = finished
    report, table, _ = results(folder)
    networks = {network["name"]: network for network in report["networks"]}
    assert list(networks) == ["standard", "shrunk", "uniform"]
    assert networks["standard"]["widths"] == SMALL.shape.widths()
    assert networks["shrunk"]["parameters"] < networks["standard"]["parameters"]
    rounds = report["search"]["rounds"]
    assert networks["shrunk"]["widths"] == rounds[report["search"]["chosen"]]["widths"]
    assert rounds[0]["observations"]["layer1"]["clean"] is False
    assert all(len(network["scores"]) == 2 for network in networks.values())
    for sentence in report["conclusions"]:
        assert sentence in printed
        assert sentence.replace(" ", "") in table.replace("\n", "").replace(" ", "")


def test_the_scores_are_those_of_the_saved_weights(finished):
    from safetensors.torch import load_file

    from ckrm_kernels.data import digits

    folder, _ = finished
    network = SMALL.shape.build().eval()
    network.load_state_dict(load_file(folder / "networks" / "round-0" / "seed-1" / "weights.safetensors"))
    held_out = digits().held_out
    accuracy = (network(held_out.images).argmax(1) == held_out.labels).float().mean().item()
    report, _, _ = results(folder)
    assert report["networks"][0]["scores"][1]["accuracy"] == pytest.approx(accuracy)


def test_a_finished_demo_is_shown_again_and_trains_nothing(finished):
    folder, printed = finished
    before = results(folder)
    again = small_demo(folder)
    assert results(folder) == before
    assert "epoch" in printed
    assert "epoch" not in again
    assert again in printed


def test_another_configuration_in_the_same_folder(finished):
    folder, _ = finished
    other = ExperimentConfig(**{**vars(SMALL), "seeds": (0, 1, 2)})
    with pytest.raises(ValueError, match=r"of another configuration \(seeds is \[0, 1\]\): choose another folder"):
        run_demo(folder, config=other)


def test_a_state_file_of_something_else(tmp_path):
    (tmp_path / "state.json").write_text('{"epoch": 3}')
    with pytest.raises(ValueError, match=r"state\.json is not the state of an experiment; choose another folder"):
        run_demo(tmp_path, config=SMALL)


@pytest.mark.parametrize("epochs", [4, 9, 15])
def test_interrupted_in_any_phase_it_ends_the_same(finished, tmp_path, monkeypatch, epochs):
    from ckrm_kernels.training.progress import TrainingBars

    seen = []
    original = TrainingBars.on_event

    def interrupt(self, place, event):
        seen.extend([event] if isinstance(event, Epoch) else [])
        if len(seen) == epochs:
            raise KeyboardInterrupt
        original(self, place, event)

    with monkeypatch.context() as patched:
        patched.setattr(TrainingBars, "on_event", interrupt)
        with pytest.raises(KeyboardInterrupt):
            small_demo(tmp_path)
    assert not (tmp_path / "report.json").exists()
    small_demo(tmp_path)
    assert results(tmp_path) == results(finished[0])


def test_interrupted_between_state_and_report_it_ends_the_same(finished, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(Experiment, "_compare", lambda self, workers: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            small_demo(tmp_path)
    for weights in (tmp_path / "networks" / "round-0").rglob("weights.safetensors"):
        weights.unlink()  # trained again where they are needed again
    small_demo(tmp_path)
    assert results(tmp_path) == results(finished[0])


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_killed_it_leaves_no_process_and_goes_on_to_the_same_result(finished, tmp_path):
    script = "from test_demo import *\nif __name__ == '__main__': small_demo(Path(sys.argv[1]), processes=2)\n"
    main = tmp_path / "main.py"
    main.write_text(script)
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
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
    small_demo(folder)
    assert results(folder) == results(finished[0])


def _alive(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_where_every_layer_is_clean_it_says_that_there_is_nothing_to_shrink(tmp_path):
    config = ExperimentConfig(
        shape=ResNetShape(stem=2, inner=((4,),), out=(4,)),
        training=TrainingConfig(epochs=1, batch_size=256, weight_decay=0.0),
        seeds=(0,),
        target=0.5,
    )
    printed = small_demo(tmp_path, config)
    assert "there is nothing to shrink" in printed
    report, _, _ = results(tmp_path)
    assert [network["name"] for network in report["networks"]] == ["standard"]
    assert not (tmp_path / "networks" / "uniform").exists()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"seeds": ()}, "seeds must be different whole numbers, at least one"),
        ({"seeds": (1, 1)}, "seeds must be different whole numbers, at least one"),
        ({"threshold": 1.5}, r"threshold must lie in \[0, 1\], got 1.5"),
        ({"minimum": 0}, "minimum must be a whole number >= 1, got 0"),
        ({"most_rounds": 0}, "most_rounds must be a whole number >= 1, got 0"),
    ],
)
def test_configurations_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        ExperimentConfig(**fields)
