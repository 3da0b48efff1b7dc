"""Threads, the race of an operation on a layer, and the table at the end."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import statistics
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
import race
from report import Record, tables

if TYPE_CHECKING:
    from layers import Layer
    from peers import Peer
    from torch import Tensor

CLOCK = race.Replay()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--threads", type=int, default=0, help="processors that every candidate may use; default: all")


def pytest_configure(config: pytest.Config) -> None:
    """Gives every candidate the same processors, before any of them is imported."""
    processors = sorted(os.sched_getaffinity(0))
    threads = config.getoption("--threads") or len(processors)
    if threads > len(processors):
        raise pytest.UsageError(f"--threads must be at most {len(processors)}, got {threads}")
    os.sched_setaffinity(0, processors[:threads])
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[variable] = str(threads)
    config.stash[THREADS], config.stash[RECORDS] = threads, []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.benchmark(timer=CLOCK))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if config.stash[RECORDS]:
        terminalreporter.section(f"in turns, {config.stash[THREADS]} threads, medians")
        terminalreporter.write_line(tables(config.stash[RECORDS]))


@pytest.fixture
def report_times(request: pytest.FixtureRequest, benchmark: Any) -> Callable[..., None]:
    """Hands measured seconds to pytest-benchmark and to the table at the end."""

    def report(operation: str, layer: str, candidate: str, seconds: list[float], **info: Any) -> None:
        benchmark.group = f"{operation} {layer}".strip()
        benchmark.extra_info.update(
            operation=operation, layer=layer, candidate=candidate, threads=request.config.stash[THREADS], **info
        )
        if benchmark.disabled:
            return
        CLOCK.load(seconds)
        benchmark.pedantic(lambda: None, rounds=len(seconds))
        request.config.stash[RECORDS].append(Record.of(benchmark.extra_info, statistics.median(seconds)))

    return report


@pytest.fixture
def compete(request: pytest.FixtureRequest, benchmark: Any, report_times: Callable[..., None]) -> Callable[..., None]:
    """Times one peer's form of an operation on a layer, in turns with the other peers of the same test."""

    def compete(operation: str, peer: Peer, layer: Layer, *inputs: Tensor, slice_pairs: int = 0) -> None:
        race_of_peers = (request.node.originalname, layer)
        if race_of_peers not in RACES:
            items = [item for item in request.session.items if of_test(item) == race_of_peers]
            peers = [peer] if benchmark.disabled else [item.callspec.params["peer"] for item in items]
            RACES.clear()
            RACES[race_of_peers] = hold_race(operation, peers, inputs, timed=not benchmark.disabled)
        entry = RACES[race_of_peers].pop(peer.name)
        if isinstance(entry, race.NoEntry):
            say = pytest.fail if peer.package == "ckrm_kernels" else pytest.skip
            say(f"{peer.name}: {entry}")
        work = slice_pairs or layer.slice_pairs
        report_times(operation, str(layer), peer.name, entry.seconds, form=entry.form, slice_pairs=work)

    return compete


def of_test(item: Any) -> tuple[str, Layer | None]:
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    return item.originalname, parameters.get("layer")


def hold_race(
    operation: str, peers: list[Peer], inputs: tuple[Tensor, ...], timed: bool
) -> dict[str, race.Entry | race.NoEntry]:
    """The entry of every peer, or why it takes no part."""
    from checks import check_of

    check = check_of(operation, *inputs)
    entries: dict[str, race.Entry | race.NoEntry] = {}
    for peer in peers:
        try:
            entries[peer.name] = race.enter(peer.forms(operation, *inputs), check)
        except race.NoEntry as reason:
            entries[peer.name] = reason
    if timed:
        race.run([entry for entry in entries.values() if isinstance(entry, race.Entry)])
    return entries


RACES: dict[tuple[str, Any], dict[str, race.Entry | race.NoEntry]] = {}
THREADS, RECORDS = pytest.StashKey[int](), pytest.StashKey[list[Record]]()


def pytest_benchmark_update_machine_info(machine_info: dict[str, Any]) -> None:
    """Adds the versions of what is compared."""
    packages = {}
    for name in ("torch", "numba", "jax", "pykeops"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            packages[name] = importlib.metadata.version(name)
    machine_info["packages"] = packages
