"""Calibration from files: a folder of images, or a tensor."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ckrm_kernels.checkpoints.raw import damage_named
from ckrm_kernels.checkpoints.stored import CheckpointError
from ckrm_kernels.extras import require

_SUFFIXES = (".npy", ".pt", ".pth", ".safetensors")


def read_calibration(
    path: Path,
    count: int,
    *,
    input_shape: tuple[int, ...] | None = None,
    mean: Sequence[float] = (0.0,),
    deviation: Sequence[float] = (1.0,),
) -> Tensor:
    """At most so many inputs of a network, (N, *input_shape) floating point, evenly spaced over what the path holds.

    path: a folder with images, at any depth, each scaled to cover H x W and its middle cut out; or a file with one
        tensor (N, ...) that NumPy (.npy), `torch.save` (.pt, .pth) or safetensors wrote. Nothing in it is run
    count: the most to be read
    input_shape: of one input; (1 or 3, H, W) for a folder; None: that of the tensor
    mean, deviation: of each channel, or one for all: x becomes (x - mean) / deviation, where 8-bit pixels, and those of
        images, are in [0, 1]
    Raises FileNotFoundError where there is no such path, ValueError, naming it, for what can't be used.
    """
    if min(deviation) <= 0:
        raise ValueError(f"deviation must be above 0, got {min(deviation):g}")
    if path.is_dir():
        found = _images(path, count, input_shape)
    elif path.is_file():
        found = _tensor(path, count, input_shape)
    else:
        raise FileNotFoundError(f"{path}: no such file or folder")
    inputs = found.float() / 255 if found.dtype == torch.uint8 else found
    if not inputs.is_floating_point():
        raise ValueError(f"{path}: must hold floating-point numbers or 8-bit pixels, got {found.dtype}")
    if tuple(mean) == (0.0,) and tuple(deviation) == (1.0,):
        return inputs
    if inputs.dim() < 2 or any(len(each) not in (1, inputs.shape[1]) for each in (mean, deviation)):
        raise ValueError(
            f"mean and deviation must have one number, or one for each channel of inputs {tuple(inputs.shape[1:])}, "
            f"got {len(mean)} and {len(deviation)}"
        )
    shape = (-1, *[1] * (inputs.dim() - 2))
    return (inputs - inputs.new_tensor(mean).view(shape)) / inputs.new_tensor(deviation).view(shape)


def _images(folder: Path, count: int, shape: tuple[int, ...] | None) -> Tensor:
    """(N, C, H, W) uint8."""
    from ckrm_kernels.data.files import BadFile
    from ckrm_kernels.data.folder import EXTENSIONS, images_below
    from ckrm_kernels.data.pillow import check_pillow, read_colour

    check_pillow("reading images")
    if shape is None or len(shape) != 3 or shape[0] not in (1, 3):
        raise ValueError(f"{folder}: a folder of images needs an input shape of 1 or 3 channels, such as 3x224x224")
    paths = images_below(folder)
    if not paths:
        raise ValueError(f"{folder}: holds no image ({', '.join(EXTENSIONS)})")
    try:
        colour = [read_colour(paths[index], (shape[1], shape[2])) for index in _spread(len(paths), count)]
    except BadFile as error:
        raise ValueError(f"{error.skipped.path}: {error.skipped.reason}; take it out of the folder") from None
    images = torch.from_numpy(np.stack(colour))
    return images if shape[0] == 3 else _grey(images)


def _grey(images: Tensor) -> Tensor:
    """The luminance of colour images (N, 3, H, W), as Pillow takes it: ITU-R 601."""
    return (images.float() * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True).round().byte()


def _tensor(path: Path, count: int, shape: tuple[int, ...] | None) -> Tensor:
    if path.suffix.lower() not in _SUFFIXES:
        raise ValueError(f"{path}: must be a folder of images, or a tensor in a file {', '.join(_SUFFIXES)}")
    with damage_named(path, f"a {path.suffix} file of one tensor"):
        tensor = _READERS[path.suffix.lower()](path)
    if tensor.dim() < 2 or not len(tensor):
        raise ValueError(f"{path}: must hold inputs (N, ...), got a tensor of shape {tuple(tensor.shape)}")
    if shape is not None and tuple(tensor.shape[1:]) != shape:
        raise ValueError(f"{path}: holds inputs of shape {tuple(tensor.shape[1:])}, not {shape}")
    return tensor[_spread(len(tensor), count)].clone()


def _spread(total: int, count: int) -> list[int]:
    """At most so many different places below the total, evenly spaced."""
    return torch.linspace(0, total - 1, min(count, total), dtype=torch.float64).round().long().tolist()


def _of_numpy(path: Path) -> Tensor:
    array = np.load(path, mmap_mode="c", allow_pickle=False)
    return torch.from_numpy(np.ascontiguousarray(array, array.dtype.newbyteorder("=")))


def _of_torch(path: Path) -> Tensor:
    return _the_only(path, torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)))


def _of_safetensors(path: Path) -> Tensor:
    with require("reading a safetensors file", "safetensors"):
        import safetensors.torch
    return _the_only(path, safetensors.torch.load_file(path))


def _the_only(path: Path, value: object) -> Tensor:
    values = list(value.values()) if isinstance(value, dict) else [value]
    if len(values) != 1 or not isinstance(values[0], Tensor):
        what = f"{len(values)} of them" if isinstance(value, dict) else f"an object of the type {type(value).__name__}"
        raise CheckpointError(f"{path}: must hold one tensor, got {what}")
    return values[0]


_READERS = {".npy": _of_numpy, ".pt": _of_torch, ".pth": _of_torch, ".safetensors": _of_safetensors}
