"""How long networks take for a forward pass."""

from __future__ import annotations

import copy
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from ckrm_kernels.models import whole_pass

_WARM_UP, _FEWEST_ROUNDS, _MOST_ROUNDS = 2, 7, 200
_SECONDS = 1.0  # for all networks and one number of images, once the fewest rounds are done
_MANY, _PIXELS = 64, 1 << 22  # the most images, and pixels, at once


@dataclass(frozen=True)
class Latency:
    """Median time of a forward pass in evaluation mode.

    device: "CPU, 1 thread" or a GPU's name; batch: images at once
    seconds: for each network, by its name
    """

    device: str
    batch: int
    seconds: dict[str, float]


def measure_latencies(networks: Mapping[str, nn.Module], image_shape: Sequence[int]) -> list[Latency]:
    """Times the networks with one image and with many, up to 64, on a CPU's core, and on a GPU where there is one.

    networks: by name
    image_shape: (channels, height, width)
    """
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    many = max(min(_MANY, _PIXELS // math.prod(image_shape)), 1)
    batches = sorted({1, many})
    with one_thread():
        return [_latency(networks, image_shape, batch, torch.device(device)) for device in devices for batch in batches]


@contextmanager
def one_thread() -> Iterator[None]:
    """torch on one thread, because what else the machine does disturbs several far more; then on as many as before."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _latency(
    networks: Mapping[str, nn.Module], image_shape: Sequence[int], batch: int, device: torch.device
) -> Latency:
    images = torch.zeros(batch, *image_shape, device=device)
    networks = {name: copy.deepcopy(network).eval().to(device) for name, network in networks.items()}
    passes = {name: partial(network, images, **whole_pass(network)) for name, network in networks.items()}
    seconds = time_in_turns(passes, device, _SECONDS)
    return Latency(_name_of(device), batch, seconds)


def time_in_turns(calls: Mapping[str, Callable[[], object]], device: torch.device, seconds: float) -> dict[str, float]:
    """The median time of each call in seconds, made in turns, so that what else the machine does falls on all alike.

    device: on which they run; seconds: for all of them together, once the fewest rounds are done
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    with torch.inference_mode():
        for _ in range(_WARM_UP):
            for call in calls.values():
                call()
        end = time.perf_counter() + seconds
        for turn in range(_MOST_ROUNDS):
            for name, call in calls.items():
                times[name].append(seconds_of(call, device))
            if turn + 1 >= _FEWEST_ROUNDS and time.perf_counter() > end:
                break
    return {name: statistics.median(values) for name, values in times.items()}


def seconds_of(call: Callable[[], object], device: torch.device) -> float:
    """That pass until the device has done what is called."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def _name_of(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU, 1 thread"
