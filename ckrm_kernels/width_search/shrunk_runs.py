"""Trained networks shrunk and folded, each kept as a run: its weights and its record are there together, or not."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ckrm_kernels.data import Dataset
from ckrm_kernels.models.kinds import described_network
from ckrm_kernels.shrinking.surgery import kept_indices
from ckrm_kernels.storage.files import read_json, sha256_of
from ckrm_kernels.storage.run_folders import RECORD, WEIGHTS
from ckrm_kernels.training import TrainingConfig
from ckrm_kernels.training.run_files import Run, load_run, load_weights, save_run
from ckrm_kernels.training.trained import metadata_of
from ckrm_kernels.training.workers import Job, seeded
from ckrm_kernels.width_search.config import RuleConfig
from ckrm_kernels.width_search.shrunk_network import ShrunkNetwork
from ckrm_kernels.width_search.widths_by_error import plan_by_error

TUNING_EPOCHS = 1
TUNING_SHARE = 0.1  # of the training's own learning rate


def tuning(training: TrainingConfig) -> TrainingConfig:
    """One epoch of the same training at a tenth of its learning rate, falling to 0 by a cosine."""
    rate = TUNING_SHARE * training.learning_rate
    return replace(
        training, epochs=TUNING_EPOCHS, learning_rate=rate, schedule="cosine", warmup_epochs=0, early_stop=None
    )


@dataclass(frozen=True)
class ShrunkRun:
    """What shrinking makes of one trained network.

    standard: the finished run of that network; folder: where the small one is written; rule: the budget
    """

    standard: Job
    folder: Path
    rule: RuleConfig

    def finished(self) -> Run | None:
        """The finished run in the folder, or None where there is none of this network and budget."""
        if not (self.folder / RECORD).exists():
            return None
        identity = read_json(self.folder / RECORD)["identity"]
        return load_run(self.folder, {"network": identity.get("network"), **self._origin})

    def make(self, images: Tensor, data: Dataset) -> None:
        """Shrinks and folds, unless that is done. images: (N, C, H, W), for calibration; data: trained on"""
        if self.finished() is not None:
            return
        started = time.perf_counter()
        model = self.standard.trained()
        with seeded(self.standard.runtime, self.standard.seed):
            options = {"multiple": self.rule.multiple, "minimum": self.rule.minimum}
            plan = plan_by_error(model, images, self.rule.parameters, **options)
            small = plan.apply()
        network = ShrunkNetwork.of(self.standard.network, kept_indices(plan.graph, plan.removed, model))
        described = Job.identity(replace(self.standard, network=network))["network"]
        run = Run({"network": described, **self._origin}, (), time.perf_counter() - started)
        save_run(self.folder, small, run, metadata_of(described, data, self.standard.seed))

    def trained(self) -> nn.Module:
        """The small network."""
        model = self.network.build()
        load_weights(self.folder, model)
        return model

    @property
    def network(self) -> ShrunkNetwork:
        """The description of the finished run's network."""
        found: ShrunkNetwork = described_network(
            read_json(self.folder / RECORD)["identity"]["network"], str(self.folder)
        )
        return found

    def tuned(self, folder: Path) -> Job:
        """The training that goes on from the small network, which must be there. folder: of the tuned one"""
        config = tuning(self.standard.config)
        return replace(self.standard, network=self.network, config=config, folder=folder, start=self.folder)

    @cached_property
    def _origin(self) -> dict[str, Any]:
        """What decides the small network, beside its description, as JSON."""
        standard = self.standard.identity()
        shrunk = {"weights": sha256_of(self.standard.folder / WEIGHTS)[0], "rule": asdict(self.rule)}
        return {**{name: standard[name] for name in ("data", "training", "seed")}, "shrunk": shrunk}
