"""One training run: the loop, its metrics, its checkpoint, and several runs side by side."""

from ckrm_kernels.training.config import Runtime, TrainingConfig
from ckrm_kernels.training.evaluation import Score, evaluate
from ckrm_kernels.training.history import Epoch, Resumed, Step
from ckrm_kernels.training.loop import train
from ckrm_kernels.training.presets import PRESETS
from ckrm_kernels.training.run_files import Run, UnfinishedRun, load_run, save_run
from ckrm_kernels.training.saliency import SaliencyScore, saliency_scores
from ckrm_kernels.training.trained import TrainedNetwork, load
from ckrm_kernels.training.transform import Transform

__all__ = [
    "PRESETS",
    "Epoch",
    "Resumed",
    "Run",
    "Runtime",
    "SaliencyScore",
    "Score",
    "Step",
    "TrainedNetwork",
    "TrainingConfig",
    "Transform",
    "UnfinishedRun",
    "evaluate",
    "load",
    "load_run",
    "saliency_scores",
    "save_run",
    "train",
]
