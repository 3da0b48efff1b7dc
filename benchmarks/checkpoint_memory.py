"""Memory that `ckrm measure` needs for checkpoints, in a process of one thread each.

`python benchmarks/checkpoint_memory.py [NAME ...]` prints the table of docs/large-checkpoints.md; with names, the rows
whose names hold one. MB: resident at the peak, as `top` shows it. Beyond the floor, which is the first row, it is a
multiple of the largest layer; so is what of it is no page of a file, which the system could drop and read again.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.distributed import checkpoint

COMMAND = [sys.executable, "-m", "ckrm_kernels", "measure", "--threads", "1"]
INTERVAL = 0.002  # seconds from one look at the process to the next
LAYER = (64, 16384, 3, 3)  # 38 MB in float32
Write = Callable[[Path], Path]


def weight(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Of which a few filters are dead and some repeat others."""
    made = torch.randn(shape) * 0.05
    made[: len(made) // 50] = 0
    made[-(len(made) // 8) :] = made[: len(made) // 8]
    return made.to(dtype)


def one(*shape: int, dtype: torch.dtype = torch.float32) -> Write:
    def write(folder: Path) -> Path:
        save_file({"0.weight": weight(shape, dtype)}, folder / "model.safetensors")
        return folder / "model.safetensors"

    return write


def shards(folder: Path) -> Path:
    for shard in range(6):
        of_shard = {f"{shard * 10 + at}.weight": weight(LAYER) for at in range(10)}
        save_file(of_shard, folder / f"model-{shard + 1:05}-of-00006.safetensors")
    return folder


def torch_save(folder: Path) -> Path:
    torch.save({f"{at}.weight": weight(LAYER) for at in range(20)}, folder / "model.pt")
    return folder / "model.pt"


def distributed(folder: Path) -> Path:
    checkpoint.save({f"{at}.weight": weight(LAYER) for at in range(20)}, checkpoint_id=folder / "step", no_dist=True)
    return folder / "step"


CASES: dict[str, tuple[Write, int]] = {  # and the bytes of the largest layer
    "Python, torch, the package and a layer of 2 kB": (one(8, 8, 3, 3), 0),
    "256 filters, float32": (one(256, 7282, 3, 3), 256 * 7282 * 36),
    "256 filters, float32, twice as many slices": (one(256, 14564, 3, 3), 256 * 14564 * 36),
    "256 filters, float32, four times as many": (one(256, 29128, 3, 3), 256 * 29128 * 36),
    "256 filters, float16": (one(256, 29128, 3, 3, dtype=torch.float16), 256 * 29128 * 18),
    "256 filters, bfloat16": (one(256, 29128, 3, 3, dtype=torch.bfloat16), 256 * 29128 * 18),
    "16 filters, float32": (one(16, 233017, 3, 3), 16 * 233017 * 36),
    "4,096 filters, float32": (one(4096, 456, 3, 3), 4096 * 456 * 36),
    "60 layers of 64 filters, float32, in 6 shards": (shards, 64 * 16384 * 36),
    "20 of them, torch.distributed.checkpoint": (distributed, 64 * 16384 * 36),
    "20 of them, torch.save": (torch_save, 64 * 16384 * 36),
}


def peaks(path: Path) -> tuple[int, int]:
    """The resident memory of the command at its peak, and that of what is no page of a file, in bytes."""
    process = subprocess.Popen([*COMMAND, path], stdout=subprocess.DEVNULL)
    of_all = of_own = 0
    status = Path(f"/proc/{process.pid}/status")
    while process.poll() is None:
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        of_all = max(of_all, size(fields.get("VmHWM")))
        of_own = max(of_own, size(fields.get("RssAnon")))
        time.sleep(INTERVAL)
    if process.returncode:
        raise RuntimeError(f"{path}: the command failed")
    return of_all, of_own


def size(field: str | None) -> int:
    return 1024 * int(field.split()[0]) if field else 0


def main(wanted: list[str]) -> None:
    print("| checkpoint | its size | peak | over the floor | of that, no file's pages |\n|---|--:|--:|--:|--:|")
    floor = None
    for name, (write, layer) in CASES.items():
        if wanted and floor and not any(each in name for each in wanted):
            continue
        with tempfile.TemporaryDirectory() as folder:
            path = write(Path(folder))
            written = sum(each.stat().st_size for each in Path(folder).rglob("*") if each.is_file())
            found = peaks(path)
        floor = floor or found
        over = [f"{(here - least) / layer:.1f} x" if layer else "" for here, least in zip(found, floor, strict=True)]
        cells = [name, f"{written / 1e6:,.0f} MB", f"{found[0] / 1e6:,.0f} MB", *over]
        print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    os.environ["MALLOC_MMAP_THRESHOLD_"] = str(1 << 20)
    main(sys.argv[1:])
