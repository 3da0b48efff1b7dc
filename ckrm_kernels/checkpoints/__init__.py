"""From a checkpoint's files to the layers in it. Nothing in a file runs, and no state of the process changes."""

from ckrm_kernels.checkpoints.reading import Checkpoint, read_checkpoints, read_model
from ckrm_kernels.checkpoints.stored import CheckpointError

__all__ = ["Checkpoint", "CheckpointError", "read_checkpoints", "read_model"]
