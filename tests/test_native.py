"""native.py: which library is loaded, how it comes about on first use, and what is said when it can't."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from small_tree import COMPILER, HeldCompiler, copy_checkout, needs_compiler, run_python, start_python, write_sources

from ckrm_kernels import build_config, native, pairwise_psi

LOAD = "from ckrm_kernels import native; import torch; print(native.load_cpu(), native.cpu_status().origin)"
PROBE = LOAD + "; print(torch.ops.ckrm.probe())"


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Path:
    """native as in a new process, on small sources of their own operator namespace, with an empty cache."""
    csrc = write_sources(tmp_path / "csrc", request.node.name)
    monkeypatch.setattr(native, "_statuses", {})
    monkeypatch.setattr(native, "_PACKAGE", tmp_path / "package")
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("CKRM_KERNELS_BUILD", raising=False)
    return csrc


def failure_of_load() -> str:
    """The failure that load_cpu warns of, exactly once in three calls."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert [native.load_cpu() for _ in range(3)] == [False] * 3
    assert [warning.category for warning in caught] == [RuntimeWarning]
    assert native.cpu_failure() in str(caught[0].message)
    assert not native.cpu_status().loaded
    return native.cpu_failure()


@needs_compiler
def test_builds_on_first_use(fresh: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert native.load_cpu()
    status = native.cpu_status()
    assert status.origin == "built on first use"
    assert status.path == native.build_directory() / (build_config.CPU.file_name(fresh) + ".so")
    assert native.cpu_failure() == status.failure == ""
    assert torch.ops.test_builds_on_first_use.probe() == 7
    assert [record.message.split(";")[0] for record in caplog.records] == ["compiling the CPU kernels"]
    assert {path.name for path in native.build_directory().iterdir()} == {"lock", status.path.name}


@needs_compiler
def test_one_build_for_many_threads(fresh: Path, caplog: pytest.LogCaptureFixture) -> None:
    answers: list[bool] = []
    threads = [threading.Thread(target=lambda: answers.append(native.load_cpu())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [True] * 8
    assert len(caplog.records) == 1


def test_compiled_callers_keep_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(native, "_statuses", {})
    monkeypatch.setattr(native, "_load", lambda library: calls.append(1) or native.LibraryStatus(True))

    @torch.compile(backend="eager", fullgraph=True)
    def add(x: torch.Tensor) -> torch.Tensor:
        return x + 1 if native.load_cpu() else x

    assert add(torch.zeros(2)).tolist() == [1, 1]
    assert add(torch.zeros(3)).tolist() == [1, 1, 1]
    assert len(calls) == 1


@needs_compiler
def test_an_installed_library_that_does_not_load_is_passed_over(fresh: Path) -> None:
    prebuilt = native._PACKAGE / "lib" / (build_config.CPU.file_name(fresh) + ".so")
    prebuilt.parent.mkdir(parents=True)
    prebuilt.write_bytes(b"not a library")
    assert native.load_cpu()
    assert native.cpu_status().origin == "built on first use"
    assert "the installed library does not load" in native.cpu_status().failure
    assert native.cpu_failure() == ""


@needs_compiler
def test_a_cached_library_that_does_not_load_is_built_anew(fresh: Path) -> None:
    cached = native.build_directory() / (build_config.CPU.file_name(fresh) + ".so")
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"half of a lib")
    assert native.load_cpu()
    assert torch.ops.test_a_cached_library_that_does_not_load_is_built_anew.probe() == 7


@needs_compiler
def test_failing_compilation(fresh: Path) -> None:
    (fresh / "cpu" / "probe.cpp").write_text("int nonsense = undeclared;\n")
    failure = failure_of_load()
    assert "the build failed" in failure
    assert "undeclared" in failure
    log = native.build_directory() / (build_config.CPU.file_name(fresh) + ".log")
    assert str(log) in failure
    assert "undeclared" in log.read_text()
    assert not list(native.build_directory().glob("build-*"))


def test_no_compiler(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler -O3")
    failure = failure_of_load()
    assert "no C++ compiler (no-such-compiler was not found)" in failure
    assert "install g++ or clang++" in failure
    with pytest.raises(RuntimeError, match="no-such-compiler"):
        pairwise_psi(torch.zeros(2, 1, 3, 3), backend="cpu")
    assert pairwise_psi(torch.zeros(2, 1, 3, 3)).tolist() == [1]


def test_broken_compiler(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "false")
    assert "the build failed" in failure_of_load()


def test_no_ninja(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native.shutil, "which", lambda tool: None if tool == "ninja" else tool)
    assert 'pip install "ckrm-kernels[build]"' in failure_of_load()


def test_building_forbidden(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CKRM_KERNELS_BUILD", "0")
    assert "CKRM_KERNELS_BUILD=0 forbids" in failure_of_load()


def test_windows(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "sys", SimpleNamespace(platform="win32"))
    assert "Windows" in failure_of_load()


def test_missing_sources(fresh: Path) -> None:
    (fresh / "cpu" / "probe.cpp").unlink()
    assert f"the C++ sources are missing from {fresh}" in failure_of_load()


@needs_compiler
def test_cache_that_cannot_be_written(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(fresh / "answer.h"))
    assert "set TORCH_EXTENSIONS_DIR" in failure_of_load()


@needs_compiler
def test_sources_edited_meanwhile_are_not_kept(fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    editor = tmp_path / "g++-that-edits"
    editor.write_text(f'#!/bin/sh\necho "constexpr long answer = 8;" > "{fresh / "answer.h"}"\nexec {COMPILER} "$@"\n')
    editor.chmod(0o755)
    monkeypatch.setenv("CXX", str(editor))
    assert "edited while they were compiled" in failure_of_load()
    assert not list(native.build_directory().glob("*.so"))


def test_the_name_follows_the_sources(fresh: Path) -> None:
    first = build_config.CPU.file_name(fresh)
    assert first == build_config.CPU.file_name(fresh)
    (fresh / "answer.h").write_text("constexpr long answer = 8;\n")
    second = build_config.CPU.file_name(fresh)
    (fresh / "cpu" / "probe.cpp").rename(fresh / "cpu" / "other.cpp")
    assert len({first, second, build_config.CPU.file_name(fresh)}) == 3


@needs_compiler
def test_two_processes_build_once(tmp_path: Path) -> None:
    package, compiler = copy_checkout(tmp_path / "checkout"), HeldCompiler(tmp_path / "compiler")
    environment = {"CXX": compiler.path, "TORCH_EXTENSIONS_DIR": str(tmp_path / "cache")}
    first = start_python(PROBE, package, **environment)
    wait_until(lambda: compiler.compilations > 0)
    second = start_python(PROBE, package, **environment)
    assert any("another process is compiling" in line for line in second.stderr)  # after what torch warns of
    compiler.release()
    for process in (first, second):
        output, errors = process.communicate(timeout=120)
        assert output.split() == ["True", "built", "on", "first", "use", "7"], errors
    assert compiler.compilations == 1


@needs_compiler
def test_a_killed_build_blocks_nobody(tmp_path: Path) -> None:
    package, compiler = copy_checkout(tmp_path / "checkout"), HeldCompiler(tmp_path / "compiler")
    cache = str(tmp_path / "cache")
    killed = start_python(LOAD, package, CXX=compiler.path, TORCH_EXTENSIONS_DIR=cache)
    wait_until(lambda: compiler.compilations > 0)
    killed.kill()
    killed.wait()
    try:
        output, _ = run_python(PROBE, package, TORCH_EXTENSIONS_DIR=cache)
    finally:
        compiler.release()
    assert output.split() == ["True", "built", "on", "first", "use", "7"]
    assert not list((tmp_path / "cache").rglob("build-*"))


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.05)


@pytest.mark.skipif(sys.platform != "linux", reason="the flags are for Linux")
@needs_compiler
def test_messages_arrive_where_the_compiler_puts_its_library_into_ours(tmp_path: Path) -> None:
    """Some link libstdc++ statically, whatever a build says; torch has another in the same process."""
    library, folder = tmp_path / "librefusing.so", Path(torch.__path__[0])
    torch_flags = [f"-I{folder / 'include'}", f"-L{folder / 'lib'}", "-lc10", "-ltorch_cpu"]
    source = Path(__file__).parent / "cpp" / "refusing.cpp"
    command = [COMPILER, "-shared", "-fPIC", "-std=c++20", *build_config.CPU.compile_flags, str(source), *torch_flags]
    subprocess.run([*command, "-static-libstdc++", *build_config.CPU.link_flags, "-o", str(library)], check=True)
    code = f"""
import torch
torch.ops.load_library({str(library)!r})
try:
    torch.ops.ckrm_refusing.refuse(torch.zeros(3, 4))
except RuntimeError as error:
    print(error)
"""
    printed, _ = run_python(code, Path(__file__).parents[1])
    assert printed.endswith("it has 2 dimensions")
