"""The networks that a finished search compares: each has a name, and says how its runs come about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

from torch import nn

from ckrm_kernels.comparison.tables import listed
from ckrm_kernels.distributed import team
from ckrm_kernels.models import Network
from ckrm_kernels.presentation.numbers import counted
from ckrm_kernels.training.run_files import Run
from ckrm_kernels.training.workers import Job, Workers
from ckrm_kernels.width_search.config import RuleConfig
from ckrm_kernels.width_search.narrowing import multiply_adds_of, narrowed_alike, parameters_of
from ckrm_kernels.width_search.networks import Networks
from ckrm_kernels.width_search.rounds import round_folder
from ckrm_kernels.width_search.search import Outcome, Round
from ckrm_kernels.width_search.shrunk_runs import TUNING_EPOCHS, ShrunkRun


class KeptRun(Protocol):
    """The run of one seed, finished or not."""

    @property
    def folder(self) -> Path:
        """Where it is kept."""

    def finished(self) -> Run | None:
        """Its record, None where it is not finished."""

    def trained(self) -> nn.Module:
        """The network of the finished run."""


class Compared(Protocol):
    """One of the networks compared, by its name as a `Candidate`."""

    @property
    def name(self) -> str:
        """Different from those of the others."""

    @property
    def widths(self) -> Mapping[str, int]:
        """Empty where the network of each seed has its own."""

    def in_words(self) -> str:
        """How it comes about, or its size."""

    def folder(self, networks: Networks) -> Path:
        """The folder of its runs."""

    def runs(self, networks: Networks) -> Sequence[KeptRun]:
        """Those of all seeds of the comparison; those that it begins with must be finished."""

    def make(self, networks: Networks, workers: Workers) -> None:
        """Does what is not done yet of its runs; one that was cut short ends as an unbroken one."""


@dataclass(frozen=True)
class FromScratch:
    """A network trained from scratch. stem: of its folder's name; shape: its description"""

    name: str
    stem: str
    shape: Network

    @property
    def widths(self) -> dict[str, int]:
        """Of its description."""
        return self.shape.widths()

    def in_words(self) -> str:
        """Its widths and parameters."""
        return f"{listed(self.widths)}, {parameters_of(self.shape):,} parameters"

    def folder(self, networks: Networks) -> Path:
        """The folder of its runs."""
        return networks.folder_of(self.stem, self.shape)

    def runs(self, networks: Networks) -> list[Job]:
        """A training for each seed."""
        return networks.jobs(self.stem, self.shape)

    def make(self, networks: Networks, workers: Workers) -> None:
        """Does what is not done yet of its runs."""
        networks.train(workers, self.runs(networks))


@dataclass(frozen=True)
class Shrunk:
    """The standard network of each seed, shrunk to the rule's budget and folded, without training."""

    standard: FromScratch
    rule: RuleConfig
    name: str = field(default="shrunk", init=False)
    widths: Mapping[str, int] = field(default_factory=dict, init=False)

    def in_words(self) -> str:
        """How it comes about."""
        return f"the standard ones cut to {self.rule.parameters:.0%} of their parameters and refitted"

    def folder(self, networks: Networks) -> Path:
        """The folder of its runs."""
        return networks.folder / self.name

    def runs(self, networks: Networks) -> list[ShrunkRun]:
        """A shrinking for each seed."""
        folder = self.folder(networks)
        return [ShrunkRun(job, folder / job.folder.name, self.rule) for job in self.standard.runs(networks)]

    def make(self, networks: Networks, workers: Workers) -> None:
        """Does what is not done yet of its runs."""

        def shrink_all() -> None:
            images = networks.calibration()
            for run in self.runs(networks):
                run.make(images, networks.data)

        team().of_first(shrink_all)


@dataclass(frozen=True)
class Tuned:
    """The shrunk network of each seed, trained a little further."""

    shrunk: Shrunk
    name: str = field(default="tuned", init=False)
    widths: Mapping[str, int] = field(default_factory=dict, init=False)

    def in_words(self) -> str:
        """How it comes about."""
        return f"the shrunk ones trained for {counted(TUNING_EPOCHS, 'epoch')} more"

    def folder(self, networks: Networks) -> Path:
        """The folder of its runs."""
        return networks.folder / self.name

    def runs(self, networks: Networks) -> list[Job]:
        """A training for each seed."""
        folder = self.folder(networks)
        return [run.tuned(folder / run.folder.name) for run in self.shrunk.runs(networks)]

    def make(self, networks: Networks, workers: Workers) -> None:
        """Does what is not done yet of its runs."""
        networks.train(workers, self.runs(networks))


def networks_compared(
    standard: Network, rounds: Sequence[Round], outcome: Outcome, rule: RuleConfig, image_shape: Sequence[int]
) -> list[Compared]:
    """The standard network and, where there is a narrower one to compare, that and its yardsticks.

    rule: of the search; one by error is compared with more, since it claims more
    image_shape: (channels, height, width), for which multiply-adds are counted
    """
    whole = FromScratch("standard", round_folder(0), standard)
    if not outcome.compared:
        return [whole]
    narrowed = standard.with_widths(rounds[outcome.compared].widths)
    name = "searched" if outcome.chosen else "narrower"
    uniform = narrowed_alike(standard, parameters_of(narrowed))
    found: list[Compared] = [
        whole,
        FromScratch(name, round_folder(outcome.compared), narrowed),
        FromScratch("uniform", "uniform", uniform),
    ]
    if rule.by == "error":
        size_of = partial(multiply_adds_of, image_shape=image_shape)
        as_fast = narrowed_alike(standard, size_of(narrowed), size_of)
        shrunk = Shrunk(whole, rule)
        found += [FromScratch("uniform-macs", "uniform-macs", as_fast), shrunk, Tuned(shrunk)]
    return found
