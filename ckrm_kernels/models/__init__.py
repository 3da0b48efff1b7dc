"""Networks of configurable widths."""

from ckrm_kernels.models.counts import count_multiply_adds, count_parameters, without_memory
from ckrm_kernels.models.ggcam import GGCAM, CAMHead, GazeLoss, localization_hits
from ckrm_kernels.models.kinds import AnyNetwork, network_of
from ckrm_kernels.models.mt_unet import MTUNet, MTUNetShape, MultiTaskLoss, mt_unet_shape
from ckrm_kernels.models.network import ClassMaps, Network, SaliencyMaps, WidthTies, predicts_saliency, whole_pass
from ckrm_kernels.models.resnet import ResNet, ResNetShape, resnet_shape
from ckrm_kernels.models.three_convolutions import SkippableConvolutions, ThreeConvolutions
from ckrm_kernels.models.vgnet import VGNet, VGNetShape, vgnet_shape
from ckrm_kernels.models.zoo import NETWORKS, NamedNetwork, network_shape

__all__ = [
    "GGCAM",
    "NETWORKS",
    "AnyNetwork",
    "CAMHead",
    "ClassMaps",
    "GazeLoss",
    "MTUNet",
    "MTUNetShape",
    "MultiTaskLoss",
    "NamedNetwork",
    "Network",
    "ResNet",
    "ResNetShape",
    "SaliencyMaps",
    "SkippableConvolutions",
    "ThreeConvolutions",
    "VGNet",
    "VGNetShape",
    "WidthTies",
    "count_multiply_adds",
    "count_parameters",
    "localization_hits",
    "mt_unet_shape",
    "network_of",
    "network_shape",
    "predicts_saliency",
    "resnet_shape",
    "vgnet_shape",
    "whole_pass",
    "without_memory",
]
