"""One training run: the loop, its metrics, its checkpoint, and several runs side by side."""

from ckrm_kernels.training.checkpoint import Run, load_run, save_run
from ckrm_kernels.training.evaluation import Score, evaluate
from ckrm_kernels.training.loop import Epoch, TrainingConfig, train

__all__ = ["Epoch", "Run", "Score", "TrainingConfig", "evaluate", "load_run", "save_run", "train"]
