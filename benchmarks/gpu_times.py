"""Times on a GPU: this package against PyTorch, torch.compile and KeOps, and against what was predicted.

`python benchmarks/gpu_times.py` writes benchmarks/results/<device>.json and prints a table. Times are medians of the
device's own clock around a call, its Python and launches included; candidates take turns. "alone" is a captured graph's
replay, without those. Predictions and limits are for the device's highest clock.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import re
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from layers import RESNET50, layer
from peers import eager
from report import RESULTS, write
from torch import nn

import ckrm_kernels
from ckrm_kernels import backends
from ckrm_kernels.similarity import Similarity

ROUNDS = 20
PSI = Similarity()
PREDICTED_CYCLES = {"triton": 24.1, "cuda": 25.0}  # of a scheduler, for 32 terms: benchmarks/machine_code.py
LIMIT_CYCLES = 19.3
Call = Callable[[], Any]


def terms_per_second(cycles: float) -> float:
    """What every scheduler of the device would reach at its highest clock."""
    properties = torch.cuda.get_device_properties(0)
    clock = getattr(properties, "clock_rate", 1_700_000) * 1e3
    return properties.multi_processor_count * 4 * 32 * clock / cycles


@dataclass(frozen=True)
class Later:
    """A call that takes some making, which may fail."""

    make: Callable[[], Call]


def seconds(call: Call) -> float:
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3


def in_turns(calls: dict[str, Call]) -> dict[str, float]:
    """The median seconds of each; what fails is left out, with a line that says why."""
    ready = {}
    for name, call in calls.items():
        try:
            if isinstance(call, Later):
                call = call.make()
            for _ in range(3):
                call()
            torch.cuda.synchronize()
            ready[name] = call
        except Exception as error:
            print(f"left out {name}: {type(error).__name__}: {str(error).splitlines()[0][:120]}", file=sys.stderr)
    times: dict[str, list[float]] = {name: [] for name in ready}
    for _ in range(ROUNDS):
        for name, call in ready.items():
            times[name].append(seconds(call))
    return {name: statistics.median(found) for name, found in times.items()}


def alone(call: Call) -> Call:
    """The call as a graph's replay."""
    for _ in range(3):
        call()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def peak_bytes(call: Call) -> int:
    call()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = call()
    torch.cuda.synchronize()
    held = sum(each.nbytes for each in result) if isinstance(result, (tuple, list)) else result.nbytes
    return torch.cuda.max_memory_allocated() - before - held


def forward_calls(weight: torch.Tensor, gpu_backends: list[str]) -> dict[str, Call]:
    calls: dict[str, Call] = {}
    for backend in gpu_backends:
        call = lambda backend=backend: ckrm_kernels.pairwise_psi(weight, backend=backend)  # noqa: E731
        calls[backend] = call
        calls[f"{backend}, alone"] = Later(lambda call=call: alone(call))
    calls["PyTorch eager"] = lambda: eager.whole(weight, weight)
    calls["torch.compile"] = lambda: COMPILED(weight, weight)
    if importlib.util.find_spec("pykeops"):
        from peers.keops import KeOps

        calls["KeOps"] = Later(lambda: next(iter(KeOps().forms("pairwise", weight).values())))
    return calls


COMPILED = torch.compile(eager.whole, dynamic=False)


def gradient_calls(weight: torch.Tensor, gpu_backends: list[str]) -> dict[str, Call]:
    weight = weight.clone().requires_grad_()
    packed = torch.randn(weight.shape[0] * (weight.shape[0] - 1) // 2, device="cuda")
    square = torch.randn(weight.shape[0], weight.shape[0], device="cuda")

    def through(function: Call, grad: torch.Tensor) -> Call:
        return lambda: torch.autograd.grad(function(), weight, grad)

    calls = {
        backend: through(lambda backend=backend: ckrm_kernels.pairwise_psi(weight, backend=backend), packed)
        for backend in gpu_backends
    }
    calls["PyTorch eager"] = through(lambda: eager.whole(weight, weight), square)
    calls["torch.compile"] = through(lambda: COMPILED(weight, weight), square)
    return calls


def training_step() -> dict[str, Call]:
    """A step of ResNet50 at batch 64, 224 px, bfloat16, without and with `measure`."""
    import torchvision

    torch.manual_seed(0)
    model = torchvision.models.resnet50().cuda().to(memory_format=torch.channels_last)
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-3)
    images = torch.randn(64, 3, 224, 224, device="cuda").to(memory_format=torch.channels_last)
    labels = torch.randint(1000, (64,), device="cuda")

    def step() -> None:
        optimiser.zero_grad()
        with torch.autocast("cuda", torch.bfloat16):
            loss = nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        optimiser.step()

    def measured() -> None:
        step()
        ckrm_kernels.measure(model, details=False)

    return {"step": step, "step and measure": measured}


def kernels_of(call: Call) -> dict[str, float]:
    """The microseconds of each kernel of a call."""
    for _ in range(3):
        call()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for _ in range(ROUNDS):
            call()
        torch.cuda.synchronize()
    found = {event.key: event.self_device_time_total / ROUNDS for event in profile.key_averages()}
    return {name: round(time, 2) for name, time in sorted(found.items(), key=lambda item: -item[1]) if time > 0.5}


def row(operation: str, terms: int, times: dict[str, float], **more: Any) -> list[dict[str, Any]]:
    rows = []
    for name, time in times.items():
        backend = name.split(",")[0]
        cycles = PREDICTED_CYCLES.get(backend)
        one = {"operation": operation, "candidate": name, "microseconds": round(time * 1e6, 1), **more.get(name, {})}
        if terms:
            one["slice_pairs_per_second"] = terms / time
        if terms and cycles:
            one["of_predicted"] = terms / terms_per_second(cycles) / time
            one["of_limit"] = terms / terms_per_second(LIMIT_CYCLES) / time
        rows.append(one)
    return rows


def all_rows(gpu_backends: list[str]) -> Iterator[list[dict[str, Any]]]:
    """The rows of one operation after another."""
    for shape in ("512x512x3x3", "64x64x3x3", "256x256x3x3", "64x3x7x7", "2048x512x1x1"):
        one = layer(shape)
        weight = one.weight().cuda()
        calls = forward_calls(weight, gpu_backends)
        memory = {backend: {"extra_bytes": peak_bytes(calls[backend])} for backend in gpu_backends}
        yield row(f"pairwise {shape}", one.slice_pairs, in_turns(calls), **memory)
    for shape in ("512x512x3x3", "256x256x3x3"):
        weight = layer(shape).weight().cuda()
        yield row(f"forward + backward {shape}", 0, in_turns(gradient_calls(weight, gpu_backends)))
    banks = [one.weight(index).cuda() for index, one in enumerate(RESNET50)]
    edges = torch.linspace(0, 1, 101, device="cuda")[1:-1]
    thresholds = torch.full((len(banks),), 0.6, device="cuda")
    counts = of_many_banks("psi_counts", gpu_backends, banks, edges)
    yield row("counts of ResNet50's 17 layers", sum(one.slice_pairs for one in RESNET50), in_turns(counts))
    soft = of_many_banks("soft_redundancy", gpu_backends, banks, thresholds, 0.05, True)
    yield row("soft shares and gradients of ResNet50's 17 layers", 0, in_turns(soft))
    model = nn.ModuleList(nn.Conv2d(one.slices, one.filters, one.side) for one in RESNET50).cuda()
    measures = {
        "measure": lambda: ckrm_kernels.measure(model),
        "measure, no details": lambda: ckrm_kernels.measure(model, details=False),
    }
    yield row("measure ResNet50", 0, in_turns(measures))
    if importlib.util.find_spec("torchvision"):
        yield row("training ResNet50, batch 64", 0, in_turns(training_step()))


def of_many_banks(name: str, gpu_backends: list[str], *arguments: Any) -> dict[str, Any]:
    """An operator that takes a list of banks, called and replayed, by each backend."""
    calls: dict[str, Any] = {}
    for backend in gpu_backends:
        operator = getattr(getattr(torch.ops, f"ckrm_{backend}"), name)
        call = functools.partial(operator, *arguments, *PSI.arguments)
        calls[backend], calls[f"{backend}, alone"] = call, Later(functools.partial(alone, call))
    return calls


def table(rows: list[dict[str, Any]]) -> str:
    lines = ["| operation | | us | of predicted | of limit | extra MB |", "|---|---|--:|--:|--:|--:|"]
    for one in rows:
        shares = [f"{one[key]:.2f}" if key in one else "" for key in ("of_predicted", "of_limit")]
        extra = f"{one['extra_bytes'] / 1e6:.1f}" if "extra_bytes" in one else ""
        lines.append(
            "| " + " | ".join([one["operation"], one["candidate"], str(one["microseconds"]), *shares, extra]) + " |"
        )
    return "\n".join(lines)


def main() -> None:
    import triton

    device = torch.cuda.get_device_name(0)
    gpu_backends = [b for b in backends.GPU_BACKENDS if not backends.why_not(b, torch.device("cuda", 0))]
    path = Path(RESULTS, re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-") + ".json")
    found: dict[str, Any] = {
        "device": device,
        "torch": torch.__version__,
        "triton": triton.__version__,
        "command": "python benchmarks/gpu_times.py",
        "rows": [],
        "microseconds_of_kernels": {},
    }
    RESULTS.mkdir(exist_ok=True)
    for rows in all_rows(gpu_backends):
        found["rows"] += rows
        write(path, json.dumps(found, indent=1) + "\n")  # so that a run that is stopped leaves what it measured
        print(table(rows), flush=True)
    weight = layer("512x512x3x3").weight().cuda()
    for backend in gpu_backends:
        forward = lambda backend=backend: ckrm_kernels.pairwise_psi(weight, backend=backend)  # noqa: E731
        both = gradient_calls(weight, [backend])[backend]
        for operation, call in (("forward", forward), ("forward + backward", both)):
            times = kernels_of(call)
            found["microseconds_of_kernels"][f"{operation} 512x512x3x3, {backend}"] = times
            print(f"{operation}, {backend}: " + ", ".join(f"{k[:40]} {t} us" for k, t in list(times.items())[:6]))
    write(path, json.dumps(found, indent=1) + "\n")
    print(f"\n{device}, torch {torch.__version__}, triton {triton.__version__}\n{table(found['rows'])}")


if __name__ == "__main__":
    main()
