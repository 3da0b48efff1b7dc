"""`ckrm train`, `ckrm search` and its `--rule error` killed: they must end with what an unbroken run ends with.

Run by hand, `python tests/killed.py [KILLS]`; it takes some minutes. Each kill has a folder of its own: the command is
started there, ended by SIGKILL at a random instant (search also while it writes its report), and started again until
it is done. Then report.json and run.json less their seconds, report.txt, scores.json and every weights.safetensors
have to be, byte for byte, those of the unbroken run. Half of the kills are of one process, half of two side by side.
Prints one line a kill; the exit code is 1 where anything differs. KILLS, 10 by default, is the number for each command.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

SEED = 0
NETWORK = {"stem": 6, "inner": ((8,), (8,), (16,)), "out": (8, 8, 24)}
COMPARED = ("report.json", "report.txt", "scores.json", "networks/*/*/*", "seed-*/*")


def run(command: str, folder: Path, processes: int) -> None:
    """The command, with a checkpoint every few batches, and a core for each process so that each has one thread."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-processes:])
    from ckrm_kernels.models import network_shape
    from ckrm_kernels.training import Runtime, TrainingConfig
    from ckrm_kernels.training.runs import RunsConfig, train_runs
    from ckrm_kernels.width_search import RuleConfig, WidthSearchConfig, search_widths

    runtime = Runtime(device="cpu", checkpoint_seconds=0.05)
    network = replace(network_shape("resnet-digits"), **NETWORK)
    if command == "train":
        # rises and falls of the loss, so that the best weights and the plateau's schedule are part of the state
        training = TrainingConfig(epochs=8, optimizer="adamw", schedule="plateau", plateau_patience=1, batch_size=128)
        config = RunsConfig(network=network, training=training, seeds=(0, 1, 2))
        train_runs(folder, config, runtime=runtime, processes=processes)
    else:
        training = TrainingConfig(epochs=3, weight_decay=0.1)
        rule = RuleConfig(by="error" if command == "error" else "redundancy")
        config = WidthSearchConfig(network=network, training=training, rule=rule, seeds=2, final_seeds=3)
        search_widths(folder, config, runtime=runtime, processes=processes)


def start(command: str, folder: Path, processes: int) -> subprocess.Popen[bytes]:
    """The command in a process group of its own."""
    arguments = [sys.executable, __file__, "--run", command, str(folder), str(processes)]
    root = str(Path(__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
    output = (folder.parent / f"{folder.name}.log").open("ab")
    return subprocess.Popen(arguments, env=environment, stdout=output, stderr=output, start_new_session=True)


def killed(command: str, folder: Path, processes: int, due: Callable[[float], bool]) -> float | None:
    """When the command was killed, once `due` of the seconds since its start; None where it was done before."""
    process, started = start(command, folder, processes), time.monotonic()
    while process.poll() is None:
        if due(time.monotonic() - started):
            process.send_signal(signal.SIGKILL)
            process.wait()
            return time.monotonic() - started
        time.sleep(0.001)
    return None


def content(folder: Path) -> dict[str, bytes | str]:
    """What the runs ended with, by file."""
    files: dict[str, bytes | str] = {}
    for pattern in COMPARED:
        for path in sorted(folder.glob(pattern)):
            if path.suffix == ".json":
                value = json.loads(path.read_text())
                value.pop("seconds", None)
                files[str(path.relative_to(folder))] = json.dumps(value)
            else:
                files[str(path.relative_to(folder))] = path.read_bytes()
    return files


def check(command: str, kills: int, root: Path) -> bool:
    """Whether every killed run of the command ended as the unbroken one."""
    expected, seconds = {}, {}
    for processes in (1, 2):
        folder, started = root / f"{command}-{processes}", time.monotonic()
        if start(command, folder, processes).wait():
            raise RuntimeError(f"the unbroken run failed, see {folder}.log")
        expected[processes], seconds[processes] = content(folder), time.monotonic() - started
        print(f"{command}, {processes} processes: unbroken in {seconds[processes]:.1f} s", flush=True)
    right, instants = True, random.Random(SEED)
    for kill in range(kills):
        processes, folder = 1 + kill % 2, root / f"{command}-kill-{kill}"
        instant = instants.uniform(1.5, seconds[processes])  # before, it only imports
        due, how = (lambda passed, instant=instant: passed > instant), ""
        if command != "train" and kill % 5 == 4:
            wanted = ("report.txt", "figures", "report.html")[kill // 5 % 3]
            due, how = (lambda _, path=folder / wanted: path.exists()), f" as it wrote {wanted}"
        when = killed(command, folder, processes, due)
        left = len(list(folder.glob("**/unfinished.pt")))
        code = start(command, folder, processes).wait()
        ended = content(folder)
        different = sorted(
            name for name in {*ended, *expected[processes]} if ended.get(name) != expected[processes].get(name)
        )
        verdict = (
            "the same" if not code and not different else f"exit code {code}, different: {different}, see {folder}.log"
        )
        told = "done before its kill" if when is None else f"killed after {when:.2f} s{how}, {left} runs unfinished"
        print(f"{command}, {processes} processes: {told}: {verdict}", flush=True)
        right &= not code and not different
    return right


def main() -> None:
    if sys.argv[1:2] == ["--run"]:
        run(sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))
        return
    kills = int(sys.argv[1]) if sys.argv[1:] else 10
    root = Path(tempfile.mkdtemp(prefix="killed-"))
    right = [check(command, kills, root) for command in ("train", "search", "error")]
    sys.exit(0 if all(right) else 1)


if __name__ == "__main__":
    main()
