"""What shrinking keeps of a network's accuracy: `python docs/studies/shrinking/study.py`.

Four kinds of networks are trained on Fashion-MNIST from several seeds and shrunk to several sizes, in several ways and
with several compensations, beside networks of the same size trained from scratch. Every finished network is a line of
cells.jsonl beside this file: killed at any moment, the same command goes on, and two at once share the work. When all
is done, or with --report at once, it writes accuracy.csv and accuracy.png and prints the tables. What was found:
docs/studies/shrinking/index.md.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path

import torch
from cells import PEER, Cell, Results, all_cells
from computing import Bench
from fashion import fashion
from filelock import FileLock, Timeout
from reporting import write_report

HERE = Path(__file__).parent


def main() -> None:
    """Computes what is not done yet, and reports; ends with 1 where a cell failed."""
    options = _parser().parse_args()
    torch.set_num_threads(1)
    results = Results(options.results)
    failed = 0 if options.report else compute(options, results)
    if done := list(results.read().values()):
        write_report(done, HERE)
    if failed:
        raise SystemExit(f"{failed} cells failed; see above")


def compute(options: argparse.Namespace, results: Results) -> int:
    """All cells, the most important first, but for those that another process is at; how many failed."""
    bench = Bench(fashion(options.data), options.networks, options.peer_python)
    cells = [cell for cell in all_cells() if options.only in (None, cell.method)]
    if options.peer_python is None:
        print("without --peer-python torch-pruning's rows are left out", file=sys.stderr)
        cells = [cell for cell in cells if cell.method != PEER]
    failed = 0
    for number, cell in enumerate(cells, 1):
        folder = bench.folder / cell.folder
        folder.mkdir(parents=True, exist_ok=True)
        with suppress(Timeout), FileLock(folder / ".lock", blocking=False):
            if cell not in results.read():
                try:
                    compute_one(bench, cell, results, f"{number} of {len(cells)}")
                except Exception:  # the others do not depend on it
                    traceback.print_exc()
                    print(f"{cell} failed", file=sys.stderr, flush=True)
                    failed += 1
    return failed


def compute_one(bench: Bench, cell: Cell, results: Results, place: str) -> None:
    """Computes the cell and says how it went."""
    result = bench.compute(cell)
    results.add(result)
    scores = ", ".join(f"{name} {score:.4f}" for name, score in result.accuracy.items())
    words = f"{cell.architecture} {cell.seed}, {cell.method}, {cell.share:g}, tuned {cell.epochs}"
    print(f"{time.strftime('%H:%M:%S')} {place}: {words}: {scores} ({result.seconds:.0f} s)", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", type=Path, default="/usr/share/datasets/fashion-mnist", help="folder of Fashion-MNIST's IDX files")
    add("--networks", type=Path, default="runs/shrinking", help="folder in which networks are kept")
    add("--results", type=Path, default=HERE / "cells.jsonl", help="file of finished cells")
    add("--peer-python", type=Path, help="interpreter of an environment with torch and torch-pruning")
    add("--only", help="one method's cells alone, such as error")
    add("--report", action="store_true", help="compute nothing; write the table and the figure of what is done")
    return parser


if __name__ == "__main__":
    main()
