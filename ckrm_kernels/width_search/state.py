"""The file that says what of an experiment is finished, so that a second start goes on from there."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ckrm_kernels.comparison.candidates import Candidate
from ckrm_kernels.comparison.latency import Latency
from ckrm_kernels.data.config import without_places
from ckrm_kernels.data.summary import DataSummary, check_same_data
from ckrm_kernels.distributed import team
from ckrm_kernels.storage.files import read_json, write_json
from ckrm_kernels.storage.settings import as_json, check_same, differences, typed
from ckrm_kernels.width_search.config import WidthSearchConfig
from ckrm_kernels.width_search.search import Round
from ckrm_kernels.width_search.sessions import Session

_STATE, _CONFIG = "state.json", "config.json"
_CHANGEABLE = ("margin", "most_rounds", "final_seeds", "target", "rule")
"""Settings that change no trained network: they decide how long the search goes on and what is made of a round."""


@dataclass
class State:
    """What is finished: the rounds of the search, the networks compared, and their times, which come last.

    candidates: standard first, then, where there is a narrower round, searched or narrower, and its yardsticks
    sessions: the starts of the work, the first one first
    """

    rounds: list[Round] = field(default_factory=list)
    candidates: list[Candidate] = field(default_factory=list)
    latencies: list[Latency] = field(default_factory=list)
    sessions: list[Session] = field(default_factory=list)


@dataclass(frozen=True)
class StateFile:
    """The state of the experiment of one configuration, on one data set, in one folder."""

    folder: Path
    config: WidthSearchConfig
    data: DataSummary

    def load(self) -> State:
        """The state, an empty one where there is no file; its rounds are as this configuration sees what was trained.

        Raises ValueError where the folder holds an experiment of other data, something else, or an experiment whose
        configuration differs in more than what changes no trained network.
        """
        path = self.folder / _STATE
        if not path.exists():
            if (self.folder / _CONFIG).exists():
                raise ValueError(f"{self.folder} holds something else, not an experiment: choose another folder")
            return State()
        theirs, data, state = _split(path)
        ours = without_places(as_json(self.config))
        theirs = without_places(_completed(theirs, path))
        by_error = "error" in (ours["rule"]["by"], theirs["rule"]["by"])  # what shrinking keeps is found once
        changeable = [name for name in _CHANGEABLE if not (by_error and name == "rule")]
        check_same(ours, {**theirs, **{name: ours[name] for name in changeable}}, self.folder)
        check_same_data(self.data.identity, data, self.config.data.place, f"{self.folder} holds an experiment")
        if self.changes():
            state.rounds = self._replayed(state.rounds)
        return state

    def changes(self) -> dict[str, tuple[Any, Any]]:
        """The settings in which the file's configuration differs from this one, by name, each before and after."""
        path = self.folder / _STATE
        if not path.exists():
            return {}
        theirs, _, _ = _split(path)
        return differences(without_places(_completed(theirs, path)), without_places(as_json(self.config)))

    def _replayed(self, rounds: list[Round]) -> list[Round]:
        try:
            return self.config.search().replayed(rounds)
        except ValueError as error:
            changed = ", ".join(f"{name} {before} -> {after}" for name, (before, after) in self.changes().items())
            raise ValueError(
                f"{self.folder} holds a search that these settings would not have led on the same way ({changed}): "
                f"{error}; choose another folder"
            ) from error

    def save(self, state: State) -> None:
        """Replaces the file, whole or not at all."""
        if team().is_first:
            known = {"config": as_json(self.config), "data": self.data.identity, "summary": asdict(self.data)}
            content = {**known, **asdict(state)}
            write_json(self.folder / _STATE, content)

    def save_config(self) -> None:
        """Writes the configuration alone, in the form that `--config` reads."""
        if team().is_first:
            write_json(self.folder / _CONFIG, as_json(self.config))


def summary_of(folder: Path) -> DataSummary:
    """What the experiment in a folder keeps of its data; raises ValueError where there is nothing."""
    value = read_json(folder / _STATE)
    if "summary" not in value:
        raise ValueError(
            f"{folder} holds an experiment of an earlier version of ckrm_kernels, which kept nothing of its data: make "
            "its report with that version"
        )
    return typed(DataSummary, value["summary"], str(folder / _STATE))


def config_of(folder: Path) -> WidthSearchConfig:
    """The configuration of the experiment in a folder; raises ValueError where there is none."""
    path = folder / _STATE
    if not path.exists():
        raise ValueError(f"{folder} holds no search of `ckrm search`: {_STATE} is missing")
    theirs, _, _ = _split(path)
    theirs.pop("version", None)
    return typed(WidthSearchConfig, theirs, str(path))


def _completed(config: dict[str, Any], path: Path) -> dict[str, Any]:
    """A file's configuration, as JSON, with the defaults of settings that came later."""
    settings = {name: value for name, value in config.items() if name != "version"}
    return {**as_json(typed(WidthSearchConfig, settings, str(path))), "version": config.get("version")}


def _split(path: Path) -> tuple[dict, Any, State]:
    """The configuration and the data's identity, as JSON, and the state that the file holds."""
    value = read_json(path)
    if not isinstance(value, dict) or not isinstance(value.get("config"), dict):
        raise ValueError(f"{path} is not the state of an experiment; choose another folder")
    value.pop("summary", None)
    return value.pop("config"), value.pop("data", {}), typed(State, value, str(path))
