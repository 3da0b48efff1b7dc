"""Networks of configurable widths."""

from ckrm_kernels.models.counts import count_multiply_adds, count_parameters, without_memory
from ckrm_kernels.models.ggcam import GGCAM, CAMHead, GazeLoss, localization_hits
from ckrm_kernels.models.kinds import AnyNetwork, network_of
from ckrm_kernels.models.network import ClassMaps, Network, WidthTies
from ckrm_kernels.models.resnet import ResNet, ResNetShape, resnet_shape
from ckrm_kernels.models.three_convolutions import SkippableConvolutions, ThreeConvolutions
from ckrm_kernels.models.zoo import NETWORKS, NamedNetwork, network_shape

__all__ = [
    "GGCAM",
    "NETWORKS",
    "AnyNetwork",
    "CAMHead",
    "ClassMaps",
    "GazeLoss",
    "NamedNetwork",
    "Network",
    "ResNet",
    "ResNetShape",
    "SkippableConvolutions",
    "ThreeConvolutions",
    "WidthTies",
    "count_multiply_adds",
    "count_parameters",
    "localization_hits",
    "network_of",
    "network_shape",
    "resnet_shape",
    "without_memory",
]
