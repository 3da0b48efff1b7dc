import errno
import logging
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ckrm_kernels.storage.built_once import built_once, cache_folder


def fill(folder: Path) -> None:
    (folder / "numbers").write_text("1 2 3")


def visible(folder: Path) -> list[str]:
    return [entry.name for entry in folder.iterdir() if entry.is_dir()]


def test_a_folder_is_built_once(tmp_path):
    folder = built_once(tmp_path / "deep" / "result", fill)
    assert folder == tmp_path / "deep" / "result"
    assert (folder / "numbers").read_text() == "1 2 3"
    assert built_once(folder, None) == folder
    assert folder.stat().st_mode == folder.parent.stat().st_mode  # as any new folder


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
def test_a_build_that_fails_leaves_nothing(tmp_path, kind):
    def fail(folder: Path) -> None:
        fill(folder)
        raise kind

    with pytest.raises(kind):
        built_once(tmp_path / "result", fail)
    assert visible(tmp_path) == []
    built_once(tmp_path / "result", fill)
    assert visible(tmp_path) == ["result"]


def test_what_a_killed_build_left_is_removed(tmp_path):
    left = tmp_path / ".result.building-abc"
    left.mkdir()
    fill(left)
    other = tmp_path / ".another.building-abc"
    other.mkdir()
    built_once(tmp_path / "result", fill)
    assert sorted(visible(tmp_path)) == [other.name, "result"]


def test_who_asks_meanwhile_waits_and_builds_nothing(tmp_path, caplog):
    started, may_end = threading.Event(), threading.Event()

    def slowly(folder: Path) -> None:
        started.set()
        assert may_end.wait(60)
        fill(folder)

    class Release(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:  # the second has said that it waits
            may_end.set()

    logger, handler = logging.getLogger("ckrm_kernels.storage.lock"), Release()
    logger.addHandler(handler)
    try:
        with ThreadPoolExecutor(2) as pool:
            first = pool.submit(built_once, tmp_path / "result", slowly)
            assert started.wait(60)
            second = pool.submit(built_once, tmp_path / "result", None)
            assert first.result(60) == second.result(60) == tmp_path / "result"
    finally:
        logger.removeHandler(handler)
    assert caplog.messages == [f"another process is building {tmp_path / 'result'}; waiting for it"]
    assert visible(tmp_path) == ["result"]


@pytest.mark.parametrize("reason", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_without_locks_two_builds_at_once_both_end_well(tmp_path, monkeypatch, reason):
    def refuse(*arguments):
        raise OSError(reason, os.strerror(reason))

    monkeypatch.setattr("fcntl.flock", refuse)
    both = threading.Barrier(2)

    def together(folder: Path) -> None:
        fill(folder)
        both.wait(60)

    with ThreadPoolExecutor(2) as pool:
        builds = [pool.submit(built_once, tmp_path / "result", together) for _ in range(2)]
        assert [build.result(60) for build in builds] == [tmp_path / "result"] * 2
    assert (tmp_path / "result" / "numbers").read_text() == "1 2 3"
    assert visible(tmp_path) == ["result"]


def test_where_the_cache_is(monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.delenv("CKRM_CACHE", raising=False)
    assert cache_folder(None) == Path("/home/somebody/.cache/ckrm_kernels")
    monkeypatch.setenv("CKRM_CACHE", "/big/disk")
    assert cache_folder(None) == Path("/big/disk")
    assert cache_folder("~/here") == Path("/home/somebody/here")


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EROFS])
def test_a_folder_that_can_not_be_written_is_named(tmp_path, monkeypatch, error):
    def full(folder: Path) -> None:
        raise OSError(error, os.strerror(error))

    with pytest.raises(
        OSError, match=r"built can't be written: (No space left on device|the file system is read-only)"
    ):
        built_once(tmp_path / "built", full)
    monkeypatch.setattr(Path, "mkdir", lambda *arguments, **options: full(tmp_path))
    with pytest.raises(OSError, match=r"built can't be written: "):
        built_once(tmp_path / "built", lambda folder: None)
    assert [path.name for path in tmp_path.iterdir()] == [".built.lock"]


def test_a_file_that_can_not_be_read_is_not_taken_for_the_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent"):
        built_once(tmp_path / "built", lambda folder: (tmp_path / "absent").read_bytes())
