"""The yardstick that keeps weights: the trained standard networks shrunk, as they are and after an epoch of tuning."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

from torch import nn

from ckrm_kernels.shrinking.plan import plan_shrink
from ckrm_kernels.shrinking.saved import PLAN, load_shrunk, save_shrunk
from ckrm_kernels.shrinking.trained_runs import example_inputs
from ckrm_kernels.storage.run_folders import seed_folder
from ckrm_kernels.training import TrainingConfig
from ckrm_kernels.training.loop import train
from ckrm_kernels.training.workers import Job, seeded
from ckrm_kernels.width_search.networks import Networks
from ckrm_kernels.width_search.widths_by_error import calibration_images

SHRUNK, TUNED = "shrunk", "tuned"
"""Names of the two networks and of their folders, which hold one for each seed that `load_shrunk` reads."""

_RATE = 0.1  # of the learning rate that the standard network was trained with


def tuning(training: TrainingConfig) -> TrainingConfig:
    """How a shrunk network is tuned: as the standard one was trained, for one epoch at a tenth of its learning rate."""
    rate = _RATE * training.learning_rate
    return replace(training, epochs=1, learning_rate=rate, early_stop=None, warmup_epochs=0)


def finished_seeds(networks: Networks) -> int:
    """From how many seeds the networks are finished."""
    return sum((_folder(networks, TUNED, seed) / PLAN).exists() for seed in range(networks.config.final_seeds))


def shrink_standard(networks: Networks, job: Job) -> None:
    """Shrinks the trained standard network of a job, and tunes what is left; both are written, unless they are there.

    To the rule's share of the parameters, on the same calibration as its widths were found on.
    """
    if (_folder(networks, TUNED, job.seed) / PLAN).exists():
        return
    rule, images = networks.config.rule, calibration_images(networks.data.train)
    with seeded(job.runtime, job.seed):
        model = job.trained()
        plan = plan_shrink(
            model,
            example_inputs(model, images[:2]),
            calibration=images,
            parameters=rule.parameters,
            round_to=rule.multiple,
            minimum=rule.minimum,
        )
        small = plan.apply()
        save_shrunk(_folder(networks, SHRUNK, job.seed), plan, small)
        tuned = copy.deepcopy(small).to(job.runtime.torch_device())
        train(
            tuned,
            networks.data,
            tuning(networks.config.training),
            job.seed,
            loss=job.network.loss,
            runtime=replace(job.runtime, data_parallel=False),
        )
        save_shrunk(_folder(networks, TUNED, job.seed), plan, tuned.cpu())


def shrunk_network(networks: Networks, name: str, job: Job) -> nn.Module:
    """The finished network of a job's seed. name: `SHRUNK` or `TUNED`"""
    return load_shrunk(job.network.build, _folder(networks, name, job.seed))


def _folder(networks: Networks, name: str, seed: int) -> Path:
    return seed_folder(networks.folder / name, seed)
