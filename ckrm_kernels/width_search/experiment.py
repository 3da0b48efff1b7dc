"""The whole experiment in a folder: search for widths, then compare on held-out data. It can be killed at any moment.

Every training run is in its own folder and every finished phase in one state file, so that a second start goes on from
there and ends with the same result.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from ckrm_kernels.comparison.candidates import Candidate, compare_candidates, evaluate_candidate
from ckrm_kernels.comparison.latency import Latency, measure_latencies
from ckrm_kernels.comparison.measured_layers import MeasuredLayer, measure_networks
from ckrm_kernels.comparison.tables import listed
from ckrm_kernels.distributed import team
from ckrm_kernels.models import Network
from ckrm_kernels.storage.files import read_json, write_json
from ckrm_kernels.storage.settings import as_json, check_same, typed
from ckrm_kernels.training import Runtime
from ckrm_kernels.training.progress import Display
from ckrm_kernels.training.run_files import load_tensors
from ckrm_kernels.training.runs import adapted_to, jobs_of, run_shown
from ckrm_kernels.training.workers import Job, Workers
from ckrm_kernels.width_search.conclusions import conclusions
from ckrm_kernels.width_search.config import WidthSearchConfig
from ckrm_kernels.width_search.findings import Findings
from ckrm_kernels.width_search.narrowing import narrowed_alike, parameters_of
from ckrm_kernels.width_search.search import Outcome, Round, Trained
from ckrm_kernels.width_search.tables import changes_in_words

_STATE, _CONFIG = "state.json", "config.json"


@dataclass
class State:
    """What is finished: the rounds of the search, the networks compared, and their times, which come last.

    candidates: standard first, then, where the search changed anything, searched and uniform
    """

    rounds: list[Round] = field(default_factory=list)
    candidates: list[Candidate] = field(default_factory=list)
    latencies: list[Latency] = field(default_factory=list)


class Experiment:
    """The experiment of one configuration in one folder.

    Raises ValueError where the folder holds an experiment of another configuration, or of other data.
    """

    def __init__(self, folder: Path, config: WidthSearchConfig, runtime: Runtime, display: Display) -> None:
        self.folder, self.runtime, self.display = folder, runtime, display
        self.data = config.data.load(display.track)
        display.skipped(self.data)
        self.config = adapted_to(config, self.data)
        self.search = self.config.search()
        self.state = self._load_state()

    @property
    def finished(self) -> bool:
        """Whether every phase is done."""
        return bool(self.state.latencies)

    @property
    def outcome(self) -> Outcome:
        """How the finished search ended."""
        return self.search.outcome(self.state.rounds)

    @property
    def seconds(self) -> float:
        """Time spent training, summed over all networks."""
        records = sorted(self.folder.glob("networks/*/*/run.json"))
        return sum(read_json(record)["seconds"] for record in records)

    def run(self, processes: int) -> None:
        """Does what is not done yet, with so many networks trained side by side; the result does not depend on it."""
        if self.finished:
            return
        self._save_state()
        if team().is_first:
            write_json(self.folder / _CONFIG, as_json(self.config))
        with Workers(processes) as workers:
            while (widths := self.search.next_widths(self.state.rounds)) is not None:
                self._round(workers, widths)
            for name, (folder, shape) in list(self._compared().items())[len(self.state.candidates) :]:
                self._compare(workers, name, folder, shape)
        self._time()

    def findings(self) -> Findings:
        """What the finished experiment found."""
        weights = {
            name: load_tensors(self._jobs(folder, shape)[0].folder)
            for name, (folder, shape) in self._compared().items()
        }
        candidates, config = tuple(self.state.candidates), self.config
        compared = compare_candidates(candidates, config.margin)
        most_frequent = self.data.held_out.labels.bincount().max().item() / len(self.data.held_out)
        return Findings(
            data=self.data.name,
            images=len(self.data.held_out),
            threshold=config.threshold,
            target=config.target,
            rounds=tuple(self.state.rounds),
            outcome=self.outcome,
            candidates=candidates,
            comparisons=compared,
            latencies=tuple(self.state.latencies),
            weights={
                each.name: {layer.name: weights[each.name][f"{layer.name}.weight"] for layer in each.layers}
                for each in candidates
            },
            conclusions=tuple(
                conclusions(self.state.rounds, self.outcome, candidates, compared, config.target, most_frequent)
            ),
        )

    def _round(self, workers: Workers, widths: dict[str, int]) -> None:
        place = len(self.state.rounds)
        shape = self.config.network.with_widths(widths)
        size = f"{parameters_of(shape):,} parameters"
        title = f"the standard network, {size}" if place == 0 else f"widths {listed(widths)}, {size}"
        self.display.phase(f"Round {place}: training {title}")
        jobs = self._jobs(f"round-{place}", shape)[: self.config.seeds]
        runs = run_shown(workers, jobs, self.display)
        layers = team().of_first(lambda: self._measured(jobs)[1])
        trained = Trained(tuple(self.config.training.kept(run.history).validation_accuracy for run in runs), layers)
        done = self.search.observe(self.state.rounds, widths, trained)
        self.state.rounds.append(done)
        self._save_state()
        self._explain(done)

    def _explain(self, done: Round) -> None:
        accuracy = ", ".join(f"{each:.3f}" for each in done.trained.validation_accuracy)
        self.display.say(
            f"validation accuracy {accuracy}; redundant widths: {len(done.redundant)} of {len(done.widths)}"
        )
        for line in changes_in_words(done):
            self.display.say(line)

    def _compared(self) -> dict[str, tuple[str, Network]]:
        """For each network compared its folder and its shape."""
        chosen, standard = self.outcome.chosen, self.config.network
        networks: dict[str, tuple[str, Network]] = {"standard": ("round-0", standard)}
        if chosen > 0:
            searched = standard.with_widths(self.state.rounds[chosen].widths)
            networks["searched"] = (f"round-{chosen}", searched)
            networks["uniform"] = ("uniform", narrowed_alike(standard, parameters_of(searched)))
        return networks

    def _compare(self, workers: Workers, name: str, folder: str, shape: Network) -> None:
        widths, size = listed(shape.widths()), f"{parameters_of(shape):,} parameters"
        self.display.phase(f"Comparison: the {name} network from {self.config.final_seeds} seeds, {widths}, {size}")
        jobs = self._jobs(folder, shape)
        run_shown(workers, jobs, self.display)
        self.state.candidates.append(
            team().of_first(lambda: evaluate_candidate(name, shape.widths(), *self._measured(jobs), self.data))
        )
        self._save_state()

    def _time(self) -> None:
        """Times the networks, one of each."""
        self.display.phase("Comparison: timing the networks")
        self.state.latencies = team().of_first(self._latencies)
        self._save_state()

    def _latencies(self) -> list[Latency]:
        networks = {name: self._jobs(folder, shape)[0].trained() for name, (folder, shape) in self._compared().items()}
        return measure_latencies(networks, self.data.image_shape)

    def _measured(self, jobs: Sequence[Job]) -> tuple[list[nn.Module], tuple[MeasuredLayer, ...]]:
        """The trained networks of the jobs and their layers."""
        models = [job.trained() for job in jobs]
        return models, measure_networks(models, self.config.threshold)

    def _jobs(self, folder: str, shape: Network) -> list[Job]:
        """The runs of a shape from all seeds of the comparison, of which a round takes the first."""
        seeds, place = range(self.config.final_seeds), self.folder / "networks" / folder
        return jobs_of(self.config, self.data, shape, seeds, place, self.runtime)

    def _save_state(self) -> None:
        if team().is_first:
            write_json(
                self.folder / _STATE,
                {"config": as_json(self.config), "data": self.data.identity, **asdict(self.state)},
            )

    def _load_state(self) -> State:
        path, ours = self.folder / _STATE, as_json(self.config)
        if not path.exists():
            if (self.folder / _CONFIG).exists():
                raise ValueError(f"{self.folder} holds something else, not an experiment: choose another folder")
            return State()
        theirs, data, state = _split(path)
        check_same(ours, theirs, self.folder)
        if data != json.loads(json.dumps(self.data.identity)):
            raise ValueError(f"{self.folder} holds an experiment of other data, files or settings of {self.data.name}")
        return state


def config_of(folder: Path) -> WidthSearchConfig:
    """The configuration of the experiment in a folder; raises ValueError where there is none."""
    path = folder / _STATE
    if not path.exists():
        raise ValueError(f"{folder} holds no experiment of `ckrm search`: {_STATE} is missing")
    theirs, _, _ = _split(path)
    theirs.pop("version", None)
    return typed(WidthSearchConfig, theirs, str(path))


def _split(path: Path) -> tuple[dict, Any, State]:
    """The configuration and the data's identity, as JSON, and the state that the file holds."""
    value = read_json(path)
    if not isinstance(value, dict) or not isinstance(value.get("config"), dict):
        raise ValueError(f"{path} is not the state of an experiment; choose another folder")
    return value.pop("config"), value.pop("data", None), typed(State, value, str(path))
