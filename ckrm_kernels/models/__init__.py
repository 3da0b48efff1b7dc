"""Networks of configurable widths."""

from ckrm_kernels.models.counts import count_multiply_adds, count_parameters
from ckrm_kernels.models.ggcam import GGCAM, CAMHead, GazeLoss, localization_hits
from ckrm_kernels.models.resnet import ResNet, ResNetShape, resnet_shape
from ckrm_kernels.models.zoo import NETWORKS, Network, network_shape

__all__ = [
    "GGCAM",
    "NETWORKS",
    "CAMHead",
    "GazeLoss",
    "Network",
    "ResNet",
    "ResNetShape",
    "count_multiply_adds",
    "count_parameters",
    "localization_hits",
    "network_shape",
    "resnet_shape",
]
