"""Networks of torchvision and timm, as their users have them.

`python docs/studies/shrinking/zoo --collection users --file docs/studies/shrinking/zoo/users.csv`, in an environment of
its own, with the torch that torchvision asks for.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable

import torch
from models import Model
from torch import Tensor, nn

TORCHVISION = (
    "alexnet",
    "vgg11_bn",
    "resnet18",
    "resnet50",
    "resnext50_32x4d",
    "squeezenet1_1",
    "googlenet",
    "inception_v3",
    "densenet121",
    "shufflenet_v2_x0_5",
    "mnasnet0_5",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "regnet_y_400mf",
    "efficientnet_b0",
    "convnext_tiny",
)
SEGMENTATION = ("lraspp_mobilenet_v3_large", "fcn_resnet50", "deeplabv3_mobilenet_v3_large")
TIMM = (
    "mobilenetv3_small_050",
    "tf_efficientnet_lite0",
    "mixnet_s",
    "lcnet_050",
    "tinynet_e",
    "ghostnet_050",
    "repvgg_a0",
    "mobileone_s0",
    "cspresnet50",
    "cspdarknet53",
    "ese_vovnet19b_slim",
    "dla34",
    "hrnet_w18_small",
    "res2net50_26w_4s",
    "resnest14d",
    "skresnet18",
    "ecaresnet26t",
    "gernet_s",
    "rexnet_100",
    "dpn48b",
    "selecsls42",
    "xception41",
    "hardcorenas_a",
    "nfnet_l0",
    "resnetv2_50",
    "botnet26t_256",
    "poolformerv2_s12",
    "edgenext_xx_small",
    "efficientvit_b0",
    "fastvit_t8",
    "levit_128s",
    "convmixer_768_32",
    "convnextv2_atto",
    "inception_next_atto",
    "starnet_s1",
    "repghostnet_050",
)


def of_torchvision(name: str) -> Callable[[], tuple[nn.Module, tuple[Tensor, ...]]]:
    """A constructor of a torchvision model."""

    def build() -> tuple[nn.Module, tuple[Tensor, ...]]:
        models = importlib.import_module("torchvision.models")
        options = {"init_weights": True, "aux_logits": True} if name in ("googlenet", "inception_v3") else {}
        options |= {"weights_backbone": None} if name in SEGMENTATION else {}
        size = 96 if name == "inception_v3" else 64
        return models.get_model(name, weights=None, num_classes=10, **options), (torch.randn(2, 3, size, size),)

    return build


def of_timm(name: str) -> Callable[[], tuple[nn.Module, tuple[Tensor, ...]]]:
    """A constructor of a timm model."""

    def build() -> tuple[nn.Module, tuple[Tensor, ...]]:
        model = importlib.import_module("timm").create_model(name, num_classes=10)
        size = (
            64 if not getattr(model, "default_cfg", {}).get("fixed_input_size") else model.default_cfg["input_size"][1]
        )
        return model, (torch.randn(2, 3, size, size),)

    return build


def models() -> dict[str, Model]:
    """All models, in the order of the table."""
    found = {
        f"torchvision {name}": Model("torchvision", of_torchvision(name)) for name in (*TORCHVISION, *SEGMENTATION)
    }
    return found | {f"timm {name}": Model("timm", of_timm(name)) for name in TIMM}
