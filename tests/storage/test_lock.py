import errno
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

import pytest

from ckrm_kernels.distributed import Team
from ckrm_kernels.storage.lock import building_alone, locked

IN_USE = r"is in use by another process; wait for it or choose another folder"


def start(script: str, folder: Path) -> subprocess.Popen[str]:
    """Runs the script with the folder as its argument, up to its first line of output."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        [sys.executable, "-c", script, folder], env=environment, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    return process


def test_a_folder_in_use_is_refused_until_its_process_ends(tmp_path, in_use):
    with in_use(tmp_path), pytest.raises(ValueError, match=IN_USE), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass


def test_a_folder_in_use_in_this_process_is_refused_too(tmp_path):
    with locked(tmp_path), pytest.raises(ValueError, match=IN_USE), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_process_forked_from_a_killed_one_does_not_keep_its_folder(tmp_path):
    script = (
        "import os, sys, pathlib, time\nfrom ckrm_kernels.storage.lock import locked\n"
        "with locked(pathlib.Path(sys.argv[1])):\n"
        "    child = os.fork()\n    if child: print('held', child, sep='\\n', flush=True)\n    time.sleep(60)\n"
    )
    with start(script, tmp_path) as process:
        child = int(process.stdout.readline())
        try:
            with pytest.raises(ValueError, match=IN_USE), locked(tmp_path):
                pass
            process.kill()
            process.wait()
            os.kill(child, 0)  # still alive
            with locked(tmp_path):
                pass
        finally:
            os.kill(child, signal.SIGKILL)


def test_a_lock_file_that_nobody_holds_blocks_nobody(tmp_path):
    (tmp_path / ".lock").write_text(f"{os.getpid()}\n")
    with locked(tmp_path):
        pass
    (tmp_path / "lock").write_text("left by a killed process\n")
    with building_alone(tmp_path / "lock", "building", "build-*"):
        pass


def test_a_folder_that_is_a_file(tmp_path):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "under"):
        with pytest.raises(ValueError, match=r"can't be a folder: it, or what it lies in, is a file"), locked(folder):
            pass


def fail_in(folder: Path, *files: str) -> None:
    """Locks the folder for a work that leaves the files and fails."""
    with locked(folder):
        assert (folder / ".lock").exists()
        for file in files:
            (folder / file).touch()
        raise ZeroDivisionError


@pytest.mark.parametrize(
    ("files", "left"), [([], []), (["file"], ["a/b/.lock", "a/b/file"]), (["../file"], ["a/file"])]
)
def test_a_folder_made_for_nothing_is_removed_with_those_above_it(tmp_path, files, left):
    with pytest.raises(ZeroDivisionError):
        fail_in(tmp_path / "a" / "b", *files)
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()) == left
    assert (tmp_path / "a").exists() == bool(left)


def test_a_folder_whose_work_is_done_or_that_was_there_stays(tmp_path):
    with locked(tmp_path / "a"):
        pass
    (tmp_path / "b").mkdir()
    with pytest.raises(ZeroDivisionError):
        fail_in(tmp_path / "b")
    assert (tmp_path / "a").is_dir()
    assert (tmp_path / "b").is_dir()


@pytest.mark.parametrize(
    ("number", "words"), [(errno.EROFS, "the file system is read-only"), (errno.EACCES, "permission is denied")]
)
@pytest.mark.parametrize("call", ["pathlib.Path.mkdir", "os.open"])
def test_a_folder_that_can_not_be_written_is_named(tmp_path, monkeypatch, number, words, call):
    def refuse(*arguments, **options):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(call, refuse)
    with pytest.raises(OSError, match=f"runs can't be written: {words}$"), locked(tmp_path / "runs"):
        pass


def test_a_file_system_without_locks_is_no_folder_for_runs(tmp_path, monkeypatch):
    def refuse(*arguments):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", refuse)
    for _ in range(2):  # nor is the lock file of the first attempt taken for a lock
        with pytest.raises(OSError, match="Function not implemented"), locked(tmp_path):
            pass


class Processes(Team):
    """One of two, the other of which says what this one does but for what `others` has."""

    others: ClassVar[dict[str, object]] = {}

    def wait(self):
        """The other one is there."""

    def gathered(self, value):
        return [value, self.others.get("gathered", value)]

    def of_first(self, compute):
        return "mark"


def test_only_the_first_process_of_a_team_locks(tmp_path, monkeypatch):
    monkeypatch.setattr("ckrm_kernels.storage.lock.team", lambda: Processes(0, 2))
    with locked(tmp_path / "run"):
        assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]
        monkeypatch.setattr("ckrm_kernels.storage.lock.team", lambda: Processes(1, 2))
        (tmp_path / "run" / ".common-mark").touch()
        with locked(tmp_path / "run"):  # which the first one holds
            pass


def test_a_folder_that_another_host_does_not_have_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("ckrm_kernels.storage.lock._LATE", 0.0)
    for rank, other in ((0, "there"), (1, "")):
        monkeypatch.setattr("ckrm_kernels.storage.lock.team", lambda rank=rank: Processes(rank, 2))
        monkeypatch.setattr(Processes, "others", {"gathered": other})
        folder = tmp_path / str(rank)
        host = "there" if rank == 0 else socket.gethostname()
        with pytest.raises(ValueError, match=f"{folder} is not the same folder on {host}: it must"), locked(folder):
            pass
    assert not list(tmp_path.iterdir())


def test_who_waits_for_a_killed_build_removes_its_remains(tmp_path, caplog):
    script = (
        "import sys, pathlib, time\nfrom ckrm_kernels.storage.lock import building_alone\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "with building_alone(folder / 'lock', 'building', 'build-*'):\n"
        "    (folder / 'build-1').mkdir()\n    print('held', flush=True)\n    time.sleep(60)\n"
    )

    def build() -> list[str]:
        with building_alone(tmp_path / "lock", "building it", "build-*"):
            return sorted(path.name for path in tmp_path.iterdir())

    with start(script, tmp_path) as process, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(build)
        while not caplog.messages:
            assert not waiting.done()
            time.sleep(0.01)
        process.kill()
        assert waiting.result(60) == ["lock"]
    assert caplog.messages == ["another process is building it; waiting for it"]
