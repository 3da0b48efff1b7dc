from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

# Now, since it looks once for the system, the compiler and CUDA, and no test's stand-in for one of them may be found.
import torch.utils.cpp_extension
from hypothesis import HealthCheck, settings

# Before Triton is imported: without a GPU its kernels run in the interpreter, on CPU tensors.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

from lacking import skip_what_is_lacking

from ckrm_kernels import native
from ckrm_kernels.cli import main

settings.register_profile(
    "deterministic",
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large],
)
settings.load_profile("deterministic")


@pytest.hookimpl(tryfirst=True)  # before pytest deselects by marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        backend = getattr(item, "callspec", None) and item.callspec.params.get("backend")
        if any(backend in marker.args for marker in item.iter_markers("exhaustive_on")):
            item.add_marker("exhaustive")


@pytest.fixture(scope="session", autouse=True)
def _lacking() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        skip_what_is_lacking(patch)
        yield


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def cpu_kernels() -> None:
    """Loads the compiled CPU kernels; skips only where nothing could compile them."""
    if native.load_cpu():
        return
    if shutil.which("c++") or shutil.which("g++") or shutil.which("clang++"):
        pytest.fail(f"a C++ compiler is here, but the CPU kernels do not load: {native.cpu_failure()}", pytrace=False)
    pytest.skip("no C++ compiler and no prebuilt CPU kernels")


@pytest.fixture(params=["reference", "cpu", "triton"])
def backend(request: pytest.FixtureRequest) -> str:
    """Every backend that computes on CPU tensors, by its name in the public functions."""
    if request.param == "cpu":
        request.getfixturevalue("cpu_kernels")
    return request.param


@pytest.fixture
def threads():
    """torch.set_num_threads, undone after the test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def in_use():
    """A context in which another process works in a folder; it is killed at the end."""

    @contextmanager
    def held(folder: Path):
        script = (
            "import sys, pathlib, time\nfrom ckrm_kernels.storage.lock import locked\n"
            "with locked(pathlib.Path(sys.argv[1])):\n    print('locked', flush=True)\n    time.sleep(60)\n"
        )
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-c", script, folder]
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as process:
            assert process.stdout.readline() == b"locked\n"
            yield
            process.kill()

    return held


@pytest.fixture
def ckrm(monkeypatch, capsys):
    """Runs the command in this process: exit code, output, error output."""
    monkeypatch.delenv("COLUMNS", raising=False)  # which workers of pytest-xdist set

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["ckrm", *map(str, arguments)])
        with pytest.raises(SystemExit) as exited:
            main()
        captured = capsys.readouterr()
        code = exited.value.code
        if isinstance(code, str):  # sys.exit(message) prints it and exits with 1
            return 1, captured.out, captured.err + code + "\n"
        return code or 0, captured.out, captured.err

    return run
