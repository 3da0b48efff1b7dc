"""The commands that train: what they ask of the functions behind them."""

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import torch
from idx_files import FILES, write_bars

from ckrm_kernels.choices import DataName
from ckrm_kernels.data import DataConfig
from ckrm_kernels.models import network_shape
from ckrm_kernels.training import Runtime, TrainingConfig
from ckrm_kernels.training.progress import Display
from ckrm_kernels.training.runs import RunsConfig
from ckrm_kernels.width_search import RuleConfig, Similarity, WidthSearchConfig
from ckrm_kernels.width_search.experiment import Experiment

ROOT = Path(__file__).parents[2]
FUNCTIONS = {
    "train": "ckrm_kernels.training.runs.train_runs",
    "search": "ckrm_kernels.width_search.pipeline.search_widths",
    "report": "ckrm_kernels.width_search.pipeline.report",
    "compare": "ckrm_kernels.comparison.trained_runs.compare_runs",
    "demo": "ckrm_kernels.width_search.pipeline.search_widths",
}


@pytest.fixture
def asked(ckrm, monkeypatch):
    """Runs a command that must succeed, and gives what its function was called with."""

    def run(command, *arguments):
        calls = []
        with monkeypatch.context() as patched:
            patched.setattr(FUNCTIONS[command], lambda *given, **options: calls.append((given, options)))
            code, _, err = ckrm(command, *arguments)
        assert (code, err) == (0, "")
        return calls[0]

    return run


def test_train_with_its_defaults(asked):
    (folder, config), options = asked("train")
    assert (folder, config) == (Path("runs/train"), RunsConfig())
    assert options == {"runtime": Runtime(), "processes": None}


def test_train_with_options(asked):
    (folder, config), options = asked(
        *("train", "--network", "resnet-digits", "--epochs", "3", "--seeds", "2", "--output", "x"),
        *("--set", "training.optimizer=adamw", "--set", "training.epochs=4"),
        *("--device", "cpu", "--data-workers", "2", "--tensorboard", "--processes", "1"),
    )
    assert folder == Path("x")
    assert config == RunsConfig(
        network=network_shape("resnet-digits"),
        training=TrainingConfig(epochs=4, optimizer="adamw"),
        seeds=(0, 1),
    )
    assert options == {"runtime": Runtime(device="cpu", data_workers=2, tensorboard=True), "processes": 1}


@pytest.mark.parametrize("command", ["train", "search", "demo"])
def test_threads_are_those_of_each_network_and_of_this_process(asked, threads, command):
    threads(1)
    _, options = asked(command, "--threads", "3")
    assert options["runtime"] == Runtime(threads=3)
    assert torch.get_num_threads() == 3
    asked(command)
    assert torch.get_num_threads() == 3  # as it was


def test_compare_computes_on_so_many_threads(asked, threads):
    threads(1)
    asked("compare", "a", "b", "--threads", "2")
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("count", ["0", "-1", "5000", "two"])
def test_threads_refused(ckrm, count):
    code, _, err = ckrm("train", "--threads", count)
    assert code == 2
    assert "Invalid value for '--threads'" in err


def test_the_seeds_of_a_file_hold_where_the_option_says_nothing(asked, tmp_path):
    (tmp_path / "a.toml").write_text("seeds = [3, 4]\n")
    (_, config), _ = asked("train", "--config", tmp_path / "a.toml")
    assert config.seeds == (3, 4)
    (_, config), _ = asked("train", "--config", tmp_path / "a.toml", "--seeds", "1")
    assert config.seeds == (0,)


def test_search_with_its_defaults(asked):
    (folder, config), options = asked("search")
    assert (folder, config) == (Path("runs/search"), WidthSearchConfig())
    assert options == {"runtime": Runtime(), "processes": None}


def test_search_with_options(asked, tmp_path):
    (tmp_path / "a.toml").write_text("seeds = 5\nmost_rounds = 2\n")
    (_, config), _ = asked(
        *("search", "--data", "digits", "--network", "resnet-digits", "--config", tmp_path / "a.toml"),
        *("--seeds", "4", "--final-seeds", "6", "--tied", "stage", "--multiple", "8", "--set", "margin=0.02"),
        *("--eps", "1e-3", "--scale-free", "--set", "similarity.alpha=1"),
    )
    assert config == WidthSearchConfig(
        network=network_shape("resnet-digits"),
        rule=RuleConfig(tied="stage", multiple=8),
        similarity=Similarity(alpha=1.0, eps=1e-3, scale_free=True),
        seeds=4,
        final_seeds=6,
        most_rounds=2,
        margin=0.02,
    )


def test_a_folder_of_data_is_made_absolute(asked, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (_, config), _ = asked("train", "--data", "mnist", "--data-folder", "images")
    assert (config.data.name, config.data.folder) == ("mnist", str(tmp_path / "images"))


def test_options_of_image_folders_and_of_chest_x_rays(asked, tmp_path):
    (_, config), _ = asked(
        "train", "--data", "folder", "--data-folder", tmp_path, "--image-size", "24x32", "--skip-bad"
    )
    assert config.data == DataConfig("folder", str(tmp_path), image_size=(24, 32), skip_bad=True)
    (_, config), _ = asked(
        "search",
        "--data",
        "egd-cxr",
        "--data-folder",
        tmp_path,
        "--image-folder",
        tmp_path,
        "--image-size",
        "1536x1280",
    )
    assert config.data == DataConfig("egd-cxr", str(tmp_path), image_folder=str(tmp_path), image_size=(1536, 1280))


@pytest.mark.parametrize("size", ["64", "64x", "x64", "64x64x3", "-1x5", "6.5x4", ""])
def test_an_image_size_of_another_form(ckrm, size):
    code, _, err = ckrm("train", "--data", "folder", "--data-folder", "x", "--image-size", size)
    assert code == 2
    assert f"'--image-size': must be HxW, such as 64x64, got {size}".strip() in " ".join(err.replace("│", " ").split())


@pytest.mark.parametrize(
    ("option", "accepted"),
    [("--data", get_args(DataName)), ("--tied", get_args(get_type_hints(RuleConfig)["tied"]))],
)
def test_choices_are_listed_and_held_to(ckrm, monkeypatch, option, accepted):
    monkeypatch.setenv("COLUMNS", "200")
    code, out, _ = ckrm("search", "--help")
    assert code == 0
    assert "|".join(accepted) in out
    code, _, err = ckrm("search", option, "all")
    assert code == 2
    assert f"Invalid value for '{option}': " in err
    assert all(f"'{each}'" in " ".join(err.replace("│", " ").split()) for each in ("all", *accepted))


def test_what_an_option_names_is_no_text_to_parse(asked, tmp_path, monkeypatch):
    """As a setting of its text, the folder's name would be a number, or none."""
    monkeypatch.chdir("/")
    (_, config), _ = asked("train", "--data", "mnist", "--data-folder", tmp_path / "a = [1]")
    assert config.data.folder == str(tmp_path / "a = [1]")


def test_options_come_after_the_file_and_before_the_settings(asked, tmp_path):
    (tmp_path / "a.toml").write_text("seeds = [7]\n[training]\nepochs = 7\nbatch_size = 7\n[data]\nsplit_seed = 7\n")
    (_, config), _ = asked(
        *("train", "--config", tmp_path / "a.toml", "--epochs", "8", "--seeds", "2", "--set", "training.epochs=9")
    )
    assert config.training == TrainingConfig(epochs=9, batch_size=7)
    assert (config.seeds, config.data) == ((0, 1), DataConfig(split_seed=7))


def test_a_value_that_does_not_fit_is_named_by_its_setting(ckrm):
    code, _, err = ckrm("train", "--epochs", "0")
    assert (code, err) == (1, "ckrm: the configuration: training: epochs must be a whole number >= 1, got 0\n")
    code, _, err = ckrm("search", "--final-seeds", "1")
    assert (code, err) == (
        1,
        "ckrm: the configuration: final_seeds must be a whole number >= seeds, 3, got 1\n",
    )


def test_search_goes_on_with_the_settings_of_the_run(asked, ckrm, tmp_path):
    from rich.console import Console

    config = replace(WidthSearchConfig(), seeds=2, training=TrainingConfig(epochs=1))
    experiment = Experiment(tmp_path, config, Runtime(), Display(Console(quiet=True)))
    experiment.state_file.save(experiment.state)
    (folder, asked_for), _ = asked("search", "--resume", tmp_path)
    assert (folder, asked_for) == (tmp_path, experiment.config)
    _, changed = asked("search", "--resume", tmp_path, "--set", "most_rounds=9", "--final-seeds", "12")[0]
    assert changed == replace(experiment.config, most_rounds=9, final_seeds=12)
    code, _, err = ckrm("search", "--resume", tmp_path, "--epochs", "3")
    assert (code, err.count("\n")) == (1, 1)
    assert "of another configuration (training.epochs is 1, not 3)" in err
    code, _, err = ckrm("search", "--resume", tmp_path, "--output", tmp_path / "b")
    assert code == 2
    assert "leave out --output" in " ".join(err.replace("│", " ").split())


def test_search_goes_on_where_its_data_was_moved_to(asked, ckrm, tmp_path):
    from rich.console import Console

    write_bars(tmp_path / "data")
    config = WidthSearchConfig(data=DataConfig("mnist", folder=str(tmp_path / "data")))
    experiment = Experiment(tmp_path / "run", config, Runtime(), Display(Console(quiet=True)))
    experiment.state_file.save(experiment.state)
    moved = (tmp_path / "data").rename(tmp_path / "moved")
    (_, asked_for), _ = asked("search", "--resume", tmp_path / "run", "--data-folder", moved)
    assert asked_for == replace(experiment.config, data=DataConfig("mnist", folder=str(moved)))
    assert Experiment(tmp_path / "run", asked_for, Runtime(), Display(Console(quiet=True))).state.rounds == []
    (moved / FILES[0]).write_bytes((moved / FILES[0]).read_bytes()[:-1] + b"\0")
    with pytest.raises(ValueError, match=f"the data in {moved} differs: images of the training file; choose another"):
        Experiment(tmp_path / "run", asked_for, Runtime(), Display(Console(quiet=True)))
    code, _, err = ckrm("search", "--resume", tmp_path / "run", "--data-folder", moved, "--skip-bad")
    assert (code, err.count("\n")) == (1, 1)
    assert "of another configuration (data.skip_bad is False, not True)" in err


def test_report_and_compare(asked):
    assert asked("report", "runs/a") == ((Path("runs/a"),), {})
    assert asked("compare", "a", "b", "--margin", "0.02", "--json", "c.json") == (
        ([Path("a"), Path("b")], 0.02, Path("c.json")),
        {"threshold": 0.6, "similarity": Similarity()},
    )
    _, options = asked("compare", "a", "b", "--threshold", "0.5", "--eps", "1e-3", "--scale-free")
    assert options == {"threshold": 0.5, "similarity": Similarity(eps=1e-3, scale_free=True)}


def test_the_demo_is_a_small_search(asked):
    (folder, config), _ = asked("demo", "--output", "x")
    assert (folder, config) == (Path("x"), WidthSearchConfig(network=network_shape("resnet-digits"), final_seeds=3))


@pytest.mark.parametrize(
    ("command", "how"),
    [
        ("demo", "`ckrm demo --output there` goes on, at most half a minute back"),
        ("search", "`ckrm search --resume there` goes on, at most half a minute back"),
        ("train", "the same command goes on, at most half a minute back"),
    ],
)
def test_an_interrupted_command_says_how_to_go_on(ckrm, monkeypatch, command, how):
    def interrupt(*given, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(FUNCTIONS[command], interrupt)
    code, out, err = ckrm(command, "--output", "there")
    assert (code, out) == (130, "")
    assert f"ckrm: interrupted; {how}" in err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_that_asks_to_end_does_as_ctrl_c(ckrm, monkeypatch, number, code):
    def end(*given, **options):
        for _ in range(2):  # `timeout` sends two
            os.kill(os.getpid(), number)
        time.sleep(60)

    monkeypatch.setattr(FUNCTIONS["train"], end)
    before = signal.getsignal(number)
    ended, out, err = ckrm("train", "--output", "there")
    assert (ended, out) == (code, "")
    assert "; the same command goes on, at most half a minute back" in err
    assert signal.getsignal(number) == before


def test_a_signal_that_is_ignored_stays_so(ckrm, monkeypatch):
    """As `nohup` has it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        monkeypatch.setattr(FUNCTIONS["train"], lambda *given, **options: os.kill(os.getpid(), signal.SIGHUP))
        assert ckrm("train") == (0, "", "")
    finally:
        signal.signal(signal.SIGHUP, before)


def living_in_group(group: int) -> list[str]:
    """The processes of the group that have not ended, whether or not anybody waited for them; none where no ps is."""
    if not shutil.which("ps"):
        return []
    states = subprocess.run(["ps", "-eo", "pgid=,stat=,args="], capture_output=True, text=True, check=True).stdout
    rows = [line.split(maxsplit=2) for line in states.splitlines()]
    return [row[2] for row in rows if row[0] == str(group) and not row[1].startswith("Z")]


@pytest.mark.parametrize("group", [False, pytest.param(True, marks=pytest.mark.exhaustive)])
def test_a_training_ended_by_sigterm_leaves_no_process_and_no_warning_and_goes_on(tmp_path, group):
    pytest.importorskip("pydantic", reason="pydantic is not installed")
    code = "from ckrm_kernels.cli import main\nif __name__ == '__main__':\n    main()\n"
    (tmp_path / "command.py").write_text(code)
    settings = ["network.stem=2", "network.inner=[[2],[2],[2]]", "network.out=[2,2,2]", "training.epochs=24"]
    arguments = [part for setting in settings for part in ("--set", setting)]
    command = [sys.executable, str(tmp_path / "command.py"), "train", "--network", "resnet-digits", *arguments]
    command += ["--seeds", "2", "--processes", "2", "--threads", "1", "--output", str(tmp_path / "runs")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    log = tmp_path / "runs" / "log.txt"
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        while process.poll() is None and not (log.exists() and "epoch 12 of 24" in log.read_text()):
            time.sleep(0.05)
        (os.killpg if group else os.kill)(process.pid, signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 143
    assert err.strip() == "ckrm: ended by SIGTERM; the same command goes on, at most half a minute back"
    deadline = time.monotonic() + 10
    while living_in_group(process.pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert sorted(path.name for path in (tmp_path / "runs").iterdir())[:4] == [
        ".lock",
        "config.json",
        "data.json",
        "log.txt",
    ]


def test_a_command_without_its_extra_is_one_line(ckrm, monkeypatch):
    def lack(*given, **options):
        raise ModuleNotFoundError("No module named 'sklearn.datasets'", name="sklearn.datasets")

    monkeypatch.setattr(FUNCTIONS["demo"], lack)
    assert ckrm("demo") == (1, "", 'ckrm: scikit-learn is missing: pip install "ckrm-kernels[train]"\n')


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "--network", "alexnet"), "must be one of resnet50-standard, "),
        (("train", "--set", "training.epoch=3"), "the configuration has no setting training.epoch"),
        (
            ("train", "--set", "similarity.eps=1e-6"),
            "the configuration has no setting similarity.eps: it is one of another command",
        ),
        (
            ("train", "--data", "folder", "--data-folder", "x"),
            "image_size (--image-size) must be two whole numbers >= 1",
        ),
        (("search", "--eps=-1"), "the configuration: similarity: eps must be a finite number >= 0, got -1"),
        (("compare", "a", "b", "--eps=-1"), "eps must be a finite number >= 0, got -1.0"),
        (("compare", "a", "b", "--threshold", "2"), "threshold must lie in [0, 1], got 2.0"),
        (("search", "--multiple", "0"), "multiple must be a whole number >= 1, got 0"),
        (("search", "--resume", "nowhere"), "nowhere holds no search of `ckrm search`"),
        (("report", "nowhere"), "nowhere holds no search of `ckrm search`"),
        (("compare", "nowhere"), "runs must be two or more different folders, got nowhere"),
        (("compare", "nowhere", "elsewhere"), "nowhere holds no runs of `ckrm train`"),
    ],
)
def test_mistakes_are_one_line(ckrm, arguments, message):
    code, out, err = ckrm(*arguments)
    assert (code, out) == (1, "")
    assert err.startswith("ckrm: ")
    assert message in err
    assert err.count("\n") == 1
