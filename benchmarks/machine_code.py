"""What the Triton kernels' machine code costs, counted without a GPU: `python benchmarks/machine_code.py`.

Compiles every configuration that the package launches, for NVIDIA's architectures and one of AMD's. Of NVIDIA's it
reads the machine code and predicts the time of a term (the similarity of two slices) from the instructions of the
innermost loop that holds it.

The cost model, in cycles of one of a multiprocessor's four schedulers, for an instruction of a warp (32 terms):
special functions (MUFU) and conversions 8, integer and logic 2, the FMA pipe 1 (what is wide there 2: an integer
multiplication, two float32 operations in one instruction), and 1 to issue any instruction. The prediction is the
largest of the four sums: the pipes work side by side. It leaves out waiting for memory.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

if os.environ.get("TRITON_INTERPRET") == "1":
    sys.exit("unset TRITON_INTERPRET: the interpreter compiles nothing")

import torch
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from ckrm_kernels.kernels import elementary, gradient, listed, prepare, soft, tiles
from ckrm_kernels.kernels.arithmetic import Arithmetic
from ckrm_kernels.kernels.configurations import ALL_REGISTERS, LAUNCH, TABLE, filters_at_once, row_of, slices_at_once
from ckrm_kernels.similarity import Similarity

Architecture = int | str  # NVIDIA's by the number of their capability, AMD's by their names
ARCHITECTURES: tuple[Architecture, ...] = (80, 90, 100, 120, "gfx942")
_CPU = torch.device("cpu")

# Types of the kernels' arguments by name; what is not here is an integer (a size or a stride).
_TABLES = ("banks", "programs", "blocks", "items", "tiles", "pairs", "others", "starts")
_DATA = ("buffer", "of_buffer", "weight", "partial", "sums", "out", "edges", "grad", "of_psi", "thresholds",
         "temperature", "values")  # fmt: skip
# Of those that are tuples, how many numbers they hold: see plan.Place.in_buffer.
_PLACES = {"place": 3}

_FMA = {"FFMA", "FMUL", "FADD", "HFMA2", "HADD2", "HMUL2"}
_WIDE = {"IMAD", "FFMA2", "FMUL2", "FADD2"}
_SPECIAL = {"MUFU", "F2I", "I2F", "F2F", "I2FP", "F2FP"}
_MEMORY = {"LDS", "LDG", "STS", "STG", "LDSM", "STSM", "ATOM", "ATOMG", "RED", "REDG", "LDL", "STL", "SHFL", "LD", "ST",
           "LDGSTS", "LDC", "LDCU", "LDTM", "STTM"}  # fmt: skip
_CONTROL = {"BAR", "BRA", "WARPSYNC", "DEPBAR", "LDGDEPBAR", "WARPGROUP", "SYNCS", "BSSY", "BSYNC", "EXIT", "YIELD",
            "MEMBAR", "FENCE", "CALL", "RET", "NOP", "WARPGROUPSET"}  # fmt: skip
_TENSOR = {"HMMA", "HGMMA", "UTCHMMA", "UTCQMMA"}
_DOUBLE = {"DADD", "DFMA", "DMUL", "DSETP", "DMMA", "DMNMX"}


@dataclass(frozen=True)
class Job:
    """One kernel with its compile-time arguments.

    terms: psi that a thread computes in a turn of its loop, 0 for none; weight: its dtype if not that of the arithmetic
    """

    name: str
    module: str
    kernel: str
    constants: dict[str, Any]
    options: dict[str, int]
    terms: float = 0
    double: bool = False
    weight: str = ""


class Instruction(NamedTuple):
    """One machine instruction; guarded: by a predicate, which the text leaves out."""

    address: int
    guarded: bool
    text: str

    @property
    def name(self) -> str:
        """The operation, without its modifiers."""
        return self.text.split()[0].split(".")[0]


@dataclass(frozen=True)
class Count:
    """What one kernel's machine code holds. cycles: predicted, for 32 terms; 0 where it has no such loop."""

    name: str
    architecture: Architecture
    registers: int
    shared: int
    spilled: int
    doubles: int
    cycles: float
    per_term: dict[str, float]


def jobs(architecture: Architecture) -> Iterator[Job]:
    """Every configuration that the package launches on an architecture."""
    with_coordinates = row_of(1, False, architecture == 90)
    psi, double = Similarity(), torch.float64
    loops = {"K = 9": (with_coordinates, 1), "K = 1": ("none", 0), "any K": (with_coordinates, -1)}
    for k, (row, steps) in loops.items():
        yield _tile_job(k, row, steps, psi)
        yield _tile_gradient_job(k, row, steps, psi)
    cases = {
        "alpha 0": Similarity(alpha=0),
        "alpha 1": Similarity(alpha=1),
        "beta = gamma": Similarity(beta=2, gamma=2),
        "any exponents": Similarity(beta=2, gamma=3),
        "signed": Similarity(signed=True),
        "cosine": Similarity("cosine"),
        "signed cosine": Similarity("cosine", signed=True),
    }
    for name, similarity in cases.items():
        yield _tile_job(f"K = 9, {name}", with_coordinates, 1, similarity)
        yield _tile_gradient_job(f"K = 9, {name}", with_coordinates, 1, similarity)
    for name, similarity in {"float64": psi, "cosine, float64": Similarity("cosine")}.items():
        yield _tile_job(name, "float64", 1, similarity)
        yield _tile_gradient_job(name, "float64", 1, similarity)
    tile = TABLE[with_coordinates].tile
    for output, code in {"packed": 0, "rectangle": 1, "counts": 2}.items():
        constants = {"OUTPUT": code, "ROWS": tile.rows, "COLUMNS": tile.columns, "STRIP": 8, "BINS": 128}
        yield Job(f"combine, {output}", "tiles", "combine_kernel", constants, {})
    for name, row in {"": with_coordinates, ", float64": "float64"}.items():
        tile = TABLE[row].tile
        constants = {"WITH_GRADIENT": True, "ROWS": tile.rows, "COLUMNS": tile.columns, "STRIP": 8}
        yield Job(f"soft{name}", "soft", "soft_kernel", constants, {}, double=row == "float64")
        yield Job(f"soft mean{name}", "soft", "soft_mean_kernel", {"BLOCK": 1024}, {}, double=row == "float64")
    for name, similarity in {"": psi, ", cosine": Similarity("cosine")}.items():
        yield _listed_job(f"listed{name}", similarity)
        yield _listed_gradient_job(f"listed gradient{name}", similarity)
        yield _prepare_job(f"prepare, K = 9{name}", similarity, 8, 8)
    yield _listed_job("listed, float64", psi, double)
    yield _listed_gradient_job("listed gradient, float64", psi, double)
    for k, positions in {"": 8, ", K = 1": 1, ", K = 49": 64}.items():
        yield _finish_job(f"finish gradient{k}", psi, positions)
    yield _finish_job("finish gradient, float64", psi, 8, double)
    yield _prepare_job("prepare, K = 9 and 49", psi, 8, 64)
    for k, positions in {"K = 1": 1, "K = 49": 64}.items():
        yield _prepare_job(f"prepare, {k}", psi, positions, positions)
        yield _prepare_job(f"prepare, {k}, float64", psi, positions, positions, double)
    yield _prepare_job("prepare, K = 9, float64", psi, 8, 8, double)
    for weight, dtype in {"fp16": torch.float16, "bf16": torch.bfloat16}.items():
        yield replace(_prepare_job(f"prepare, {weight}, any strides", psi, 8, 8, dtype), weight=weight)
    # Triton compiles an argument that is 1 as a constant.
    ones = {"filters": 1, "slices": 1, "count": 1, "steps": 1}
    yield _with_constants(_listed_job("listed, one slice", psi), **ones)
    yield Job("spread gradient", "gradient", "spread_gradient_kernel", {"PACKED": True, "BLOCK": 32}, {})


def _arithmetic(similarity: Similarity, dtype: torch.dtype = torch.float32) -> Arithmetic:
    return Arithmetic.of(dtype, *similarity.arguments)


def _compiled(arguments: dict[str, Any]) -> dict[str, Any]:
    """Those arguments that are known when a kernel is compiled."""
    return {name: value for name, value in arguments.items() if name != "scalars"}


def _tile_job(name: str, row: str, steps: int, similarity: Similarity) -> Job:
    config, double = TABLE[row], row == "float64"
    arithmetic = _arithmetic(similarity, torch.float64 if double else torch.float32)
    sides = {"STEPS": steps, "ROWS": config.tile.rows, "COLUMNS": config.tile.columns, "STAGES": config.stages}
    terms = config.tile.rows * config.tile.columns / (32 * config.warps)
    constants = {**_compiled(arithmetic.of_term(_CPU, steps)), **sides}
    return Job(f"tile, {name}", "tiles", "tile_kernel", constants, config.options, terms, double)


def _tile_gradient_job(name: str, row: str, steps: int, similarity: Similarity) -> Job:
    config, double = TABLE[row], row == "float64"
    arithmetic = _arithmetic(similarity, torch.float64 if double else torch.float32)
    tile = config.gradient_tile
    sides = {"STEPS": steps, "ROWS": tile.rows, "COLUMNS": tile.columns, "STAGES": config.gradient_stages}
    terms = tile.rows * tile.columns / (32 * config.gradient_warps)
    constants = {**_compiled(arithmetic.of_gradient(_CPU, steps)), **sides}
    return Job(
        f"tile gradient, {name}", "gradient", "tile_gradient_kernel", constants, config.gradient_options, terms, double
    )


def _listed_job(name: str, similarity: Similarity, dtype: torch.dtype = torch.float32) -> Job:
    arithmetic = _arithmetic(similarity, dtype)
    constants = {**_compiled(arithmetic.of_term(_CPU)), "PAIRS": 8, "SLICES": 16}
    return Job(name, "listed", "listed_kernel", constants, ALL_REGISTERS, double=arithmetic.double)


def _listed_gradient_job(name: str, similarity: Similarity, dtype: torch.dtype = torch.float32) -> Job:
    arithmetic = _arithmetic(similarity, dtype)
    constants = {**_compiled(arithmetic.of_gradient(_CPU)), "SLICES": 32}
    return Job(name, "gradient", "listed_gradient_kernel", constants, ALL_REGISTERS, double=arithmetic.double)


def _prepare_job(
    name: str, similarity: Similarity, small: int, largest: int, dtype: torch.dtype = torch.float32
) -> Job:
    arithmetic = _arithmetic(similarity, dtype)
    block = slices_at_once(small)
    sizes = {"SMALL": small, "POSITIONS": largest, "BLOCK": block, "FILTERS": filters_at_once(block)}
    sizes["CONTIGUOUS"] = "any strides" not in name
    constants = {**_compiled(arithmetic.of_prepare(_CPU)), **sizes}
    return Job(name, "prepare", "prepare_kernel", constants, {}, double=arithmetic.double)


def _finish_job(name: str, similarity: Similarity, positions: int, dtype: torch.dtype = torch.float32) -> Job:
    arithmetic = _arithmetic(similarity, dtype)
    block = slices_at_once(positions)
    sizes = {"POSITIONS": positions, "BLOCK": block, "FILTERS": filters_at_once(block)}
    constants = {**_compiled(arithmetic.of_weight(_CPU)), **sizes}
    return Job(name, "prepare", "finish_gradient_kernel", constants, {}, double=arithmetic.double)


def _with_constants(job: Job, **constants: int) -> Job:
    return replace(job, constants={**job.constants, **constants})


def count(job: Job, architecture: Architecture) -> Count:
    """Compiles one kernel for one architecture and counts its instructions."""
    options = {"num_warps": 4, **LAUNCH, **job.options}
    if isinstance(architecture, str):
        options.pop("maxnreg", None)  # NVIDIA's alone
        return _count_of_amd(
            job, architecture, triton.compile(_source(job), GPUTarget("hip", architecture, 64), options)
        )
    compiled = triton.compile(_source(job), GPUTarget("cuda", architecture, 32), options)
    code, usage = disassembled(compiled.asm["cubin"])
    loop = hot_loop(code) if job.terms else None
    per_term = {kind: number / (job.terms * 32) for kind, number in kinds(loop).items()} if loop else {}
    return Count(
        name=job.name,
        architecture=architecture,
        registers=int(re.search(r"REG:(\d+)", usage)[1]),
        shared=compiled.metadata.shared,
        spilled=int(re.search(r"STACK:(\d+)", usage)[1]) + int(re.search(r"LOCAL:(\d+)", usage)[1]),
        doubles=sum(_kind(one.name) == "double" or ".F64" in one.text.split()[0] for one in code),
        cycles=cycles(per_term) if per_term else 0.0,
        per_term=per_term,
    )


def _count_of_amd(job: Job, architecture: str, compiled: Any) -> Count:
    """By the compiler's own numbers: there is no model of what a term costs."""
    code = compiled.asm["amdgcn"]

    def number(name: str) -> int:
        return int(re.search(rf"\.{name}:\s+(\d+)", code)[1])

    return Count(
        name=job.name,
        architecture=architecture,
        registers=number("vgpr_count"),
        shared=compiled.metadata.shared,
        spilled=number("vgpr_spill_count") + number("private_segment_fixed_size"),
        doubles=len(re.findall(r"^\s+v_\w+_f64", code, re.MULTILINE)),
        cycles=0.0,
        per_term={},
    )


def _source(job: Job) -> ASTSource:
    modules = {"tiles": tiles, "gradient": gradient, "listed": listed, "prepare": prepare, "soft": soft}
    kernel = getattr(modules[job.module], job.kernel)
    number = "fp64" if job.double else "fp32"
    signature: dict[str, Any] = {}
    aligned: dict[tuple[int, ...], list[Any]] = {}
    for index, name in enumerate(kernel.arg_names):
        if name in job.constants:
            signature[name] = "constexpr"
        elif name == "scalars":
            signature[name] = "*fp64" if job.double else ("fp32",) * job.constants["NUMBER"]
        elif name in _TABLES:
            signature[name] = "*i64"
        elif name in _DATA:
            signature[name] = f"*{job.weight}" if name == "weight" and job.weight else f"*{number}"
        elif name in _PLACES:
            signature[name] = ("i32",) * _PLACES[name]
        else:
            signature[name] = "i32"
        if name in (*_TABLES, *_DATA) or (name == "scalars" and job.double):
            aligned[(index,)] = [["tt.divisibility", 16]]
        for part in range(_PLACES.get(name, 0)):
            aligned[(index, part)] = [["tt.divisibility", 16]]
    return ASTSource(fn=kernel, signature=signature, constexprs=job.constants, attrs=aligned)


def disassembled(cubin: bytes) -> tuple[list[Instruction], str]:
    """The instructions, and the compiler's report of resources."""
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        run = [str(tool), "-sass", "-res-usage", file.name]
        text = subprocess.run(run, capture_output=True, text=True, check=True).stdout
    code = []
    for line in text.splitlines():
        if match := re.match(r"^\s+/\*([0-9a-f]{4,5})\*/\s+(.*?);", line):
            guard, instruction = re.fullmatch(r"(@!?U?P\w+\s+)?(.*)", match[2].strip()).groups()
            code.append(Instruction(int(match[1], 16), guard is not None, instruction))
    return code, text


def hot_loop(code: list[Instruction]) -> collections.Counter[str]:
    """The loop with the most arithmetic: what leads from a jump's target back to the jump.

    Found along the jumps, not between addresses: the compiler puts waiting for memory, and a copy of the last turn,
    behind the loop.
    """
    names = {instruction.address: instruction.name for instruction in code}
    after = {instruction.address: _successors(code, place) for place, instruction in enumerate(code)}
    jumps = [(at, target) for at, targets in after.items() for target in targets]
    before: dict[int, list[int]] = {at: [] for at in after}
    for at, target in jumps:
        before[target].append(at)
    loops = [_reached(target, after) & _reached(at, before) for at, target in jumps if target <= at]
    counters = [collections.Counter(names[at] for at in loop) for loop in loops]
    return max(counters, key=lambda loop: sum(n for op, n in loop.items() if _kind(op) in ("special", "fma", "wide")))


def _successors(code: list[Instruction], place: int) -> list[int]:
    """The addresses of what may be executed next; a call returns."""
    here = code[place]
    jump = re.fullmatch(r"BRA\S*(.*?)\s*0x([0-9a-f]+)", here.text)
    targets = [int(jump[2], 16)] if jump else []
    ends = here.name in ("EXIT", "RET") or (jump and not jump[1])
    if (here.guarded or not ends) and place + 1 < len(code):
        targets.append(code[place + 1].address)
    return targets


def _reached(start: int, edges: dict[int, list[int]]) -> set[int]:
    """All that can be reached along the edges, `start` included."""
    found, left = {start}, [start]
    while left:
        for other in edges[left.pop()]:
            if other not in found:
                found.add(other)
                left.append(other)
    return found


def kinds(loop: collections.Counter[str]) -> dict[str, int]:
    """Instructions of a loop by the pipe they take."""
    found: collections.Counter[str] = collections.Counter()
    for op, number in loop.items():
        found[_kind(op)] += number
    return dict(found)


def _kind(name: str) -> str:
    for kind, names in (
        ("fma", _FMA),
        ("wide", _WIDE),
        ("special", _SPECIAL),
        ("memory", _MEMORY),
        ("tensor", _TENSOR),
        ("double", _DOUBLE),
        ("control", _CONTROL),
    ):
        if name in names:
            return kind
    return "uniform" if name.startswith("U") or name in {"R2UR", "S2UR"} else "logic"


def cycles(per_term: dict[str, float]) -> float:
    """Cycles of a scheduler for 32 terms, by the cost model above; per_term: instructions of a warp over terms."""
    n = collections.defaultdict(float, {kind: 32 * number for kind, number in per_term.items()})
    return max(sum(n.values()), 8 * n["special"], 2 * n["logic"], n["fma"] + 2 * n["wide"])


def counts(names: str = "", architectures: tuple[Architecture, ...] = ARCHITECTURES, workers: int = 1) -> list[Count]:
    """The counts of all jobs whose name contains `names`, on all architectures."""
    makers = [tuple(each for each in architectures if isinstance(each, kind)) for kind in (int, str)]
    return [count for maker in makers for count in _counts_of_maker(names, maker, workers)]


def _counts_of_maker(names: str, architectures: tuple[Architecture, ...], workers: int) -> list[Count]:
    """Of one maker's architectures: in processes of their own, since Triton takes no constant that changes."""
    chosen = [(job.name, each) for each in architectures for job in jobs(each) if names in job.name]
    if not chosen:
        return []
    with ProcessPoolExecutor(workers, initializer=_set_constants, initargs=(architectures[0],)) as pool:
        return list(pool.map(_count_of_name, *zip(*chosen, strict=True)))


def _set_constants(architecture: Architecture) -> None:
    """As they are where torch is made for this maker's GPUs."""
    elementary.APPROXIMATE = tl.constexpr(isinstance(architecture, int))


def _count_of_name(name: str, architecture: Architecture) -> Count:
    """A device function, which a job holds, can't be sent to another process."""
    return count(next(job for job in jobs(architecture) if job.name == name), architecture)


def table(rows: list[Count]) -> str:
    """One line a kernel and architecture."""
    lines = ["| kernel | for | registers | shared | spilled | cycles | special | logic | FMA | memory | tensor |",
             "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|"]  # fmt: skip
    for row in rows:
        parts = [f"{32 * row.per_term.get(kind, 0):.1f}" for kind in ("special", "logic", "fma", "memory", "tensor")]
        shown = [f"{row.cycles:.1f}", *parts] if row.cycles else [""] * 6
        cells = [row.name, row.architecture, row.registers, row.shared, row.spilled, *shown]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="a part of the kernels' names")
    parser.add_argument(
        "--architecture", action="append", choices=[str(each) for each in ARCHITECTURES], help="all by default"
    )
    parser.add_argument("--json", action="store_true", help="print the counts as JSON")
    arguments = parser.parse_args()
    chosen = tuple(each for each in ARCHITECTURES if str(each) in (arguments.architecture or ()))
    found = counts(arguments.only, chosen or ARCHITECTURES, len(os.sched_getaffinity(0)))
    print(json.dumps([asdict(row) for row in found]) if arguments.json else table(found))
