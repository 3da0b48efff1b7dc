"""Is a shrunk network ever another one, without a word? `python docs/studies/shrinking/zoo`.

Shrinks small networks of many kinds, and known architectures built from configuration by transformers and MONAI, by
this package and by torch-pruning, and judges each result from the two networks alone (judge.py). Each model and tool
in a process of its own, on one thread, one at a time. Writes results.csv, one line a model, and results.md beside this
file; what they have already is not measured again.

It needs an environment with torch-pruning 1.6.1, transformers, MONAI and einops beside this package:

    pip install torch==2.13.0 && pip install . torch-pruning==1.6.1 transformers monai einops torch==2.13.0
"""

from __future__ import annotations

import argparse
import csv
import importlib
import json
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path

HERE = Path(__file__).parent
TOOLS = {"ours": "ours", "torch-pruning": "peer"}
MARK = "RESULT "


def main() -> None:
    """Measures what is missing, and writes the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help="names of models, or parts of them; default: all")
    parser.add_argument("--tool", choices=TOOLS, action="append", help="measure this one alone")
    parser.add_argument("--again", action="store_true", help="measure anew what is in the file")
    parser.add_argument("--seconds", type=float, default=300, help="limit of a model and tool")
    parser.add_argument(
        "--file", type=Path, default=HERE / "results.csv", help="the CSV file; the table stands beside it"
    )
    parser.add_argument("--collection", default="models", help="module of the models")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    sys.path.insert(0, str(HERE))
    models = importlib.import_module(options.collection).models()
    if options.measure:
        print(MARK + json.dumps(measure(models[options.models[0]], options.tool[0])))
        return
    tables = importlib.import_module("tables")
    rows = read(options.file)
    for name, model in models.items():
        if options.models and not any(part in name for part in options.models):
            continue
        row = rows.setdefault(name, {"model": name, "family": model.family})
        for tool in options.tool or TOOLS:
            if options.again or not row.get(f"{tool} seconds"):
                keep = {column: value for column, value in row.items() if not column.startswith(f"{tool} ")}
                row = rows[name] = keep | in_a_process(name, tool, options)
                tables.write(rows, list(models), options.file)
                print(name, tables.summary(row, tool), sep=": ", flush=True)
    tables.write(rows, list(models), options.file)


def measure(model, tool: str) -> dict[str, object]:
    """The columns of a tool for a model, in this process."""
    import judge
    import torch

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network, inputs = model.build()
    judge.with_single_values(network).eval()
    inputs = tuple(x.double() if x.is_floating_point() else x for x in inputs)
    counts = {"parameters": judge.parameters(network)} if tool == "ours" else {}
    return counts | importlib.import_module(TOOLS[tool]).measured(network, inputs, model.reads)


def in_a_process(name: str, tool: str, options: argparse.Namespace) -> dict[str, str]:
    """The columns of a tool for a model, from a process of its own, with its time or what ended it."""
    command = [sys.executable, __file__, name, "--tool", tool, "--measure", "--collection", options.collection]
    start = time.perf_counter()
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=options.seconds, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        lines = [line for line in done.stdout.splitlines() if line.startswith(MARK)]
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        found = json.loads(lines[-1][len(MARK) :]) if lines else {"failed": last[:200]}
    except subprocess.TimeoutExpired:
        found = {"failed": f"no end in {options.seconds:.0f} s"}
    found["seconds"] = f"{time.perf_counter() - start:.0f}"
    return {f"{tool} {column}": str(value) for column, value in found.items()}


def read(path: Path) -> dict[str, dict[str, str]]:
    """The rows of an earlier run by model; empty columns left out."""
    if not path.exists():
        return {}
    with path.open(encoding="utf-8", newline="") as file:
        return {row["model"]: {key: value for key, value in row.items() if value} for row in csv.DictReader(file)}


if __name__ == "__main__":
    main()
