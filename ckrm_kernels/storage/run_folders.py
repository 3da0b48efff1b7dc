"""Where a trained network lies, and the names of its files: what the folders of a run look like from outside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ckrm_kernels.storage.files import read_json

WEIGHTS, RECORD = "weights.safetensors", "run.json"
NETWORKS = "networks.json"
"""Of a finished search: for each network compared, by name, the folder with its seeds, relative to the search's."""
_SEED = "seed-"


def seed_folder(folder: Path, seed: int) -> Path:
    """The folder of a seed's network, within that of all seeds."""
    return folder / f"{_SEED}{seed}"


def finished_run(folder: str | Path, which: str | None = None, seed: int | None = None) -> Path:
    """The folder of one finished network, with its weights and its record.

    folder: that of a seed itself; that of `ckrm train`, or of one network of a search, with all seeds; or that of a
        finished search
    which: of a search, one of the networks compared: "standard", "searched" ("narrower" where it shrunk nothing),
        "uniform" and, of one by error, "uniform-macs", "shrunk" and "tuned"; by default the one that it ended with,
        searched or, where it shrunk nothing, standard
    seed: by default the first that is finished
    Raises FileNotFoundError where there is no such folder, and ValueError where it holds no such network.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder")
    if _is_finished(folder):
        _check_not_given(which=which, seed=seed, what=f"{folder} holds one network")
        return folder
    if (folder / NETWORKS).exists():
        return _of_seed(folder / _of_search(folder, which), seed)
    if (folder / "state.json").exists():
        raise ValueError(f"the search in {folder} is not finished; `ckrm search --resume {folder}` goes on with it")
    _check_not_given(which=which, what=f"{folder} holds no search of `ckrm search`")
    return _of_seed(folder, seed)


def _of_search(folder: Path, which: str | None) -> str:
    folders: dict[str, str] = read_json(folder / NETWORKS)
    found = "searched" if "searched" in folders else "standard"
    if which is not None and which not in folders:
        raise ValueError(f"which must be one of {', '.join(folders)}, which {folder} holds, got {which!r}")
    return folders[which or found]


def finished_seeds(folder: Path) -> list[int]:
    """The seeds of the finished networks in a folder, ascending."""
    return sorted(int(path.name.removeprefix(_SEED)) for path in folder.glob(f"{_SEED}*") if _is_finished(path))


def _of_seed(folder: Path, seed: int | None) -> Path:
    finished = finished_seeds(folder)
    if not finished:
        raise ValueError(f"{folder} holds no trained network, with {WEIGHTS} and {RECORD}, and no finished search")
    if seed is not None and seed not in finished:
        raise ValueError(f"seed must be one of {', '.join(map(str, finished))}, which {folder} holds, got {seed!r}")
    return seed_folder(folder, finished[0] if seed is None else seed)


def _is_finished(folder: Path) -> bool:
    return (folder / WEIGHTS).exists() and (folder / RECORD).exists()


def _check_not_given(what: str, **arguments: Any) -> None:
    for name, value in arguments.items():
        if value is not None:
            raise ValueError(f"{name} must be left out, {what}, got {value!r}")
