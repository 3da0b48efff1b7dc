"""What is computed: one cell a network of one size made in one way, and the file of those that are done."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

ARCHITECTURES = ("ResNet", "VGG", "DenseNet", "MobileNet")
SHARES = (0.75, 0.5, 0.35, 0.25, 0.15)
MIDDLE = (0.5, 0.25)  # the sizes at which everything is compared
SEEDS, FURTHER_SEEDS = range(5), range(5, 10)

FULL, ERROR, PEER = "full", "error", "torch-pruning"
MERGED = "merged"
UNIFORM_ERROR, UNIFORM_L1 = "error, uniform widths", "l1, uniform widths"
CHOOSERS = ("l1", "random", UNIFORM_ERROR, "psi")
FURTHER_CHOOSERS = ("fpgm", "bn", UNIFORM_L1)
SCRATCH = "scratch, error's widths"
SCRATCH_PARAMETERS, SCRATCH_MULTIPLY_ADDS = "scratch, uniform, parameters", "scratch, uniform, multiply-adds"
NOTHING, BATCH_NORM, FOLD, FOLD_BATCH_NORM = "nothing", "batch norm", "fold", "fold + batch norm"
TUNED = ((ERROR, FOLD), ("l1", NOTHING), (PEER, NOTHING), ("random", FOLD))


@dataclass(frozen=True)
class Cell:
    """One network.

    method: how it comes about: FULL, a name in `shrunk.OPTIONS`, PEER or one of the SCRATCH ones
    share: of the full network's parameters that it is to have
    tuned: the compensation that its tuning starts from; "" where it is not tuned, and every compensation is tried
    epochs: of tuning
    """

    architecture: str
    seed: int
    method: str
    share: float = 1.0
    tuned: str = ""
    epochs: int = 0

    @property
    def untuned(self) -> Cell:
        """The cell whose networks this one's tuning starts from."""
        return Cell(self.architecture, self.seed, self.method, self.share)

    @property
    def folder(self) -> str:
        """The name of its folder among those of all cells."""
        words = (self.architecture, self.seed, self.method, self.share, self.tuned, self.epochs)
        return "-".join(str(word).replace(", ", "_").replace(" ", "") for word in words)


def all_cells() -> list[Cell]:
    """Every cell once, what matters most first."""
    return list(dict.fromkeys(_by_importance()))


def _by_importance() -> Iterator[Cell]:
    half, quarter = MIDDLE
    yield from _cells(SEEDS, [FULL], [1.0])
    yield from _cells(SEEDS, [ERROR], [half])
    yield from _cells(SEEDS, [SCRATCH], [half])
    yield from _cells(SEEDS, [ERROR], [quarter])
    yield from _cells(SEEDS, [PEER, *CHOOSERS, MERGED], [half])
    yield from _cells(SEEDS, [ERROR], SHARES)
    yield from _cells(SEEDS, [SCRATCH], [quarter])
    for seed in SEEDS:
        yield from _cells([seed], [SCRATCH_PARAMETERS, SCRATCH_MULTIPLY_ADDS], [half])
        yield from _tuned_cells([seed], 1, TUNED[:2])
    yield from _tuned_cells(SEEDS, 1)
    yield from _cells(SEEDS, [PEER, *CHOOSERS, MERGED], [quarter])
    yield from _cells(SEEDS, [SCRATCH_PARAMETERS], [quarter])
    yield from _cells(SEEDS, FURTHER_CHOOSERS, MIDDLE)
    yield from _cells(SEEDS, [PEER, *CHOOSERS, *FURTHER_CHOOSERS, MERGED], SHARES)
    yield from _tuned_cells(SEEDS, 5)
    yield from _cells(SEEDS, [SCRATCH_MULTIPLY_ADDS], MIDDLE)
    yield from _cells(SEEDS, [SCRATCH], SHARES)
    yield from _cells(FURTHER_SEEDS, [FULL], [1.0])
    yield from _cells(FURTHER_SEEDS, [ERROR, SCRATCH], [half])
    yield from _cells(SEEDS, [SCRATCH_PARAMETERS, SCRATCH_MULTIPLY_ADDS], SHARES)


def _cells(seeds: Iterable[int], methods: Iterable[str], shares: Iterable[float]) -> Iterator[Cell]:
    """Seeds change slowest, so that whatever is done is of all architectures alike."""
    for seed, share, method, architecture in product(seeds, shares, methods, ARCHITECTURES):
        if (method, architecture) != ("bn", "VGG"):  # a hidden layer of it has no norm
            yield Cell(architecture, seed, method, share)


def _tuned_cells(seeds: Iterable[int], epochs: int, starts: Sequence[tuple[str, str]] = TUNED) -> Iterator[Cell]:
    """At half of the parameters. starts: methods, and the compensations from which tuning starts"""
    for seed, (method, start), architecture in product(seeds, starts, ARCHITECTURES):
        yield Cell(architecture, seed, method, 0.5, start, epochs)


@dataclass(frozen=True)
class Result:
    """What a cell came to.

    parameters, multiply_adds: of the network
    accuracy: on the held-out images, by compensation; of a tuned network by the one that it started from
    seconds: of one core
    details: what was chosen on the way
    """

    cell: Cell
    parameters: int
    multiply_adds: int
    accuracy: dict[str, float]
    seconds: float
    details: dict[str, Any]


class Results:
    """The file of finished cells, one JSON line each, to which several processes may add."""

    def __init__(self, path: Path):
        self._path = path

    def read(self) -> dict[Cell, Result]:
        """All finished cells; a line that a killed machine left unfinished is left out."""
        if not self._path.exists():
            return {}
        found = {}
        for line in self._path.read_text().splitlines():
            try:
                values = json.loads(line)
            except ValueError:
                continue
            cell = Cell(**values.pop("cell"))
            found[cell] = Result(cell, **values)
        return found

    def add(self, result: Result) -> None:
        """Adds a line in one write, on a line of its own whatever the file ends with."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps(asdict(result)) + "\n"
        with self._path.open("ab", buffering=0) as file:
            end = file.seek(0, 2)
            if end and self._path.read_bytes()[-1:] != b"\n":
                line = "\n" + line
            file.write(line.encode())
