"""The whole experiment in a folder: search for widths, then compare on held-out data. It can be killed at any moment.

Every training run is in its own folder and every finished phase in one state file, so that a second start goes on from
there and ends with the same result.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from ckrm_kernels.comparison.candidates import Candidate
from ckrm_kernels.data.summary import DataSummary
from ckrm_kernels.distributed import team
from ckrm_kernels.storage.run_folders import finished_seeds
from ckrm_kernels.training import Runtime
from ckrm_kernels.training.progress import Display
from ckrm_kernels.training.runs import adapted_to, loaded
from ckrm_kernels.training.workers import Workers
from ckrm_kernels.width_search import comparison_phase
from ckrm_kernels.width_search.compared import Compared, networks_compared
from ckrm_kernels.width_search.comparison_phase import make_and_evaluate, still_valid, time_networks
from ckrm_kernels.width_search.config import WidthSearchConfig
from ckrm_kernels.width_search.networks import Networks
from ckrm_kernels.width_search.rounds import done_in_words, run_round, show_round
from ckrm_kernels.width_search.search import Outcome
from ckrm_kernels.width_search.sessions import session_now
from ckrm_kernels.width_search.state import StateFile, config_of, summary_of


class Experiment:
    """The experiment of one configuration in one folder.

    summary: of the data, where it is not to be read because the experiment is only reported
    Raises ValueError where the folder holds an experiment of another configuration, or of other data.
    """

    def __init__(
        self,
        folder: Path,
        config: WidthSearchConfig,
        runtime: Runtime,
        display: Display,
        summary: DataSummary | None = None,
    ) -> None:
        self.folder, self.display = folder, display
        self.config, data = config, None
        if summary is None:
            data = loaded(config.data, display)
            self.config, summary = adapted_to(config, data), DataSummary.of(data)
        self.summary = summary
        self.search = self.config.search()
        self.networks = Networks(folder / "networks", self.config, self.summary, data, runtime, display)
        self.state_file = StateFile(folder, self.config, self.summary)
        self.state = self.state_file.load()

    @classmethod
    def stored(cls, folder: Path, display: Display) -> Experiment:
        """The experiment in a folder, for what needs no data; raises ValueError where there is none."""
        config, summary = config_of(folder), summary_of(folder)
        return cls(folder, config, Runtime(), display, summary)

    @property
    def outcome(self) -> Outcome:
        """How the finished search ended."""
        return self.search.outcome(self.state.rounds)

    @property
    def folders(self) -> dict[str, str]:
        """For each of the networks compared, by name, the folder of its runs, relative to the experiment's."""
        paths = {each.name: each.folder(self.networks) for each in self.compared}
        kept = {name: path for name, path in paths.items() if finished_seeds(path)}  # earlier versions kept other files
        return {name: path.relative_to(self.folder).as_posix() for name, path in kept.items()}

    @property
    def compared(self) -> list[Compared]:
        """The networks that the finished search leaves to compare; where they have been compared, those that were."""
        return self._to_compare[: len(self.state.candidates)] if self.finished else self._to_compare

    @cached_property
    def _to_compare(self) -> list[Compared]:
        """To be asked for once the search is finished."""
        shape, rounds, image = self.config.network, self.state.rounds, self.summary.image_shape
        return networks_compared(shape, rounds, self.outcome, self.config.rule, image)

    @property
    def finished(self) -> bool:
        """Whether every phase is done; also where an earlier version did, which compared fewer networks."""
        if not self.state.latencies or self.search.next_widths(self.state.rounds) is not None:
            return False
        return self._valid_candidates() == self.state.candidates

    def _valid_candidates(self) -> list[Candidate]:
        return still_valid(self.state.candidates, self._to_compare, self.config.final_seeds)

    def run(self, processes: int) -> None:
        """Does what is not done yet, with so many networks trained side by side; the result does not depend on it."""
        changes = self.state_file.changes()
        if self.finished and not changes:
            return
        if not self.state.rounds:
            self.networks.check_budget()
        self._show_what_is_done(changes)
        self.state.sessions.append(session_now(len(self.state.rounds), changes, self.networks.runtime))
        self.state_file.save(self.state)
        self.state_file.save_config()
        with Workers(processes) as workers:
            self._search(workers, processes * team().size)
            self._compare(workers)
        if not self.state.latencies:
            self.state.latencies = time_networks(self.networks, self.compared)
        self.state_file.save(self.state)

    def _show_what_is_done(self, changes: Mapping[str, tuple[Any, Any]]) -> None:
        """Where the work goes on, from where; nothing where it begins."""
        if not self.state.sessions:
            return
        rounds = self.state.rounds
        done = (
            comparison_phase.done_in_words(self.networks, self.compared, len(self._valid_candidates()))
            if self.search.next_widths(rounds) is None
            else done_in_words(self.networks, self.search, rounds)
        )
        self.display.phase(f"Going on in {self.folder}: {done}")
        for name, (before, after) in changes.items():
            self.display.print_line(f"{name}: {after}, was {before}")

    def _search(self, workers: Workers, side_by_side: int) -> None:
        rounds, begun = self.state.rounds, len(self.state.rounds)
        while (widths := self.search.next_widths(rounds)) is not None:
            forecast = side_by_side if len(rounds) == begun else None
            rounds.append(run_round(self.networks, workers, self.search, rounds, widths, forecast))
            self.state.latencies = []  # of networks that the search may not end with any more
            self.state_file.save(self.state)
            show_round(self.search, rounds, self.config.similarity, self.display)

    def _compare(self, workers: Workers) -> None:
        valid = self._valid_candidates()
        if len(valid) < len(self.compared):
            self.state.candidates, self.state.latencies = valid, []
        for each in self.compared[len(valid) :]:
            self.state.candidates.append(make_and_evaluate(self.networks, workers, each))
            self.state_file.save(self.state)
