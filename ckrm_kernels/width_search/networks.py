"""The networks that an experiment trains: their runs, each in a folder of its own, and what is measured of them."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ckrm_kernels.comparison.measured_layers import MeasuredLayer, measure_networks
from ckrm_kernels.comparison.saliency_examples import (
    SaliencyExamples,
    first_of_each_class,
    load_examples,
    saliency_examples,
    save_examples,
)
from ckrm_kernels.data import Dataset
from ckrm_kernels.data.summary import DataSummary
from ckrm_kernels.models import Network, predicts_saliency
from ckrm_kernels.presentation.numbers import counted
from ckrm_kernels.shrinking.trained_runs import some_images
from ckrm_kernels.storage.files import read_json
from ckrm_kernels.storage.run_folders import RECORD
from ckrm_kernels.training import Runtime
from ckrm_kernels.training.progress import Display
from ckrm_kernels.training.run_files import Run
from ckrm_kernels.training.runs import jobs_of, run_with_bars
from ckrm_kernels.training.workers import Job, OnEvent, Workers, seeded
from ckrm_kernels.width_search.config import WidthSearchConfig
from ckrm_kernels.width_search.widths_by_error import CALIBRATION, check_reachable, widths_by_error

_EXAMPLES = "saliency.safetensors"  # in the experiment's folder


@dataclass(frozen=True)
class Networks:
    """What trains and measures the networks of one experiment.

    folder: of all runs
    summary: of the data that `config` loads; dataset: that data, None where nothing is left to train or to score
    """

    folder: Path
    config: WidthSearchConfig
    summary: DataSummary
    dataset: Dataset | None
    runtime: Runtime
    display: Display

    @property
    def data(self) -> Dataset:
        """What the networks are trained and scored on."""
        if self.dataset is None:
            raise RuntimeError("the data of a finished search is not read")
        return self.dataset

    def jobs(self, name: str, shape: Network) -> list[Job]:
        """The runs of a shape from all seeds of the comparison, of which a round takes the first. name: the folder's"""
        seeds = range(self.config.final_seeds)
        return jobs_of(self.config, self.summary.identity, shape, seeds, self.folder_of(name, shape), self.runtime)

    def folder_of(self, name: str, shape: Network) -> Path:
        """The folder of that name, or where it holds a finished network of another shape, the next with a number.

        Settings that have changed since may ask for other widths than those trained under that name.
        """
        others = (self.folder / f"{name}-{number}" for number in itertools.count(2))
        return next(each for each in itertools.chain([self.folder / name], others) if _is_free(each, shape))

    def train(self, workers: Workers, jobs: Sequence[Job], watch: OnEvent | None = None) -> list[Run]:
        """The finished runs, with a bar for each. watch: called with every event of the trainings"""
        return run_with_bars(workers, jobs, self.display, watch)

    def measure(self, models: Sequence[nn.Module]) -> tuple[MeasuredLayer, ...]:
        """The layers of trained networks."""
        return measure_networks(models, self.config.threshold, self.config.similarity)

    def check_budget(self) -> None:
        """Raises ValueError where the rule goes by error and its budget can't be reached, before any is trained."""
        rule = self.config.rule
        if rule.by == "error":
            with seeded(Runtime(device="cpu"), 0):
                model = self.config.network.build().eval()
                check_reachable(
                    model, self.calibration(), rule.parameters, multiple=rule.multiple, minimum=rule.minimum
                )

    def kept_by_error(self, models: Sequence[nn.Module]) -> dict[str, int]:
        """By width, how many filters shrinking trained standard networks keeps; none where the rule is another."""
        rule = self.config.rule
        if rule.by != "error":
            return {}
        what = (
            f"the widths that {counted(len(models), 'network')} keep, shrunk to {rule.parameters:.0%} of the parameters"
        )
        self.display.print_line(f"finding {what}")
        return widths_by_error(
            models,
            self.config.network,
            self.calibration(),
            rule.parameters,
            multiple=rule.multiple,
            minimum=rule.minimum,
        )

    def calibration(self) -> Tensor:
        """(N, C, H, W): images of the training part, always the same ones, that shrinking is calibrated with."""
        return some_images(self.data.train, CALIBRATION)

    def saliency_examples(self) -> SaliencyExamples | None:
        """Those that `keep_saliency_examples` kept, None where there are none."""
        return load_examples(self.folder.parent / _EXAMPLES)

    def keep_saliency_examples(self, models: Mapping[str, nn.Module]) -> None:
        """Keeps some held-out images as the networks, by name, see them, for a report that has no data."""
        part, path = self.data.held_out, self.folder.parent / _EXAMPLES
        if part.gaze is not None and all(map(predicts_saliency, models.values())):
            save_examples(path, saliency_examples(models, part, first_of_each_class(part)))

    @property
    def seconds(self) -> float:
        """Time spent training, summed over all networks."""
        return sum(self.seconds_of_runs)

    @property
    def seconds_of_runs(self) -> list[float]:
        """Time that each finished training took, of a resumed one since its last start."""
        records = [read_json(path) for path in sorted(self.folder.glob(f"*/*/{RECORD}"))]
        return [record["seconds"] for record in records if record["history"]]  # what was only shrunk has none


def _is_free(folder: Path, shape: Any) -> bool:
    """Whether the folder holds no finished network of another shape."""
    record = next(folder.glob(f"*/{RECORD}"), None)
    return record is None or read_json(record)["identity"]["network"] == json.loads(json.dumps(asdict(shape)))
