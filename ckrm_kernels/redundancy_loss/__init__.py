"""A penalty to train with: filters pushed apart, or pulled together so that they can be merged."""

from ckrm_kernels.redundancy_loss.loss import RedundancyLoss

__all__ = ["RedundancyLoss"]
