"""What is installed and built here, and which backend runs on what."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib import metadata, util
from pathlib import Path

import torch

import ckrm_kernels
from ckrm_kernels import native
from ckrm_kernels.backends import GPU_BACKENDS, gpu_backend, why_not
from ckrm_kernels.extras import EXTRAS, install, project
from ckrm_kernels.storage.machine import processor


def findings() -> Iterator[tuple[str, str]]:
    """Name and text of each finding. Loads the libraries, which may have to be built first (minutes)."""
    yield "ckrm-kernels", f"{ckrm_kernels.__version__} in {Path(ckrm_kernels.__file__).parent}"
    yield "python", f"{platform.python_version()} on {platform.platform()}"
    yield "torch", f"{torch.__version__} ({_build_of_torch()})"
    yield "triton", _version("triton") or "not installed"
    yield "processor", f"{processor()}, {torch.get_num_threads()} threads, torch uses {_capability_of_torch()}"
    status = native.cpu_status()
    yield from _library("CPU library", status)
    if status.loaded:
        yield "instruction set", str(torch.ops.ckrm.cpu_capability())
    yield from _library("CUDA library", native.cuda_status())
    yield "backend cpu", "runs" if status.loaded else "can't run, the CPU library is not loaded"
    yield "backend reference", "runs on any device, plain PyTorch"
    gpus = [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    for device in gpus or [torch.device("cpu")]:
        for backend in GPU_BACKENDS:
            failure = why_not(backend, device)
            where = f" on {device.index}" if len(gpus) > 1 else ""
            yield f"backend {backend}{where}", f"can't run: {failure}" if failure else "runs"
    yield "tensors on the CPU", "backend " + ("cpu" if status.loaded else "reference, slow")
    for device in gpus:
        yield (
            f"tensors on {device}",
            f"backend {gpu_backend(device.index, False)}, {torch.cuda.get_device_name(device)}",
        )
    if not gpus:
        yield "tensors on a GPU", "no GPU that torch can use"
    for extra, modules in EXTRAS.items():
        missing = [name for name in modules if util.find_spec(name) is None]
        cure = f"without {', '.join(map(project, missing))}: {install(extra)}"
        yield f"extra {extra}", cure if missing else "complete"


def _library(name: str, status: native.LibraryStatus) -> Iterator[tuple[str, str]]:
    if not status.loaded:
        yield name, f"not loaded: {status.failure}"
        return
    yield name, f"{status.origin}, {status.path}"
    if status.failure:
        yield "", f"because {status.failure}"


def _build_of_torch() -> str:
    if torch.version.cuda:
        return f"CUDA {torch.version.cuda}"
    return f"ROCm {torch.version.hip}" if torch.version.hip else "CPU only"


def _capability_of_torch() -> str:
    return torch.backends.cpu.get_cpu_capability()


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
