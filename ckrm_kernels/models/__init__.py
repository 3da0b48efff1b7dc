"""Networks of configurable widths."""

from ckrm_kernels.models.counts import count_multiply_adds, count_parameters
from ckrm_kernels.models.resnet import ResNet, ResNetShape

__all__ = ["ResNet", "ResNetShape", "count_multiply_adds", "count_parameters"]
