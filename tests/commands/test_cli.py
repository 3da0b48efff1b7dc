from __future__ import annotations

import builtins
import csv
import hashlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

import ckrm_kernels
from ckrm_kernels import measure, measurement, native
from ckrm_kernels.checkpoints import read_checkpoints
from ckrm_kernels.cli import main
from ckrm_kernels.doctor import findings
from ckrm_kernels.measurement import measure_layers
from ckrm_kernels.models import NETWORKS
from ckrm_kernels.report import RedundancyReport
from ckrm_kernels.similarity import Similarity


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    net = nn.Sequential(nn.Conv2d(1, 10, 3), nn.BatchNorm2d(10), nn.Conv2d(10, 12, 3), nn.Conv2d(12, 4, 1))
    path = tmp_path / "weights.pt"
    torch.save({"state_dict": net.state_dict()}, path)
    return path


def report_of(*paths: Path, threshold: float = 0.6, pointwise: str = "skip", **options: float) -> RedundancyReport:
    return measure_layers(
        [checkpoint.layers for checkpoint in read_checkpoints(paths)], threshold, pointwise, Similarity(**options)
    )


def rows_of(text: str) -> list[str]:
    """The lines of the table and of what was skipped."""
    return [line for line in text.split("\n\n")[1].split("\n") + text.split("\n\n")[2].split("\n") if line]


# ---- the command as such ---------------------------------------------------------------------------------------------


def test_help_names_the_commands(ckrm):
    code, out, _ = ckrm("--help")
    assert code == 0
    for command in ("doctor", "measure", "models", "train", "search", "report", "compare", "demo"):
        assert command in out


def test_version(ckrm):
    assert ckrm("--version") == (0, f"ckrm-kernels {ckrm_kernels.__version__}\n", "")


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["measure"], ["measure", "x", "--what"], ["measure", "x", "--pointwise", "all"]]
)
def test_wrong_usage_exits_with_2(arguments, ckrm):
    code, _, err = ckrm(*arguments)
    assert code == 2
    assert "Usage: ckrm" in err
    assert "Traceback" not in err


def test_a_missing_extra_is_named(ckrm, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "typer":
            raise ModuleNotFoundError("No module named 'typer'", name="typer")
        return real(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, "ckrm_kernels.commands", raising=False)
    monkeypatch.setattr(builtins, "__import__", without)
    code, out, err = ckrm("--help")
    assert (code, out) == (1, "")
    assert err == 'ckrm: typer is missing: pip install "ckrm-kernels[cli]"\n'


def test_help_and_wrong_usage_import_nothing_heavy():
    code = """
import sys
from ckrm_kernels.cli import main
from ckrm_kernels.commands import app
commands = [command.callback.__name__ for command in app.registered_commands]
asked = [["--help"], ["--version"], *([name, "--help"] for name in commands)]
wrong = [["nonsense"], ["measure"], ["measure", "x", "--what"], ["measure", "x", "--pointwise", "all"]]
for arguments in asked + wrong:
    sys.argv = ["ckrm", *arguments]
    try:
        main()
    except SystemExit as exited:
        assert exited.code == (0 if arguments in asked else 2), arguments
    heavy = {"torch", "numpy", "jinja2", "filelock", "pandas", "matplotlib", "sklearn", "scipy", "torchmetrics"}
    heavy &= set(sys.modules)
    assert not heavy, (arguments, heavy)
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr


# ---- ckrm measure ----------------------------------------------------------------------------------------------------


def test_measure_prints_the_table(ckrm, checkpoint):
    code, out, _ = ckrm("measure", checkpoint)
    assert code == 0
    assert rows_of(out) == rows_of(str(report_of(checkpoint)))
    digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert re.search(rf"\nmeasured: {re.escape(str(checkpoint))}, [0-9.]+ kB, sha256 {digest}\n", out)
    assert re.search(r"\nsettings: threshold 0.6, eps 1e-4 absolute, pointwise skip\ndate: 20..-..-..T", out)


def test_measure_takes_the_options(ckrm, checkpoint):
    code, out, _ = ckrm(
        "measure", checkpoint, "--threshold", "0.3", "--eps", "0.01", "--scale-free", "--pointwise", "vector"
    )
    assert code == 0
    expected = report_of(checkpoint, threshold=0.3, pointwise="vector", eps=0.01, scale_free=True)
    assert rows_of(out) == rows_of(str(expected))


def test_measure_writes_every_file(ckrm, checkpoint, tmp_path):
    names = {view: tmp_path / "out" / f"report.{view}" for view in ("json", "csv", "html")}
    figure = tmp_path / "out" / "figure.png"
    arguments = [argument for view, path in names.items() for argument in (f"--{view}", path)]
    code, _, err = ckrm("measure", checkpoint, *arguments, "--plot", figure)
    assert code == 0
    of = json.loads(names["json"].read_text())
    assert [layer["redundancy"] for layer in of["layers"]] == [each.redundancy for each in report_of(checkpoint).layers]
    assert len(list(csv.DictReader(names["csv"].open()))) == 4
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert all(f"wrote {path}" in err for path in (*names.values(), figure))
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "report.json",
        "report.csv",
        "report.html",
        "figure.png",
    }
    digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert of["sources"] == [
        {"name": str(checkpoint), "size": checkpoint.stat().st_size, "sha256": digest, "weights": ""}
    ]
    assert of["versions"]["ckrm_kernels"] == ckrm_kernels.__version__
    for path in (*names.values(), figure):
        assert digest.encode() in path.read_bytes(), path


@pytest.mark.parametrize("view", ["json", "csv", "html"])
def test_a_dash_is_the_standard_output(view, ckrm, checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = ckrm("measure", checkpoint, f"--{view}", "-")
    assert code == 0
    if view == "json":
        assert len(json.loads(out)["layers"]) == 4
    elif view == "csv":
        assert [row["name"] for row in csv.DictReader(io.StringIO(out))] == ["0", "1", "2", "3"]
    else:
        assert out.startswith("<!doctype html>")
    assert "2 of 4 layers measured." in err
    assert not Path("-").exists()


def test_a_figure_on_the_standard_output_is_a_png_file(checkpoint, monkeypatch, capsysbinary):
    monkeypatch.setattr(sys, "argv", ["ckrm", "measure", str(checkpoint), "--plot", "-"])
    with pytest.raises(SystemExit) as exited:
        main()
    out, err = capsysbinary.readouterr()
    assert exited.value.code == 0
    assert out.startswith(b"\x89PNG")
    assert b"layers measured" in err


def test_all_layer_sort_and_top(ckrm, checkpoint):
    every = ckrm("measure", checkpoint, "--all")[1]
    assert "\n1 skipped: one dimension, no filters:\n  1  vector\n" in every
    assert "only the layers whose names fit '[02]', 2 of 4" in ckrm("measure", checkpoint, "--layer", "[02]")[1]
    by_filters = json.loads(ckrm("measure", checkpoint, "--sort", "filters", "--json", "-")[1])
    assert [layer["name"] for layer in by_filters["layers"]] == ["2", "0", "3", "1"]
    first = json.loads(ckrm("measure", checkpoint, "--top", "1", "--json", "-")[1])
    excess = max(report_of(checkpoint).measured, key=lambda layer: layer.redundancy - layer.chance)
    assert [layer["name"] for layer in first["layers"]] == [excess.name]
    assert first["notes"][-1] == "only the first 1 of 2 measured layers, by excess"


@pytest.mark.parametrize("suffix", ["svg", "pdf", "PNG"])
def test_the_figure_has_the_format_of_its_name(suffix, ckrm, checkpoint, tmp_path):
    path = tmp_path / f"figure.{suffix}"
    assert ckrm("measure", checkpoint, "--plot", path)[0] == 0
    assert path.read_bytes()[:4] in (b"<?xm", b"%PDF", b"\x89PNG")


def test_measure_of_several_checkpoints(ckrm, checkpoint, tmp_path):
    other = tmp_path / "other.pt"
    state = torch.load(checkpoint)["state_dict"]
    torch.save({name: value * 1.1 for name, value in state.items()}, other)
    code, _, _ = ckrm("measure", checkpoint, other, "--json", tmp_path / "report.json")
    assert code == 0
    assert json.loads((tmp_path / "report.json").read_text())["models"] == 2


@pytest.mark.parametrize("colours", [True, False])
@pytest.mark.parametrize("width", [50, 78])
def test_columns_are_obeyed_on_a_terminal_and_in_a_pipe(width, colours, checkpoint, ckrm, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    if colours:
        for name, value in (("FORCE_COLOR", "1"), ("TERM", "xterm")):
            monkeypatch.setenv(name, value)
    code, out, _ = ckrm("measure", checkpoint)
    assert code == 0
    assert ("\x1b[" in out) == colours
    lines = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line) for line in out.splitlines()]
    assert max(len(line) for line in lines if str(checkpoint) not in line) <= width
    text = "\n".join(lines)
    assert f"{report_of(checkpoint).layers[0].redundancy:.4f}" in text
    assert "1 skipped: one dimension, no filters (1)" in text
    assert "1 skipped: pointwise, a slice of one number" in text


@pytest.mark.parametrize("columns", [None, "", "0", "wide"])
def test_a_pipe_without_columns_is_not_cut(columns, checkpoint, ckrm, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    if columns is not None:
        monkeypatch.setenv("COLUMNS", columns)
    out = ckrm("measure", checkpoint)[1]
    assert hashlib.sha256(checkpoint.read_bytes()).hexdigest() in out


def test_structures_that_differ_are_measured_one_after_the_other(ckrm, checkpoint, tmp_path):
    torch.save(nn.Sequential(nn.Conv2d(1, 11, 3)).state_dict(), tmp_path / "other.pt")
    code, out, _ = ckrm("measure", checkpoint, tmp_path / "other.pt", checkpoint)
    assert code == 0
    first, second = out.split("\n\nRedundancy")
    assert "mean of 2 models" in first
    assert first.count("\nmeasured: ") == 2
    assert "11x1x3x3" in second
    assert "mean of" not in second


def test_reports_of_several_structures_are_not_written_to_one_file(ckrm, checkpoint, tmp_path):
    torch.save(nn.Sequential(nn.Conv2d(1, 11, 3)).state_dict(), tmp_path / "other.pt")
    code, out, err = ckrm("measure", checkpoint, tmp_path / "other.pt", "--json", tmp_path / "x.json")
    assert (code, out) == (2, "")
    assert "2 structures" in err
    assert not (tmp_path / "x.json").exists()


def test_where_everything_is_skipped_it_says_so_and_fails(ckrm, tmp_path):
    torch.save(nn.Sequential(nn.Conv2d(3, 5, 1), nn.Linear(5, 4)).state_dict(), tmp_path / "pointwise.pt")
    code, out, _ = ckrm("measure", tmp_path / "pointwise.pt")
    assert code == 1
    assert "which --pointwise vector measures" in out
    assert ckrm("measure", tmp_path / "pointwise.pt", "--pointwise", "vector")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--threshold", "1.5"], "Invalid value for --threshold: threshold must lie in [0, 1], got 1.5"),
        (["--threshold", "nan"], "Invalid value for --threshold: threshold must lie in [0, 1], got nan"),
        (["--eps", "-1"], "Invalid value for --eps: eps must be a finite number >= 0, got -1.0"),
        (["--eps", "nan"], "Invalid value for --eps: eps must be a finite number"),
        (["--eps", "small"], "Invalid value for '--eps'"),
        (["--top", "0"], "Invalid value for '--top'"),
        (["--sort", "size"], "Invalid value for '--sort'"),
        (["--layer", "nowhere"], "Invalid value for --layer: no layer's name fits the pattern 'nowhere'"),
        (["--json", "-", "--csv", "-"], "Invalid value for --json: - is also --csv"),
        (["--json", "x", "--csv", "./x"], "Invalid value for --json: x is also --csv"),
    ],
)
def test_a_wrong_value_is_a_wrong_use(arguments, message, ckrm, checkpoint, monkeypatch):
    monkeypatch.setattr(measurement, "_row", lambda *_: pytest.fail("measured"))
    monkeypatch.setenv("TERMINAL_WIDTH", "200")
    code, out, err = ckrm("measure", checkpoint, *arguments)
    assert (code, out) == (2, "")
    assert message in " ".join(re.sub(r"[│╭╮╰╯─]", " ", err).split())
    assert "Traceback" not in err


def test_a_checkpoint_is_not_written_over(ckrm, checkpoint):
    before = checkpoint.read_bytes()
    link = checkpoint.with_name("link.json")
    link.symlink_to(checkpoint)
    for path in (checkpoint, link):
        code, out, err = ckrm("measure", checkpoint, "--json", path)
        assert (code, out) == (2, "")
        assert "also a file of the checkpoint" in " ".join(re.sub("[│─]", " ", err).split())
    assert checkpoint.read_bytes() == before


def test_a_bad_checkpoint_is_one_line(ckrm, tmp_path):
    path = tmp_path / "cut.pt"
    torch.save(nn.Conv2d(3, 4, 3).state_dict(), path)
    path.write_bytes(path.read_bytes()[:500])
    code, out, err = ckrm("measure", path)
    assert (code, out) == (1, "")
    assert err == f"ckrm: {path}: is a truncated or damaged checkpoint, or none at all\n"
    assert ckrm("measure", tmp_path / "none.pt")[2] == f"ckrm: {tmp_path / 'none.pt'}: no such file\n"


@pytest.mark.parametrize("option", ["--plot", "--json"])
def test_what_can_not_be_written_is_refused_before_measuring(option, ckrm, checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(measurement, "_row", lambda *_: pytest.fail("measured"))
    target = tmp_path / "figure.docx" if option == "--plot" else tmp_path
    code, out, err = ckrm("measure", checkpoint, option, target)
    assert (code, out) == (2, "")
    assert option in err
    assert not (tmp_path / "figure.docx").exists()


def test_no_matplotlib_no_plot(ckrm, checkpoint, monkeypatch, tmp_path):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ModuleNotFoundError("No module named 'matplotlib'", name="matplotlib")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    code, out, err = ckrm("measure", checkpoint, "--plot", tmp_path / "figure.png")
    assert (code, out) == (1, "")
    assert err == 'ckrm: --plot needs matplotlib: pip install "ckrm-kernels[report]"\n'


def test_an_unforeseen_error_is_one_line_unless_asked(ckrm, checkpoint, monkeypatch):
    def fail(*_: object) -> None:
        raise ZeroDivisionError("odd")

    monkeypatch.setattr(measurement, "_row", fail)
    code, _, err = ckrm("measure", checkpoint)
    assert code == 1
    assert err.splitlines()[-1] == "ckrm: ZeroDivisionError: odd (CKRM_TRACEBACK=1 shows where)"
    monkeypatch.setenv("CKRM_TRACEBACK", "1")
    monkeypatch.setattr(sys, "argv", ["ckrm", "measure", str(checkpoint)])
    with pytest.raises(ZeroDivisionError):
        main()


def test_an_interrupted_measurement_says_how_to_go_on(ckrm, checkpoint, monkeypatch, tmp_path):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(measurement, "_row", interrupt)
    code, out, err = ckrm("measure", checkpoint, "--json", tmp_path / "report.json")
    assert (code, out) == (130, "")
    assert "ckrm: interrupted; nothing was written; run the same command again" in err
    assert not (tmp_path / "report.json").exists()


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_ctrl_c_ends_the_process_with_130(tmp_path):
    torch.save({f"conv{i}.weight": torch.randn(4000, 25, 3, 3) for i in range(12)}, tmp_path / "large.pt")
    code = "import sys; from ckrm_kernels.cli import main; sys.argv = ['ckrm', 'measure', sys.argv[1]]; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", f"print('ready', flush=True); {code}", str(tmp_path / "large.pt")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "CKRM_KERNELS_BUILD": "0", "OMP_NUM_THREADS": "1"},
    )
    assert process.stdout
    process.stdout.readline()
    deadline = time.monotonic() + 60
    while _reads(process.pid, "large.pt") is False and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, (out, err)
    assert "interrupted" in err
    assert "Traceback" not in err


def _reads(pid: int, name: str) -> bool:
    """Whether the process has mapped the file, which it does when the command is at work."""
    maps = Path(f"/proc/{pid}/maps")
    return name in maps.read_text() if maps.exists() else False


def test_output_into_a_closed_pipe_is_quiet(checkpoint):
    code = "import sys; from ckrm_kernels.cli import main; sys.argv = ['ckrm', 'measure', sys.argv[1]]; main()"
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", code, str(checkpoint)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "CKRM_KERNELS_BUILD": "0"},
    )
    assert process.stdout
    process.stdout.close()
    process.stdout = None
    _, err = process.communicate(timeout=100)
    assert process.returncode == 1
    assert "Traceback" not in err
    assert "Exception" not in err


# ---- ckrm models -----------------------------------------------------------------------------------------------------


def test_models_lists_every_network_with_its_parameters(ckrm):
    code, out, _ = ckrm("models")
    assert code == 0
    header, *lines = out.splitlines()
    assert header.split()[:2] == ["network", "parameters"]
    listed = {name: int(number.replace(",", "")) for name, number, *_ in map(str.split, lines)}
    assert listed["resnet50-standard"] == 23_534_467
    assert listed["resnet50-optimized-ggcam"] == 128_065
    assert listed["resnet152"] == 60_192_808
    assert set(listed) == set(NETWORKS)
    assert all(len(line.split()) > 3 for line in lines)


def test_models_shows_the_layers_of_one_network(ckrm):
    code, out, _ = ckrm("models", "resnet50-optimized-ggcam")
    assert code == 0
    assert out.splitlines()[1].startswith(
        "kind resnet, stem 16, in_channels 1, classes 3, block bottleneck, form paper"
    )
    rows = [line.split() for line in out.splitlines()[3:]]
    assert rows[0] == ["layer", "weight", "width", "parameters"]
    assert rows[1] == ["features.conv1", "16x1x7x7", "conv1", "800"]
    assert ["features.layer4.0.conv2", "18x18x3x3", "layer4.0.conv2", "2,934"] in rows
    assert ["features.layer4.0.conv3", "27x18x1x1", "inferred", "513"] in rows
    assert ["head", "3x27", "classes", "84"] in rows
    assert rows[-1] == ["total", "128,065"]
    assert sum(int(row[-1].replace(",", "")) for row in rows[1:-1]) == 128_065
    assert len(rows) == 1 + 53 + 1 + 2  # 49 convolutions and 4 shortcuts, the head, the norms, the total


def test_models_shows_the_layers_of_a_class_from_elsewhere(ckrm):
    code, out, _ = ckrm("models", "plain_network:PlainNetwork")
    assert code == 0
    assert out.splitlines()[:2] == [
        "plain_network:PlainNetwork",
        "kind plain_network:PlainNetwork, head 6, body 8, tail 8, in_channels 3, classes 7",
    ]
    rows = [line.split() for line in out.splitlines()[3:]]
    assert rows[1:] == [
        ["in", "6x3x3x3", "head", "168"],
        ["one", "8x6x3x3", "body", "440"],
        ["two", "8x8x3x3", "body", "584"],
        ["out", "8x8x3x3", "tail", "584"],
        ["logits", "7x8", "classes", "63"],
        ["the", "rest,", "such", "as", "norms", "0"],
        ["total", "1,839"],
    ]


def test_models_of_an_unknown_name(ckrm):
    code, out, err = ckrm("models", "alexnet")
    assert (code, out) == (1, "")
    assert err.startswith("ckrm: name must be one of resnet50-standard, ")
    assert err.endswith("got 'alexnet'\n")


# ---- ckrm doctor -----------------------------------------------------------------------------------------------------


def test_doctor_tells_versions_and_backends(ckrm, backend):
    code, out, _ = ckrm("doctor")
    assert code == 0
    found = {line[:20].strip(): line[20:] for line in out.splitlines()}
    assert found["torch"].startswith(torch.__version__)
    assert found["python"].startswith(sys.version.split()[0])
    assert found["backend reference"].startswith("runs")
    if backend == "cpu":
        assert found["backend cpu"] == "runs"
        assert found["tensors on the CPU"] == "backend cpu"
        assert found["instruction set"] in ("sse2", "avx2", "avx512", "neon", "plain")
        assert str(native.cpu_status().path) in found["CPU library"]


def test_doctor_tells_why_nothing_is_built(monkeypatch):
    failed = native.LibraryStatus(False, failure="there is no C++ compiler; install one")
    monkeypatch.setattr(native, "cpu_status", lambda: failed)
    found = dict(findings())
    assert found["CPU library"] == "not loaded: there is no C++ compiler; install one"
    assert found["backend cpu"].startswith("can't run")
    assert found["tensors on the CPU"].startswith("backend reference")


def test_doctor_tells_why_the_installed_library_is_not_used(monkeypatch):
    reason = "no library was built when the package was installed (no nvcc)"
    built = native.LibraryStatus(True, Path("cache", "cuda.so"), "built on first use", reason)
    monkeypatch.setattr(native, "cuda_status", lambda: built)
    found = list(findings())
    place = found.index(("CUDA library", f"built on first use, {Path('cache', 'cuda.so')}"))
    assert found[place + 1] == ("", f"because {reason}")


def test_doctor_tells_what_extras_lack(monkeypatch):
    from ckrm_kernels import doctor

    monkeypatch.setattr(doctor.util, "find_spec", lambda name: None if name == "pandas" else object())
    found = dict(findings())
    assert found["extra report"] == 'without pandas: pip install "ckrm-kernels[report]"'
    assert found["extra cli"] == "complete"


def test_the_measure_function_is_not_shadowed():
    assert callable(measure)
    assert ckrm_kernels.measure is measure
