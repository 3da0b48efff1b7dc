"""From the paths of checkpoints to their layers."""

from __future__ import annotations

import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from ckrm_kernels.checkpoints.assembled import assembled
from ckrm_kernels.checkpoints.contents import Node, tree_of
from ckrm_kernels.checkpoints.modules import script_module
from ckrm_kernels.checkpoints.pickles import RefusedError
from ckrm_kernels.checkpoints.rows import (
    StoredLayer,
    in_memory,
    is_convolution_of_unknown_groups,
    layers_of,
    unmeasurable,
)
from ckrm_kernels.checkpoints.safetensors_files import read_safetensors
from ckrm_kernels.checkpoints.selection import NoSuchWeightsError, Selection, select
from ckrm_kernels.checkpoints.stored import CheckpointError, StoredTensor
from ckrm_kernels.checkpoints.torch_archives import read_pickled, torch_archive
from ckrm_kernels.distributed import ALONE, Team
from ckrm_kernels.layers import Layer, model_layers
from ckrm_kernels.report.result import Source

if TYPE_CHECKING:
    from ckrm_kernels.checkpoints.files import CheckpointFiles

UNKNOWN_GROUPS = (
    "a state dict does not say which convolutions are grouped or transposed, so all filters of a weight are compared; "
    "--like module:constructor reads it into its model"
)
_DAMAGED = "is a truncated or damaged checkpoint, or none at all"
_MOST = 1_000_000
_COUNTER = "num_batches_tracked"  # which no evaluation reads
_OTHER = "is not a checkpoint, or of a kind that is not read"


@dataclass(frozen=True)
class Checkpoint:
    """What was read of a file, or of the files that are one checkpoint together.

    stored: its layers, in the file's order or in its model's, each to be read when it is asked for
    sources: the files
    notes: which weights were read and which others there are, and what a file does not say
    """

    stored: tuple[StoredLayer, ...]
    sources: tuple[Source, ...]
    notes: tuple[str, ...]

    @property
    def outlines(self) -> tuple[Layer, ...]:
        """The layers without their numbers, which are on the meta device."""
        return tuple(each.outline for each in self.stored)

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """All layers with their numbers. Raises CheckpointError."""
        return tuple(each.read() for each in self.stored)


def read_checkpoints(
    paths: Sequence[str | Path],
    *,
    weights: str | None = None,
    like: Callable[[], nn.Module] | None = None,
    track: Callable[[Sequence[Any]], Iterable[Any]] = iter,
    team: Team = ALONE,
) -> list[Checkpoint]:
    """Reads checkpoints without running anything of them and without touching the state of the process.

    paths: files that `torch.save`, `torch.jit.save`, `torch.export.save`, safetensors, `numpy.savez` or an exporter to
        ONNX wrote; shards, an index or a folder of them
    weights: "model", "ema" or the dotted key of those to read where a file holds several; None: the model's
    like: makes the model whose weights they are, so that its groups and transposition are known
    track: wraps the iteration over the checkpoints, to show progress
    team: processes that all call, see the same files and share out their digests
    Tensors are memory-mapped where the file allows, and a layer is read when it is asked for.
    Raises CheckpointError, also when a layer is read, TypeError for a single path, and ValueError where the processes
    see different files.
    """
    from ckrm_kernels.checkpoints.files import checkpoint_files

    if isinstance(paths, (str, Path)):
        raise TypeError(f"paths must be a sequence of paths, got {str(paths)!r}: pass [path]")
    groups = checkpoint_files([Path(path) for path in paths])
    return [_checkpoint(files, weights, like, team) for files in track(groups)]


class _Content(NamedTuple):
    """What a file holds, and what is to be said of how it was read."""

    tree: Node
    notes: tuple[str, ...] = ()


class _File(NamedTuple):
    """What was read of one file.

    local: where its content lies; tree: all that it holds
    """

    path: Path
    local: Path
    chosen: Selection
    notes: tuple[str, ...]
    tree: Node


def read_model(
    path: str | Path, like: Callable[[], nn.Module], *, weights: str | None = None
) -> tuple[nn.Module, Checkpoint]:
    """A new model with the weights of a checkpoint, in evaluation mode, and what was read; see `read_checkpoints`.

    like: makes the model, whose types and shared tensors stay as they are; it is called twice
    Unlike for measuring, buffers such as a norm's running mean must be there. The checkpoint has no layers here.
    Raises CheckpointError, also where the path holds several checkpoints.
    """
    from ckrm_kernels.checkpoints.files import checkpoint_files

    groups = checkpoint_files([Path(path)])
    if len(groups) > 1:
        raise CheckpointError(f"{path}: holds {len(groups)} checkpoints, such as {groups[0].files[0]}: name one")
    with ExitStack() as open_copies:
        read = _read(groups[0], weights, open_copies)
        loaded = _model_of(like, read, groups[0].name)
        model = like()
        state = model.state_dict()
        there = {tensor.name for tensor in (*read.tensors, *read.as_stored)}
        buffers = [name for name, _ in model.named_buffers() if name in state and not name.endswith(_COUNTER)]
        if lacking := [name for name in buffers if name not in there]:
            raise CheckpointError(f"{path}: lacks {', '.join(lacking[:4])}, which the model computes with")
        model.load_state_dict(loaded.state_dict())
    return model.eval(), Checkpoint((), read.sources, read.notes)


class _Read(NamedTuple):
    """What was read of the files that are one checkpoint.

    as_stored: see `Selection`; is_copied: whether a file is a copy that will be gone
    """

    tensors: list[StoredTensor]
    as_stored: list[StoredTensor]
    sources: tuple[Source, ...]
    notes: tuple[str, ...]
    is_copied: bool


def _checkpoint(
    files: CheckpointFiles, weights: str | None, like: Callable[[], nn.Module] | None, team: Team
) -> Checkpoint:
    with ExitStack() as open_copies:
        read = _read(files, weights, open_copies, team)
        notes = list(read.notes)
        if like is not None:
            stored = [in_memory(layer) for layer in _layers(_model_of(like, read, files.name))]
        else:
            whole = assembled(read.tensors)
            stored = layers_of(whole)
            if not any(layer.outline.banks for layer in stored):
                raise CheckpointError(f"{files.name}: {unmeasurable(whole, stored)}")
            notes += [UNKNOWN_GROUPS] * any(map(is_convolution_of_unknown_groups, whole))
            if read.is_copied:
                stored = [in_memory(layer.read()) for layer in stored]
    return Checkpoint(tuple(stored), read.sources, tuple(notes))


def _read(files: CheckpointFiles, weights: str | None, open_copies: ExitStack, team: Team = ALONE) -> _Read:
    read = [_file(path, weights, open_copies, team) for path in files.with_content]
    _check_listed(files, read)
    tensors = [tensor for file in read for tensor in file.chosen.tensors]
    notes = [f"{files.name}: {note}" for note in dict.fromkeys(note for file in read for note in file.notes)]
    counts = Counter(tensor.name for tensor in tensors)
    if twice := [name for name, count in counts.items() if count > 1]:
        raise CheckpointError(
            f"{files.name}: in it and the files that belong to it, several weights are called {', '.join(twice[:4])}"
        )
    as_stored = [tensor for file in read for tensor in file.chosen.as_stored]
    is_copied = any(file.local != file.path for file in read)
    return _Read(tensors, as_stored, _sources(files, read, team), tuple(notes), is_copied)


def _check_listed(files: CheckpointFiles, read: Sequence[_File]) -> None:
    """Refuses an index that lists other tensors than its files hold."""
    for file in read if files.listed else ():
        listed = {name.removesuffix(":0") for name, of in files.listed.items() if of == file.path}
        held = file.tree.flat().keys()
        for names, words in (
            (listed - held, f"lists tensors that {file.path} does not hold"),
            (held - listed, f"does not list tensors that {file.path} holds"),
        ):
            if names:
                raise CheckpointError(
                    f"{files.index}: {words}, such as {', '.join(sorted(names)[:4])}: they are of different savings; "
                    "save the checkpoint anew, or pass its shards themselves"
                )


def _sources(files: CheckpointFiles, read: Sequence[_File], team: Team) -> tuple[Source, ...]:
    """Each file with its digest, which one of the processes computes."""
    from ckrm_kernels.checkpoints.files import source_of

    by_path = {file.path: (file.chosen.chosen, file.local) for file in read}
    of_all = read[0].chosen.chosen, None  # of what one file describes

    def source(place: int) -> Source:
        weights, local = by_path.get(files.files[place], of_all)
        return source_of(files.files[place], weights, content=local)

    sizes = [(by_path.get(path, of_all)[1] or path).stat().st_size for path in files.files]
    team.check_agreement(lambda: [f"{path} of {size} bytes" for path, size in zip(files.files, sizes, strict=True)])
    return tuple(team.shared(sizes, source))


def _file(path: Path, weights: str | None, open_copies: ExitStack, team: Team) -> _File:
    from ckrm_kernels.checkpoints.files import readable

    local = open_copies.enter_context(readable(path))
    if local != path and team.size > 1:
        raise CheckpointError(f"{path}: is a pipe, which several processes can't read: write it to a file first")
    try:
        content = _content(local)
        chosen = select(content.tree, weights)
    except NoSuchWeightsError as error:
        raise CheckpointError(f"{path}: {error}") from None
    except CheckpointError as error:
        raise CheckpointError(str(error).replace(str(local), str(path))) from None
    notes = list(content.notes)
    if chosen.chosen or chosen.others:
        which = f"the weights under {chosen.chosen}" if chosen.chosen else "the model's weights"
        others = f"; there are also {', '.join(chosen.others)}: --weights KEY" if chosen.others else ""
        notes.append(f"{which}{others}")
    return _File(path, local, chosen, tuple(notes), content.tree)


def _model_of(like: Callable[[], nn.Module], read: _Read, what: str) -> nn.Module:
    """The model with the tensors in it, by their names as stored where only these are the model's."""
    from ckrm_kernels.checkpoints.into_model import load_into

    def loaded(named: Sequence[StoredTensor]) -> nn.Module:
        made: dict[Callable[[], Tensor], Tensor] = {}  # a tensor of several names is one
        for read in (tensor.read for tensor in named if tensor.read is not None):
            made[read] = made[read] if read in made else read()
        return load_into(like, {tensor.name: made[tensor.read] for tensor in named if tensor.read is not None}, what)

    try:
        return loaded(read.tensors)
    except CheckpointError as error:
        with suppress(CheckpointError):
            return loaded(read.as_stored)
        raise error from None


def _layers(model: nn.Module) -> list[Layer]:
    with torch.no_grad():
        return model_layers(model)


def _content(path: Path) -> _Content:
    """The tensors of a file, under their keys. Raises CheckpointError, and what ends the process."""
    try:
        content = _by_format(path)
        if content.tree.count > _MOST:
            raise CheckpointError(f"{path}: holds more than a million tensors")
        return content
    except (CheckpointError, MemoryError, ImportError):
        raise
    except RefusedError as error:
        raise CheckpointError(
            f"{path}: holds {error}, and reading that could run code from the file, so it is refused; "
            "save a state dict instead: torch.save(model.state_dict(), path)"
        ) from None
    except RecursionError:
        raise CheckpointError(f"{path}: is nested too deeply") from None
    except Exception:  # damaged files raise many kinds
        raise CheckpointError(f"{path}: {_DAMAGED}") from None


def _by_format(path: Path) -> _Content:
    """By the file's content, never by its name."""
    from ckrm_kernels.checkpoints.distributed_folders import METADATA, read_distributed
    from ckrm_kernels.checkpoints.foreign import HEAD, foreign_format
    from ckrm_kernels.checkpoints.npz import LAYOUT_NOTE, is_npy, read_npz
    from ckrm_kernels.checkpoints.onnx_graphs import EXPORT_NOTE, is_onnx, read_onnx

    with path.open("rb") as file:
        head = file.read(HEAD)
    if not head:
        raise CheckpointError(f"{path}: is empty")
    if head[8:9] == b"{":
        return _listed(*read_safetensors(path))
    if head.startswith(b"PK"):
        return _of_zip(path, head)
    if path.name == METADATA:
        return _Content(tree_of(read_distributed(path)))
    if head.startswith(b"\x80"):
        return _Content(tree_of(read_pickled(path)))
    if is_npy(head):
        return _listed(read_npz(path), LAYOUT_NOTE)
    if is_onnx(head):
        return _listed(read_onnx(path), EXPORT_NOTE)
    raise CheckpointError(f"{path}: {foreign_format(head, path) or _OTHER}")


def _of_zip(path: Path, head: bytes) -> _Content:
    from ckrm_kernels.checkpoints.exported import is_exported, read_exported
    from ckrm_kernels.checkpoints.foreign import foreign_format
    from ckrm_kernels.checkpoints.npz import LAYOUT_NOTE, is_npz, read_npz

    with zipfile.ZipFile(path) as file:
        members = file.namelist()
    if is_exported(members):
        return _listed(read_exported(path))
    if is_npz(members):
        return _listed(read_npz(path), LAYOUT_NOTE)
    archive = torch_archive(path)
    if archive is None:
        raise CheckpointError(f"{path}: {foreign_format(head, path) or _OTHER}")
    if archive.is_torchscript:
        return _listed(script_module(archive).values())
    return _Content(tree_of(archive.load("data.pkl", "data")))


def _listed(tensors: Iterable[StoredTensor], note: str = "") -> _Content:
    """Of a file that names its tensors itself."""
    return _Content(tree_of({tensor.name: tensor for tensor in tensors}), (note,) if note else ())
