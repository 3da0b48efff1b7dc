"""Which files are one checkpoint, where to read them, and what tells them from others."""

from __future__ import annotations

import json
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

from ckrm_kernels.checkpoints.distributed_folders import METADATA, PARTS
from ckrm_kernels.checkpoints.foreign import foreign_folder
from ckrm_kernels.checkpoints.stored import CheckpointError
from ckrm_kernels.report.result import Source
from ckrm_kernels.report.selection import natural
from ckrm_kernels.storage.files import sha256_of

_INDEX = re.compile(r".+\.index(\.[\w-]+)?\.json")
_SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})(\..+)")
_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".tar", ".npz", ".npy", ".onnx", ".pt2", ".ts", ".jit")
_BESIDE = re.compile(r"(optimizer|scheduler|scaler|rng_state|random_states|training_args)(?![a-z]).*|unfinished\.pt")
_MODELS = (  # the names that libraries look for first, in their order
    "weights.safetensors",
    "model.safetensors",
    "diffusion_pytorch_model.safetensors",
    "pytorch_model.bin",
    "diffusion_pytorch_model.bin",
)
_SHOWN = 8
_CHUNK = 1 << 20


@dataclass(frozen=True)
class _Shard:
    """The name of one file of a set, such as `model-00001-of-00002.safetensors`."""

    stem: str
    number: int
    total: int
    end: str

    @staticmethod
    def of(name: str) -> _Shard | None:
        match = _SHARD.fullmatch(name)
        return _Shard(match[1], int(match[2]), int(match[3]), match[4]) if match else None

    def __str__(self) -> str:
        return f"{self.stem}-{self.number:05}-of-{self.total:05}{self.end}"

    @property
    def of_set(self) -> str:
        """A name that all shards of the set have in common."""
        return str(replace(self, number=0))


@dataclass(frozen=True)
class CheckpointFiles:
    """The files that are one checkpoint.

    index: which lists them, if one does; listed: the file of each tensor by its name, as the index says
    """

    files: tuple[Path, ...]
    index: Path | None = None
    listed: Mapping[str, Path] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What errors and notes begin with."""
        return str(self.files[0])

    @property
    def with_content(self) -> tuple[Path, ...]:
        """The files that say what they hold; of a distributed checkpoint one says it of all."""
        return self.files[:1] if self.files[0].name == METADATA else self.files


def checkpoint_files(paths: Sequence[Path]) -> list[CheckpointFiles]:
    """The files of each checkpoint that the paths mean, in their order.

    A file is one checkpoint, and so are the shards that an index (`model.safetensors.index.json`) lists, those of one
    set (`model-00001-of-00002.safetensors`) given together, and those in a folder. A folder may be one that
    torch.distributed.checkpoint wrote, or hold one of these beside an optimiser's, an index, one checkpoint file, or
    one beside others by a name that libraries look for, the shards of one set, or folders `seed-N` with
    `weights.safetensors`, each a checkpoint.
    Only looks at names and indexes: a pipe is not opened.
    Raises CheckpointError for what is not there, an incomplete set, and a folder with nothing or too much to read.
    """
    found: list[CheckpointFiles | list[Path]] = []
    sets: dict[tuple[Path, str], list[Path]] = {}
    for path in paths:
        if _is_folder(path):
            found += _in_folder(path)
        elif _INDEX.fullmatch(path.name):
            found.append(_of_index(path))
        elif path.name == METADATA:
            found.append(_of_distributed(path.parent))
        elif shard := _Shard.of(path.name):
            key = (path.parent, shard.of_set)
            if key not in sets:
                found.append(sets.setdefault(key, []))
            sets[key].append(path)
        else:
            found.append(CheckpointFiles((path,)))
    return [_whole_set(files) if isinstance(files, list) else files for files in found]


@contextmanager
def readable(path: Path) -> Iterator[Path]:
    """A path of the same content that can be read at any place: the path itself, or for a pipe a temporary copy.

    The copy is gone at the end. What was mapped from it stays valid: Linux and macOS keep the content of an unlinked
    file for as long as it is mapped, and elsewhere a pipe has no path.
    Raises CheckpointError for what can't be read, and for devices, whose content may have no end.
    """
    try:
        mode = path.stat().st_mode
        if stat.S_ISREG(mode):
            path.open("rb").close()
        elif not stat.S_ISFIFO(mode):
            raise CheckpointError(f"{path}: is a device or a socket, not a file")
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from None
    if stat.S_ISREG(mode):
        yield path
        return
    with ExitStack() as stack:
        try:
            copy = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ckrm-")), "checkpoint")
            with path.open("rb") as pipe, copy.open("xb") as file:
                shutil.copyfileobj(pipe, file, _CHUNK)
        except OSError as error:
            raise CheckpointError(f"{path}: can't be copied to read it: {error.strerror}") from None
        yield copy


def source_of(path: Path, weights: str = "", *, content: Path | None = None) -> Source:
    """What tells a checkpoint's file from others: its name as given, its size and the SHA-256 of its content.

    weights: which of its weights are meant, where it holds several
    content: where its content lies, see `readable`; None: at the path
    Raises CheckpointError.
    """
    try:
        digest, size = sha256_of(content or path)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from None
    return Source(str(path), size, digest, weights)


def _unreadable(path: Path, error: Exception) -> CheckpointError:
    if isinstance(error, CheckpointError):
        return error
    if isinstance(error, FileNotFoundError):
        return CheckpointError(f"{path}: no such file")
    reason = error.strerror if isinstance(error, OSError) else error
    return CheckpointError(f"{path}: can't be read: {reason}")


def _is_folder(path: Path) -> bool:
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from None


def _of_index(index: Path) -> CheckpointFiles:
    """The files that an index of Hugging Face's form lists, in the order of their names."""
    try:
        content = json.loads(index.read_bytes())
    except OSError as error:
        raise _unreadable(index, error) from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{index}: is not valid JSON ({error})") from None
    weights = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(weights, dict) or not weights or not all(isinstance(name, str) for name in weights.values()):
        raise CheckpointError(f'{index}: must hold "weight_map", the file of each weight by its name')
    names = sorted(set(weights.values()))
    for name in names:
        # by the name alone: in a cache of Hugging Face the files themselves are links that leave the folder
        if not name or "\0" in name or "\\" in name or PurePosixPath(name).is_absolute() or ".." in Path(name).parts:
            raise CheckpointError(f"{index}: lists {name!r}, which is not in its folder")
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise CheckpointError(f"{index}: lists files that are not there: {_some(missing)}")
    listed = {tensor: index.parent / name for tensor, name in weights.items()}
    return CheckpointFiles(tuple(index.parent / name for name in names), index, listed)


def _of_distributed(folder: Path) -> CheckpointFiles:
    """The files of a folder that torch.distributed.checkpoint wrote, the one that describes the others first."""
    return CheckpointFiles((folder / METADATA, *sorted(folder.glob(PARTS), key=lambda path: natural(path.name))))


def _whole_set(files: Sequence[Path]) -> CheckpointFiles:
    """The shards of one set in their order; raises CheckpointError where some lack."""
    paths = {shard.number: path for path in files if (shard := _Shard.of(path.name))}
    one = _Shard.of(files[0].name)
    assert one is not None
    first = 0 if 0 in paths else 1
    expected = range(first, first + one.total)
    if missing := [str(replace(one, number=number)) for number in expected if number not in paths]:
        raise CheckpointError(f"{files[0]}: is one of {one.total} shards, pass the others too: {_some(missing)}")
    if unexpected := [path.name for number, path in paths.items() if number not in expected]:
        raise CheckpointError(f"{files[0]}: is one of {one.total} shards, and none of them is {_some(unexpected)}")
    return CheckpointFiles(tuple(paths[number] for number in sorted(paths)))


def _in_folder(folder: Path) -> list[CheckpointFiles]:
    try:
        names = sorted(path.name for path in folder.iterdir())
    except OSError as error:
        raise _unreadable(folder, error) from None
    if METADATA in names:
        return [_of_distributed(folder)]
    if any(fnmatch(name, PARTS) for name in names):
        raise CheckpointError(
            f"{folder}: is a distributed checkpoint without {METADATA}, which is written last: its saving did not end, "
            "or that file was not copied; take an earlier one, or save it anew"
        )
    seeds = [folder / name for name in names if re.fullmatch(r"seed-\d+", name)]
    indexes = [name for name in names if _INDEX.fullmatch(name)]
    files = [name for name in names if _is_checkpoint(folder / name)]
    if len(indexes) > 1:  # the standard ones of both formats, or variants beside them
        indexes = [f"{name}.index.json" for name in _MODELS if f"{name}.index.json" in indexes][:1] or indexes
    if len(indexes) == 1:
        return [_of_index(folder / indexes[0])]
    if standard := next((name for name in _MODELS if name in files), None):
        return [CheckpointFiles((folder / standard,))]
    if not indexes and len(files) == 1 and not _Shard.of(files[0]):
        return [CheckpointFiles((folder / files[0],))]
    shards = [shard for name in files if (shard := _Shard.of(name))]
    if not indexes and len(shards) == len(files) and len({shard.of_set for shard in shards}) == 1:
        return [_whole_set([folder / name for name in files])]
    if not files and seeds:
        return _of_seeds(seeds)
    inside = [name for name in names if not _BESIDE.match(name) and (folder / name / METADATA).is_file()]
    if not indexes and not files and len(inside) == 1:  # as Accelerate writes it, beside the optimiser's
        return [_of_distributed(folder / inside[0])]
    if words := foreign_folder(folder):
        raise CheckpointError(f"{folder}: {words}")
    if indexes or files:
        raise CheckpointError(f"{folder}: holds several checkpoints, pass one of them: {_some(indexes or files)}")
    raise CheckpointError(
        f"{folder}: is a folder without a checkpoint, it holds {_some(names) if names else 'nothing'}"
    )


def _is_checkpoint(path: Path) -> bool:
    return path.name.lower().endswith(_SUFFIXES) and not _BESIDE.match(path.name) and path.is_file()


def _of_seeds(folders: Sequence[Path]) -> list[CheckpointFiles]:
    """The weights that `ckrm train` left in each, in the order of the seeds."""
    files = [folder / "weights.safetensors" for folder in sorted(folders, key=lambda path: int(path.name[5:]))]
    missing = [path.parent.name for path in files if not path.is_file()]
    if missing:
        raise CheckpointError(
            f"{folders[0].parent}: is not trained to its end: no weights.safetensors in {_some(missing)}"
        )
    return [CheckpointFiles((path,)) for path in files]


def _some(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
