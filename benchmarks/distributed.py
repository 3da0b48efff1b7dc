"""Work shared out among processes of one thread each: time, CPU time and memory of one and of two, over gloo.

`python benchmarks/distributed.py [NAME ...]` writes benchmarks/results/processes.json and .md; with names, of the cases
whose names hold one. Each result is checked to be the same on every process, and that of one process.

Efficiency is the CPU time of one process over so many times that of the longest of so many: what the machine's other
work leaves unchanged, unlike the clock. Of several calls, as many as take about ten seconds and at most nine, those
that took least of each. MB: held at the peak beyond what was held before the calls.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from layers import RESNET50, layer
from report import RESULTS
from torch import distributed, nn
from torch.distributed.fsdp import fully_shard

from ckrm_kernels import (
    PatternReport,
    RedundancyLoss,
    RedundancyReport,
    RedundantGroups,
    chance_redundancy,
    estimate_redundancy,
    match_patterns,
    measure,
    psi_histogram,
    redundancy,
    redundant_groups,
)
from ckrm_kernels.sharing import checksum

PROCESSES = (1, 2)
_SECONDS, _MOST_CALLS = 10, 9
Call = Callable[[Any], Any]


@dataclass(frozen=True)
class Part:
    """One process's share of one call. memory: that it held at its peak beyond what it had before, in bytes"""

    seconds: float
    cpu_seconds: float
    memory: int
    result: str


def of_weight(function: Callable[..., Any], shape: str, **options: Any) -> Callable[[], Call]:
    def make() -> Call:
        weight = layer(shape).weight()
        weight[1::9] = weight[::9][: len(weight[1::9])]  # repeats
        return lambda group: function(weight, group=group, **options)

    return make


def drawn(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """Of a generator in one state."""
    return lambda weight, group: function(weight, group=group, generator=torch.Generator().manual_seed(0), **options)


def of_model(sharded: bool, function: Callable[..., Any] = measure, **options: Any) -> Callable[[], Call]:
    def make() -> Call:
        model = resnet50()
        if sharded:
            for conv in model:
                fully_shard(conv)
        return lambda group: function(model, group=group, **options)

    return make


def of_penalty(threshold: float) -> Callable[[], Call]:
    def make() -> Call:
        model = resnet50()
        penalty = RedundancyLoss(model, threshold, group=distributed.group.WORLD)
        penalty()  # the first call also compares the processes' weights

        def call(group: Any) -> list[Any]:
            value = penalty()
            value.backward()
            return [value.item(), *(checksum(conv.weight.grad) for conv in model)]

        return call

    return make


def resnet50() -> nn.ModuleList:
    """Its measured layers."""
    model = nn.ModuleList(nn.Conv2d(each.slices, each.filters, each.side) for each in RESNET50)
    generator = torch.Generator().manual_seed(0)
    for conv in model:
        nn.init.kaiming_uniform_(conv.weight, generator=generator)
    return model


CASES = {
    "redundancy of 16384x8x3x3": of_weight(redundancy, "16384x8x3x3"),
    "psi_histogram of 16384x8x3x3": of_weight(psi_histogram, "16384x8x3x3"),
    "redundant_groups of 16384x8x3x3, at 0.9": of_weight(redundant_groups, "16384x8x3x3", threshold=0.9),
    "redundancy of 65536x8x3x3": of_weight(redundancy, "65536x8x3x3"),
    "psi_histogram of 65536x8x3x3": of_weight(psi_histogram, "65536x8x3x3"),
    "measure of ResNet50's 17 layers": of_model(False),
    "the same, sharded by FSDP2": of_model(True),
    "the same, details=False": of_model(False, details=False),
    "RedundancyLoss of these layers, and its gradient": of_penalty(0.3),
    "match_patterns of them": of_model(False, match_patterns),
    "chance_redundancy of 16384x8x3x3": of_weight(drawn(chance_redundancy), "16384x8x3x3"),
    "estimate_redundancy of 4096x512x3x3, 10^6 pairs": of_weight(
        drawn(estimate_redundancy, num_pairs=10**6), "4096x512x3x3"
    ),
}


def timed(call: Call) -> Part:
    group = distributed.group.WORLD
    torch.manual_seed(0)
    measure(nn.Conv2d(8, 200, 3), group=group)  # what a first call builds and imports
    redundant_groups(torch.randn(200, 8, 3, 3), group=group)
    distributed.barrier()
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = resident("VmRSS")
    result, seconds, cpu_seconds = once(call)
    longest = torch.tensor(seconds)
    distributed.all_reduce(longest, distributed.ReduceOp.MAX)
    for _ in range(min(int(_SECONDS / longest), _MOST_CALLS) - 1):
        _, *again = once(call)
        seconds, cpu_seconds = min(seconds, again[0]), min(cpu_seconds, again[1])
    return Part(seconds, cpu_seconds, resident("VmHWM") - before, hashlib.sha256(written(result).encode()).hexdigest())


def once(call: Call) -> tuple[Any, float, float]:
    distributed.barrier()
    start, cpu = time.perf_counter(), time.process_time()
    result = call(distributed.group.WORLD)
    return result, time.perf_counter() - start, time.process_time() - cpu


def written(result: Any) -> str:
    if isinstance(result, RedundantGroups):
        return repr(result.representative.tolist())
    if isinstance(result, RedundancyReport):
        return repr(result.layers)
    if isinstance(result, PatternReport):
        return repr([(layer.places.tolist(), layer.nearness.tolist(), layer.shares) for layer in result.measured])
    return repr(result)


def resident(field: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def run(rank: int, processes: int, name: str, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=processes)
    part = timed(CASES[name]())
    (Path(folder) / f"{rank}.json").write_text(json.dumps(asdict(part)))
    distributed.destroy_process_group()


def parts_of(name: str, processes: int) -> list[Part]:
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(run, (processes, name, folder), processes)
        return [Part(**json.loads((Path(folder) / f"{rank}.json").read_text())) for rank in range(processes)]


def table(found: dict[str, dict[str, list[dict[str, Any]]]]) -> str:
    lines = [
        "| | processes | s | CPU s of each | MB of each | efficiency |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for name, of_processes in found.items():
        alone = sum(part["cpu_seconds"] for part in of_processes[str(PROCESSES[0])])
        for processes, parts in of_processes.items():
            longest = max(part["cpu_seconds"] for part in parts)
            cells = [
                name,
                processes,
                f"{max(part['seconds'] for part in parts):.3g}",
                ", ".join(f"{part['cpu_seconds']:.3g}" for part in parts),
                ", ".join(f"{part['memory'] / 1e6:.0f}" for part in parts),
                f"{alone / longest / int(processes):.0%}",
            ]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(wanted: list[str]) -> None:
    path = RESULTS / "processes.json"
    found = json.loads(path.read_text()) if path.exists() else {}
    for name in CASES:
        if wanted and not any(each in name for each in wanted):
            continue
        parts = {processes: parts_of(name, processes) for processes in PROCESSES}
        if len({part.result for each in parts.values() for part in each}) != 1:
            raise AssertionError(f"{name}: the processes differ")
        found[name] = {str(processes): [asdict(part) for part in each] for processes, each in parts.items()}
        path.write_text(json.dumps(found, indent=1) + "\n")
        print(table({name: found[name]}), flush=True)
    path.with_suffix(".md").write_text(
        f"# Processes of one thread\n\n{__doc__.strip().split(chr(10) * 2)[-1]}\n\n{table(found)}\n"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
