"""Which of the weights in a checkpoint are meant."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import NamedTuple

from ckrm_kernels.checkpoints.contents import Node, is_average, is_weight
from ckrm_kernels.checkpoints.stored import StoredTensor
from ckrm_kernels.layers import WRAPPED

_MODEL_KEYS = (
    "state_dict",
    "model_state_dict",
    "model",
    "module",
    "net",
    "network",
    "weights",
    "params",
    "model_state",
    "model_weights",
    "model_dict",
    "net_state_dict",
)
_AVERAGED = "n_averaged"  # beside the weights of torch's AveragedModel
_SHOWN = 12


class Selection(NamedTuple):
    """The tensors that are meant, by names without what wrappers add.

    as_stored: the same ones with it
    chosen: the key that they are under, dotted; "" where there was no choice
    others: the keys of what else there is
    """

    tensors: list[StoredTensor]
    as_stored: list[StoredTensor]
    chosen: str
    others: tuple[str, ...]


class NoSuchWeightsError(Exception):
    """What was asked for is not there; the message says what is."""


def select(content: Node, weights: str | None = None) -> Selection:
    """The weights that are meant.

    weights: None or "model": the model's; "ema": their moving average; else the dotted key that they are under
    By default a moving average is taken only where there is nothing else, of a list the first, of a well-known key
    that one, and otherwise every part, under its key.
    Raises NoSuchWeightsError.
    """
    chooser = _Chooser(keep_ema=weights != "model")
    if weights is None or (weights == "model" and weights not in content.nodes):
        starts = {"": content}
    elif weights == "ema":
        starts = _averages(content)
    else:
        starts = dict(_at(content, weights))
    parts = [part for path, node in starts.items() for part in chooser.parts(node, path)]
    if weights is not None and not parts:
        there = ", ".join(_keys(content)[:_SHOWN])
        accepted = f"it holds {there}" if there else "there is nothing to choose in it: leave out --weights"
        raise NoSuchWeightsError(f"holds no weights {weights!r}; {accepted}")
    others = [*chooser.others, *(_keys(content) if weights is not None else ())]
    paths = [part.path for part in parts]
    left = tuple(key for key in dict.fromkeys(others) if not any(_is_within(key, path) for path in paths))
    stem = _common(paths)
    tensors = [tensor for part in parts for tensor in _named(part.path, stem, _unwrapped(part.tensors))]
    as_stored = [tensor for part in parts for tensor in _named(part.path, stem, part.tensors)]
    is_choice = bool(left) or weights is not None or any(is_average(key) for path in paths for key in path.split("."))
    return Selection(tensors, as_stored, ", ".join(dict.fromkeys(paths)) if is_choice else "", left)


class _Part(NamedTuple):
    """A state dict, and the keys that lead to it."""

    path: str
    tensors: Mapping[str, StoredTensor]


class _Chooser:
    """Goes down to the weights, and notes what it leaves aside."""

    def __init__(self, keep_ema: bool) -> None:
        self._keep_ema = keep_ema
        self.others: list[str] = []

    def parts(self, node: Node, path: str) -> list[_Part]:
        """The state dicts that are meant in a node at a path."""
        tensors = node.tensors
        matrices = {name: tensor for name, tensor in tensors.items() if len(tensor.shape) >= 2 or tensor.read is None}
        is_state_dict = any(map(is_weight, matrices))
        nodes = self._without_averages(node, path)
        if is_state_dict or not nodes:
            whole = {**tensors, **_flat(nodes)}
            return [_Part(path, whole)] if whole else []
        if weights := {key: each for key, each in nodes.items() if each.has_weights}:
            nodes = weights  # and no records of a training, such as its losses
        known = [key for key in _MODEL_KEYS if key in nodes and nodes[key].has_state_dict]
        if node.is_list and all(each.has_state_dict for each in nodes.values()):
            known = list(nodes)
        if known:
            self._leave([key for key in (*nodes, *matrices) if key != known[0]], path)
            return self.parts(nodes[known[0]], _joined(path, known[0]))
        if len(nodes) == 1 and not matrices and not any(map(is_weight, tensors)):
            (key,) = nodes
            return self.parts(nodes[key], _joined(path, key))
        own = [_Part(path, tensors)] if tensors else []
        return own + [part for key, each in nodes.items() for part in self.parts(each, _joined(path, key))]

    def _without_averages(self, node: Node, path: str) -> dict[str, Node]:
        """The nodes but for averages: those of shapes that the others have, too; all of what is within an average."""
        nodes = node.nodes
        averages = [key for key in nodes if is_average(key)]
        if is_average(path.rpartition(".")[2]):
            return nodes
        if self._keep_ema:
            others = {key: child for key, child in node.children.items() if key not in averages}
            shapes = _shapes(Node(False, others))
            averages = [key for key in averages if shapes and _shapes(nodes[key]) <= shapes]
        self._leave(averages, path)
        return {key: node for key, node in nodes.items() if key not in averages}

    def _leave(self, keys: Iterable[str], path: str) -> None:
        self.others += [_joined(path, key) for key in keys]


def _averages(node: Node, path: str = "") -> dict[str, Node]:
    """The moving averages in a node by their paths: under a key, or under a first part of names."""
    nodes = node.nodes
    found = {_joined(path, key): each for key, each in nodes.items() if is_average(key)}
    if not found:
        for key, each in nodes.items():
            found.update(_averages(each, _joined(path, key)))
    if not found:
        for key in dict.fromkeys(name.partition(".")[0] for name in node.tensors if "." in name):
            if is_average(key):
                found.update((_joined(path, inner), each) for inner, each in _at(node, key).items())
    return found


def _at(node: Node, key: str) -> dict[str, Node]:
    """What is under a dotted key, whose parts may be keys or beginnings of names; nothing where there is nothing."""
    if key in node.children:
        child = node.children[key]
        return {key: child if isinstance(child, Node) else Node(False, {key.rpartition(".")[2]: child})}
    for name, each in node.nodes.items():
        if key.startswith(f"{name}."):
            found = _at(each, key[len(name) + 1 :])
            if found:
                return {_joined(name, inner): part for inner, part in found.items()}
    named = {k[len(key) + 1 :]: child for k, child in node.children.items() if k.startswith(f"{key}.")}
    return {key: Node(False, named)} if named else {}


def _keys(node: Node, path: str = "") -> list[str]:
    """The keys of the state dicts in a node."""
    found = []
    for key, each in node.nodes.items():
        if node.has_weights and not each.has_weights:
            continue
        inner = [] if any(is_weight(name) for name in each.tensors) else _keys(each, _joined(path, key))
        found += inner or [_joined(path, key)]
    return found


def _shapes(node: Node) -> set[tuple[int, ...]]:
    """Of all weights in a node."""
    return {tensor.shape for tensor in node.flat().values() if len(tensor.shape) >= 2}


def _flat(nodes: Mapping[str, Node]) -> dict[str, StoredTensor]:
    return Node(False, dict(nodes)).flat()


def _is_within(key: str, path: str) -> bool:
    """Whether one of two keys holds the other, or they are the same."""
    return f"{path}.".startswith(f"{key}.") or f"{key}.".startswith(f"{path}.")


def _joined(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _common(paths: list[str]) -> str:
    """The keys that all paths begin with."""
    together = []
    for keys in zip(*(path.split(".") for path in paths), strict=False):
        if len(set(keys)) > 1:
            break
        together.append(keys[0])
    return ".".join(together)


def _named(path: str, stem: str, tensors: Mapping[str, StoredTensor]) -> list[StoredTensor]:
    """The tensors of a part by their names, which begin with what its path has below the stem."""
    below = path.removeprefix(stem).lstrip(".")
    return [replace(tensor, name=_joined(below, name)) for name, tensor in tensors.items()]


def _unwrapped(tensors: Mapping[str, StoredTensor]) -> Mapping[str, StoredTensor]:
    """Names without the components that torch.compile, FSDP, DataParallel and averaging add."""
    parts = {name: [part for part in name.split(".") if part not in WRAPPED] for name in tensors}
    if all(part and part[0] == "module" for name, part in parts.items() if name != _AVERAGED):
        parts = {name: part[1:] or part for name, part in parts.items() if name != _AVERAGED}
    named = {".".join(part) or name: tensors[name] for name, part in parts.items()}
    return named if len(named) == len(parts) else tensors
