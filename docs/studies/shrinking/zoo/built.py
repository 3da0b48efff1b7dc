"""Known architectures, narrow and untrained: transformers' by their configurations, MONAI's, and this package's own."""

from __future__ import annotations

import importlib
from collections.abc import Callable

import torch
from torch import Tensor, nn

Built = tuple[nn.Module, tuple[Tensor, ...]]


class Logits(nn.Module):
    """A transformers model that returns its logits (or the first of its outputs) as a tensor."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """The logits of images, sounds or tokens."""
        return self.model(x, return_dict=True)[0]


class Reconstruction(nn.Module):
    """An autoencoder by its mean code, without the random one that its forward draws."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """The decoded mean code of x."""
        return self.model.reconstruct(x)


def from_configuration(model: str, *shape: int, tokens: bool = False, **options: object) -> Callable[[], Built]:
    """A constructor of a transformers class; shape: of the example input."""

    def build() -> Built:
        transformers = importlib.import_module("transformers")
        kind = getattr(transformers, model)
        configuration = kind.config_class(**options)
        inputs = torch.randint(0, 50, shape) if tokens else torch.randn(*shape)
        return Logits(kind(configuration)), (inputs,)

    return build


STAGES = {"hidden_sizes": [16, 24, 32, 40], "depths": [1, 1, 1, 1], "num_labels": 10}
TRANSFORMER = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "num_labels": 10,
}
PATCHES = {**TRANSFORMER, "image_size": 32, "patch_size": 8}
SWIN = {"image_size": 32, "patch_size": 2, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 4], "window_size": 4}
PYRAMID = {"hidden_sizes": [16, 16, 32, 32], "depths": [1, 1, 1, 1], "num_labels": 10}
HEADS = {"num_attention_heads": [1, 1, 2, 2]}

TRANSFORMERS = {
    "ResNet, basic": from_configuration(
        "ResNetForImageClassification", 2, 3, 32, 32, embedding_size=16, layer_type="basic", **STAGES
    ),
    "ResNet, bottleneck": from_configuration(
        "ResNetForImageClassification", 2, 3, 32, 32, embedding_size=16, layer_type="bottleneck", **STAGES
    ),
    "RegNet X": from_configuration(
        "RegNetForImageClassification", 2, 3, 32, 32, embedding_size=16, layer_type="x", groups_width=8, **STAGES
    ),
    "RegNet Y": from_configuration(
        "RegNetForImageClassification", 2, 3, 32, 32, embedding_size=16, layer_type="y", groups_width=8, **STAGES
    ),
    "BiT": from_configuration("BitForImageClassification", 2, 3, 32, 32, embedding_size=16, num_groups=4, **STAGES),
    "ConvNeXt": from_configuration("ConvNextForImageClassification", 2, 3, 64, 64, **STAGES),
    "ConvNeXt V2": from_configuration("ConvNextV2ForImageClassification", 2, 3, 64, 64, **STAGES),
    "PoolFormer": from_configuration("PoolFormerForImageClassification", 2, 3, 64, 64, **STAGES),
    "MobileNet V1": from_configuration(
        "MobileNetV1ForImageClassification", 2, 3, 32, 32, depth_multiplier=0.25, num_labels=10
    ),
    "MobileNet V2": from_configuration(
        "MobileNetV2ForImageClassification", 2, 3, 32, 32, depth_multiplier=0.25, num_labels=10
    ),
    "MobileViT": from_configuration(
        "MobileViTForImageClassification",
        *(2, 3, 64, 64),
        image_size=64,
        hidden_sizes=[16, 24, 32],
        neck_hidden_sizes=[8, 8, 16, 16, 24, 24, 32],
        num_attention_heads=2,
        num_labels=10,
    ),
    "MobileViT V2": from_configuration(
        "MobileViTV2ForImageClassification", 2, 3, 64, 64, image_size=64, width_multiplier=0.25, num_labels=10
    ),
    "EfficientNet": from_configuration(
        "EfficientNetForImageClassification",
        2,
        3,
        32,
        32,
        width_coefficient=0.25,
        depth_coefficient=0.5,
        hidden_dim=320,
        num_labels=10,
    ),
    "HGNet V2": from_configuration(
        "HGNetV2ForImageClassification",
        *(2, 3, 32, 32),
        stem_channels=[3, 8, 16],
        stage_in_channels=[16, 32, 48, 64],
        stage_mid_channels=[8, 8, 16, 16],
        stage_out_channels=[32, 48, 64, 2048],
        stage_num_blocks=[1, 1, 1, 1],
        stage_numb_of_layers=[2, 2, 2, 2],
        hidden_sizes=[32, 48, 64, 2048],
        num_labels=10,
    ),
    "PP-LCNet": from_configuration("PPLCNetForImageClassification", 2, 3, 32, 32, scale=0.25, num_labels=10),
    "FocalNet": from_configuration(
        "FocalNetForImageClassification", 2, 3, 32, 32, image_size=32, embed_dim=16, depths=[1, 1, 1, 1], num_labels=10
    ),
    "SwiftFormer": from_configuration(
        "SwiftFormerForImageClassification",
        *(2, 3, 64, 64),
        image_size=64,
        depths=[1, 1, 1, 1],
        embed_dims=[16, 16, 24, 32],
        num_labels=10,
    ),
    "SegFormer": from_configuration(
        "SegformerForSemanticSegmentation", 2, 3, 64, 64, decoder_hidden_size=16, **HEADS, **PYRAMID
    ),
    "PVT": from_configuration("PvtForImageClassification", 2, 3, 64, 64, image_size=64, **HEADS, **PYRAMID),
    "PVT V2": from_configuration("PvtV2ForImageClassification", 2, 3, 64, 64, image_size=64, **HEADS, **PYRAMID),
    "CvT": from_configuration(
        "CvtForImageClassification",
        2,
        3,
        32,
        32,
        embed_dim=[16, 24, 32],
        num_heads=[1, 2, 2],
        depth=[1, 2, 3],
        num_labels=10,
    ),
    "LeViT": from_configuration(
        "LevitForImageClassification",
        *(2, 3, 64, 64),
        image_size=64,
        hidden_sizes=[16, 24, 32],
        num_attention_heads=[2, 2, 2],
        depths=[1, 1, 1],
        key_dim=[8, 8, 8],
        num_labels=10,
    ),
    "Swin": from_configuration("SwinForImageClassification", 2, 3, 32, 32, num_labels=10, **SWIN),
    "Swin V2": from_configuration("Swinv2ForImageClassification", 2, 3, 32, 32, num_labels=10, **SWIN),
    "ViT": from_configuration("ViTForImageClassification", 2, 3, 32, 32, **PATCHES),
    "DeiT": from_configuration("DeiTForImageClassification", 2, 3, 32, 32, **PATCHES),
    "DINOv2": from_configuration("Dinov2ForImageClassification", 2, 3, 32, 32, **PATCHES),
    "BEiT": from_configuration("BeitForImageClassification", 2, 3, 32, 32, **PATCHES),
    "Swin2SR": from_configuration(
        "Swin2SRForImageSuperResolution",
        *(2, 3, 16, 16),
        image_size=16,
        embed_dim=16,
        depths=[1, 1],
        num_heads=[2, 2],
        window_size=4,
    ),
    "Wav2Vec2": from_configuration(
        "Wav2Vec2ForSequenceClassification",
        *(2, 1600),
        conv_dim=[16, 16, 24],
        conv_kernel=[10, 3, 3],
        conv_stride=[5, 2, 2],
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
        classifier_proj_size=16,
        **TRANSFORMER,
    ),
    "SqueezeBERT": from_configuration(
        "SqueezeBertForSequenceClassification",
        *(2, 12),
        tokens=True,
        embedding_size=32,
        vocab_size=50,
        **{f"{name}_groups": 2 for name in ("q", "k", "v", "intermediate", "output")},
        **TRANSFORMER,
    ),
}


def of_monai(name: str, *shape: int, within: type | None = None, **options: object) -> Callable[[], Built]:
    """A constructor of a MONAI network; shape: of the example input; within: a module that runs it."""

    def build() -> Built:
        nets = importlib.import_module("monai.networks.nets")
        network = getattr(nets, name)(**options)
        return within(network) if within else network, (torch.randn(*shape),)

    return build


FLAT = {"spatial_dims": 2, "in_channels": 1, "out_channels": 2}
CUBE = {"spatial_dims": 3, "in_channels": 1, "out_channels": 2}
DYNAMIC = {"kernel_size": [3, 3, 3], "strides": [1, 2, 2], "upsample_kernel_size": [2, 2], "filters": [8, 16, 24]}

MONAI = {
    "U-Net, 2-D": of_monai("UNet", 2, 1, 32, 32, channels=(8, 16, 24), strides=(2, 2), num_res_units=2, **FLAT),
    "U-Net, 3-D": of_monai("UNet", 2, 1, 16, 16, 16, channels=(8, 16, 24), strides=(2, 2), num_res_units=1, **CUBE),
    "U-Net, 2-D, batch norm": of_monai(
        "UNet", 2, 1, 32, 32, channels=(8, 16, 24), strides=(2, 2), norm="batch", act="relu", **FLAT
    ),
    "BasicUNet": of_monai("BasicUNet", 2, 1, 32, 32, features=(8, 8, 16, 16, 24, 8), **FLAT),
    "BasicUNet++": of_monai("BasicUNetPlusPlus", 2, 1, 32, 32, features=(8, 8, 16, 16, 24, 8), **FLAT),
    "AttentionUnet": of_monai("AttentionUnet", 2, 1, 32, 32, channels=(8, 16, 24), strides=(2, 2), **FLAT),
    "DynUNet": of_monai("DynUNet", 2, 1, 16, 16, 16, **DYNAMIC, **CUBE),
    "DynUNet, residual": of_monai("DynUNet", 2, 1, 32, 32, res_block=True, **DYNAMIC, **FLAT),
    "SegResNet": of_monai("SegResNet", 2, 1, 32, 32, init_filters=8, blocks_down=(1, 1, 1), blocks_up=(1, 1), **FLAT),
    "V-Net": of_monai("VNet", 2, 1, 32, 32, spatial_dims=2, in_channels=1, out_channels=2),
    "HighResNet": of_monai("HighResNet", 2, 1, 16, 16, 16, **CUBE),
    "FlexibleUNet": of_monai(
        "FlexibleUNet",
        *(2, 3, 32, 32),
        in_channels=3,
        out_channels=2,
        backbone="resnet18",
        decoder_channels=(32, 24, 16, 12, 8),
    ),
    "MedNeXt": of_monai("MedNeXt", 2, 1, 16, 16, 16, init_filters=8, blocks_down=(1, 1), blocks_up=(1, 1), **CUBE),
    "DenseNet": of_monai("DenseNet", 2, 1, 32, 32, init_features=16, growth_rate=8, block_config=(2, 3, 2), **FLAT),
    "ResNet, 3-D": of_monai(
        "ResNet",
        *(2, 1, 16, 16, 16),
        block="bottleneck",
        layers=[1, 1, 1, 1],
        block_inplanes=[8, 16, 24, 32],
        n_input_channels=1,
        num_classes=10,
    ),
    "SEResNet50": of_monai("SEResNet50", 2, 3, 32, 32, spatial_dims=2, in_channels=3, num_classes=10),
    "SEResNext50": of_monai(
        "SENet",
        *(2, 3, 32, 32),
        spatial_dims=2,
        in_channels=3,
        block="se_resnetxt_bottleneck",
        layers=[1, 1, 1, 1],
        groups=32,
        reduction=16,
        num_classes=10,
    ),
    "EfficientNet-B0": of_monai(
        "EfficientNetBN", 2, 3, 32, 32, model_name="efficientnet-b0", pretrained=False, num_classes=10
    ),
    "AutoEncoder": of_monai("AutoEncoder", 2, 1, 32, 32, channels=(8, 16, 24), strides=(2, 2, 2), **FLAT),
    "QuickNAT": of_monai("Quicknat", 2, 1, 32, 32, num_classes=3, num_channels=1, num_filters=16),
    "Discriminator": of_monai("Discriminator", 2, 1, 32, 32, in_shape=(1, 32, 32), channels=(8, 16), strides=(2, 2)),
    "PatchGAN": of_monai("PatchDiscriminator", 2, 1, 32, 32, num_layers_d=2, channels=8, **FLAT),
    "AutoencoderKL": of_monai(
        "AutoencoderKL",
        *(2, 1, 16, 16),
        spatial_dims=2,
        channels=(8, 16),
        num_res_blocks=(1, 1),
        attention_levels=(False, True),
        latent_channels=4,
        norm_num_groups=4,
        within=Reconstruction,
    ),
    "ViT, MONAI": of_monai(
        "ViT",
        *(2, 1, 32, 32),
        in_channels=1,
        img_size=(32, 32),
        patch_size=(8, 8),
        hidden_size=32,
        mlp_dim=64,
        num_layers=2,
        num_heads=4,
        classification=True,
        num_classes=10,
        spatial_dims=2,
    ),
    "UNETR": of_monai(
        "UNETR",
        *(2, 1, 32, 32),
        in_channels=1,
        out_channels=2,
        img_size=(32, 32),
        feature_size=8,
        hidden_size=32,
        mlp_dim=64,
        num_heads=4,
        spatial_dims=2,
    ),
    "SwinUNETR": of_monai("SwinUNETR", 2, 1, 64, 64, in_channels=1, out_channels=2, feature_size=12, spatial_dims=2),
}


def of_this_package(name: str, *shape: int, **options: object) -> Callable[[], Built]:
    """A constructor of a ResNetShape, by its own name or that of a function that makes one."""

    def build() -> Built:
        models = importlib.import_module("ckrm_kernels.models")
        return getattr(models, name)(**options).build(), (torch.randn(*shape),)

    return build


SMALL = {"stem": 16, "inner": ((16,), (24,)), "out": (16, 24)}
NARROW = {"form": "paper", "in_channels": 1, "classes": 3, "widths": (16, 16, 24, 32, 40)}

READS = {"ckrm ResNet, GG-CAM": {"head.weight": 1}}
"""Of weights that no layer's module holds: the dimension that reads channels."""

OWN = {
    "ckrm ResNet, basic blocks": of_this_package("ResNetShape", 2, 1, 8, 8, **SMALL),
    "ckrm ResNet, GG-CAM": of_this_package("ResNetShape", 2, 1, 8, 8, head="gg-cam", **SMALL),
    "ckrm ResNet, bottlenecks": of_this_package(
        "ResNetShape", 2, 1, 8, 8, stem=16, inner=((8, 8), (12, 12)), out=None, block="bottleneck", form="paper-small"
    ),
    "ckrm ResNet50 of the paper, narrow": of_this_package("resnet_shape", 2, 1, 32, 32, depth=50, **NARROW),
    "ckrm ResNet18, torchvision's": of_this_package(
        "resnet_shape", 2, 3, 32, 32, depth=18, form="torchvision", in_channels=3, classes=10
    ),
}
