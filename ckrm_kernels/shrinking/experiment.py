"""The whole experiment in a folder: search for widths, then compare on held-out data. It can be killed at any moment.

Every finished training run is in its own folder and every finished phase in one state file, so that a second start
goes on from there and ends with the same result.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from torch import nn

import ckrm_kernels
from ckrm_kernels.data import Dataset
from ckrm_kernels.models import ResNetShape
from ckrm_kernels.shrinking import tables
from ckrm_kernels.shrinking.comparison import Candidate, candidate
from ckrm_kernels.shrinking.measured import measure_networks
from ckrm_kernels.shrinking.narrowing import narrowed_alike, parameters_of
from ckrm_kernels.shrinking.rules import BracketRule
from ckrm_kernels.shrinking.search import Outcome, Round, Search, SearchableShape, Trained
from ckrm_kernels.training import Run, TrainingConfig
from ckrm_kernels.training.files import read_json, write_json
from ckrm_kernels.training.progress import Display
from ckrm_kernels.training.workers import Job, Workers

_STATE = "state.json"


@dataclass(frozen=True)
class ExperimentConfig:
    """Everything that decides the result.

    shape: the standard network, deliberately too wide
    training: of every network; seeds: each shape is trained from all of them
    threshold: of lambda, in [0, 1]; target: a layer is clean when its lambda is at most this, or no more than chance
    minimum, closed: see `BracketRule`; most_rounds: see `Search`
    split_seed: which random split of the data
    """

    shape: ResNetShape = field(default_factory=ResNetShape)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    seeds: tuple[int, ...] = (0, 1, 2)
    threshold: float = 0.6
    target: float = 0.01
    minimum: int = BracketRule.minimum
    closed: float = BracketRule.closed
    most_rounds: int = Search.most_rounds
    split_seed: int = 0

    def __post_init__(self) -> None:
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds must be different whole numbers, at least one, got {self.seeds}")
        if not 0 <= self.threshold <= 1 or math.isnan(self.threshold):
            raise ValueError(f"threshold must lie in [0, 1], got {self.threshold!r}")
        self.search()

    def search(self) -> Search:
        """The search that this describes; raises ValueError for a field that it does not accept."""
        rule = BracketRule(self.minimum, self.closed)
        return Search(self.shape, rule, self.target, self.most_rounds)

    def as_json(self) -> dict[str, Any]:
        """As JSON gives it back, with the version of the package."""
        value: dict[str, Any] = json.loads(json.dumps({"version": ckrm_kernels.__version__, **asdict(self)}))
        return value


@dataclass
class State:
    """What is finished: the rounds of the search, and the networks compared.

    candidates: standard first, then, where the search changed anything, shrunk and uniform; empty until all are there
    """

    rounds: list[Round] = field(default_factory=list)
    candidates: list[Candidate] = field(default_factory=list)


class Experiment:
    """The experiment of one configuration in one folder.

    Raises ValueError where the folder holds an experiment of another configuration.
    """

    def __init__(
        self, folder: Path, config: ExperimentConfig, load_data: Callable[[], Dataset], display: Display
    ) -> None:
        self.folder, self.config, self.display = folder, config, display
        self.search = config.search()
        self._load_data = load_data
        self.data = load_data()
        self.state = self._load_state()

    @property
    def finished(self) -> bool:
        """Whether every phase is done."""
        return bool(self.state.candidates)

    @property
    def outcome(self) -> Outcome:
        """How the finished search ended."""
        return self.search.outcome(self.state.rounds)

    @property
    def seconds(self) -> float:
        """Time spent training, summed over all networks."""
        records = sorted(self.folder.glob("networks/*/*/run.json"))
        return sum(read_json(record)["seconds"] for record in records)

    def run(self, processes: int | None = None) -> None:
        """Does what is not done yet.

        processes: networks trained side by side, by default as many as there are seeds and cores; the result does
            not depend on it
        """
        if self.finished:
            return
        count = min(len(self.config.seeds), _cores()) if processes is None else processes
        with Workers(count) as workers:
            while (widths := self.search.next_widths(self.state.rounds)) is not None:
                self._round(workers, widths)
            self._compare(workers)

    def _round(self, workers: Workers, widths: dict[str, int]) -> None:
        place = len(self.state.rounds)
        shape = self.config.shape.with_widths(widths)
        size = f"{parameters_of(shape):,} parameters"
        title = f"the standard network, {size}" if place == 0 else f"widths {tables.listed(widths)}, {size}"
        self.display.phase(f"Round {place}: training {title}")
        _, trained = self._train(workers, f"round-{place}", shape)
        done = self.search.observe(self.state.rounds, widths, trained)
        self.state.rounds.append(done)
        self._save_state()
        self._explain(done)

    def _explain(self, done: Round) -> None:
        accuracy = ", ".join(f"{each:.3f}" for each in done.trained.validation_accuracy)
        self.display.say(
            f"validation accuracy {accuracy}; redundant widths: {len(done.redundant)} of {len(done.widths)}"
        )
        for line in tables.told(done):
            self.display.say(line)

    def _compare(self, workers: Workers) -> None:
        chosen = self.outcome.chosen
        standard, shrunk = self.config.shape, self.config.shape.with_widths(self.state.rounds[chosen].widths)
        candidates = [self._candidate(workers, "standard", standard, 0)]
        if chosen > 0:
            uniform = narrowed_alike(standard, parameters_of(shrunk))
            size = f"{parameters_of(uniform):,} parameters"
            self.display.phase(f"Comparison: training widths narrowed alike {tables.listed(uniform.widths())}, {size}")
            models, trained = self._train(workers, "uniform", uniform)
            candidates += [
                self._candidate(workers, "shrunk", shrunk, chosen),
                candidate("uniform", uniform.widths(), models, trained.layers, self.data),
            ]
        self.state.candidates = candidates
        self._save_state()

    def _candidate(self, workers: Workers, name: str, shape: SearchableShape, place: int) -> Candidate:
        """The networks of a finished round as a candidate."""
        models, _ = self._networks(workers, f"round-{place}", shape)
        return candidate(name, shape.widths(), models, self.state.rounds[place].trained.layers, self.data)

    def _train(self, workers: Workers, name: str, shape: SearchableShape) -> tuple[list[nn.Module], Trained]:
        """Trains the shape from every seed, and measures."""
        models, runs = self._networks(workers, name, shape)
        layers = measure_networks(models, self.config.threshold)
        return models, Trained(tuple(run.history[-1].validation_accuracy for run in runs), layers)

    def _networks(self, workers: Workers, name: str, shape: SearchableShape) -> tuple[list[nn.Module], list[Run]]:
        """The shape trained from every seed, here or in an earlier start."""
        jobs = self._jobs(name, shape)
        with self.display.bars([f"seed {job.seed}" for job in jobs], self.config.training.epochs) as bars:
            runs = workers.run(jobs, bars.on_event)
        return [job.trained() for job in jobs], runs

    def _jobs(self, name: str, shape: SearchableShape) -> list[Job]:
        data = {"name": self.data.name, "split_seed": self.config.split_seed}
        return [
            Job(
                shape,
                self._load_data,
                data,
                self.config.training,
                seed,
                self.folder / "networks" / name / f"seed-{seed}",
            )
            for seed in self.config.seeds
        ]

    def _save_state(self) -> None:
        write_json(self.folder / _STATE, {"config": self.config.as_json(), **asdict(self.state)})

    def _load_state(self) -> State:
        path, ours = self.folder / _STATE, self.config.as_json()
        if not path.exists():
            return State()
        value = read_json(path)
        if not isinstance(value, dict) or set(value) != {"config", *(each.name for each in fields(State))}:
            raise ValueError(f"{path} is not the state of an experiment; choose another folder")
        theirs = value["config"]
        different = [f"{name} is {theirs.get(name)}" for name in ours if theirs.get(name) != ours[name]]
        if different:
            raise ValueError(
                f"{self.folder} holds an experiment of another configuration ({'; '.join(different)}): "
                "choose another folder or delete it"
            )
        return State(
            [Round.from_json(each) for each in value["rounds"]],
            [Candidate.from_json(each) for each in value["candidates"]],
        )


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
