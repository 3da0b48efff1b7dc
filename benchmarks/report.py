"""Turns the JSON of a pytest-benchmark run into the table of benchmarks/results, named after the processor.

python benchmarks/report.py build/benchmarks.json
"""

from __future__ import annotations

import json
import os
import re
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
OURS = "ckrm_kernels"


@dataclass(frozen=True)
class Record:
    """One candidate's median time of one operation on one layer, and the work in it."""

    operation: str
    layer: str
    candidate: str
    form: str
    threads: int
    seconds: float
    slice_pairs: int = 0
    extra_bytes: int | None = None

    @classmethod
    def of(cls, info: dict[str, Any], seconds: float) -> Record:
        """From the extra_info of a benchmark."""
        return cls(seconds=seconds, **info)


def tables(records: list[Record]) -> str:
    """Markdown: the times, then the memory."""
    timed = [record for record in records if record.extra_bytes is None]
    memory = [record for record in records if record.extra_bytes is not None]
    return "\n\n".join(form(some) for form, some in ((time_table, timed), (memory_table, memory)) if some)


def time_table(records: list[Record]) -> str:
    """A row a candidate, grouped by operation and layer."""
    lines = ["| operation | layer | | ms | slice pairs / s | times ours |", "|---|---|---|--:|--:|--:|"]
    for record in records:
        ours = next((one.seconds for one in records if one.candidate == OURS and alike(one, record)), None)
        name = f"{record.candidate} ({record.form})" if record.form else record.candidate
        cells = [
            record.operation,
            record.layer,
            name,
            f"{record.seconds * 1e3:.3g}" if record.seconds < 1 else f"{record.seconds * 1e3:.0f}",
            f"{record.slice_pairs / record.seconds:.2g}" if record.slice_pairs else "",
            f"{record.seconds / ours:.3g} x" if ours and record.candidate != OURS else "",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def alike(a: Record, b: Record) -> bool:
    return (a.operation, a.layer) == (b.operation, b.layer)


def memory_table(records: list[Record]) -> str:
    """What the operations hold at their peak beyond inputs and outputs."""
    lines = ["| operation | layer | MB beyond inputs and outputs | weights |", "|---|---|--:|--:|"]
    for record in records:
        filters, slices, *kernel = (int(size) for size in record.layer.split("x"))
        weight = 4 * filters * slices * kernel[0] * kernel[1]
        extra = record.extra_bytes or 0
        lines.append(f"| {record.operation} | {record.layer} | {extra / 1e6:.1f} | {extra / weight:.2f} |")
    return "\n".join(lines)


def records_of(run: dict[str, Any]) -> list[Record]:
    """The records in the JSON of pytest-benchmark."""
    return [Record.of(one["extra_info"], one["stats"]["median"]) for one in run["benchmarks"]]


def main(path: Path) -> None:
    """Writes results/<processor>-<threads>-threads.json and .md."""
    run = json.loads(path.read_text())
    records = records_of(run)
    if not records:
        sys.exit(f"{path} holds no benchmarks")
    processor = run["machine_info"]["cpu"].get("brand_raw") or run["machine_info"]["machine"]
    name = re.sub(r"[^a-z0-9]+", "-", processor.lower()).strip("-") + f"-{records[0].threads}-threads"
    machine = {"processor": processor, "threads": records[0].threads, **versions(run), "date": run["datetime"][:10]}
    heading = ", ".join(f"{key} {value}" for key, value in machine.items() if key != "processor")
    text = f"# {processor}\n\n{heading}. Medians, in turns with each other.\n\n{tables(records)}\n"
    RESULTS.mkdir(exist_ok=True)
    write(RESULTS / f"{name}.md", text)
    write(
        RESULTS / f"{name}.json", json.dumps({**machine, "records": [asdict(one) for one in records]}, indent=1) + "\n"
    )
    print(f"{RESULTS / name}.md")


def versions(run: dict[str, Any]) -> dict[str, str]:
    return {"python": run["machine_info"]["python_version"], **run["machine_info"].get("packages", {})}


def write(path: Path, text: str) -> None:
    temporary = path.with_suffix(path.suffix + ".part")
    temporary.write_text(text)
    os.replace(temporary, path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
