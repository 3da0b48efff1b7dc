"""What lies in a checkpoint's file, as a tree: its tensors under their keys, without an optimiser's state."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from ckrm_kernels.checkpoints.modules import is_pickled_module, pickled_module
from ckrm_kernels.checkpoints.pickles import StandIn
from ckrm_kernels.checkpoints.stored import StoredTensor
from ckrm_kernels.checkpoints.torch_tensors import tensor_of

_OPTIMISER = {"state", "param_groups"}
# What optimisers keep of each parameter, by names that no layer has; the second only beside none but such names.
_STATE = re.compile(
    "exp_avg(_sq|_sq_row|_sq_col|_slow|_fast|_diff)?|max_exp_avg_sq|exp_inf|exp_hessian|momentum_buffer|square_avg|"
    "grad_avg|acc_delta|slow_buffer|step_size|previous_grad"
)
_BESIDE = re.compile("step|sum|prev|eta|lambd|mu|ax|mu_product|row_var|col_var|variance|hessian|RMS|state1|state2")
_AVERAGE = {"ema", "shadow", "average", "averaged", "swa"}


@dataclass
class Node:
    """A mapping or a sequence that holds tensors, at any depth.

    children: by their keys, those of a sequence by their numbers
    is_list: whether the children are numbered
    """

    is_list: bool
    children: dict[str, Node | StoredTensor] = field(default_factory=dict)

    @property
    def nodes(self) -> dict[str, Node]:
        """The children that are no tensors."""
        return {key: child for key, child in self.children.items() if isinstance(child, Node)}

    @property
    def tensors(self) -> dict[str, StoredTensor]:
        """The children that are tensors, each named by its key."""
        found = self.children.items()
        return {key: replace(child, name=key) for key, child in found if isinstance(child, StoredTensor)}

    @cached_property
    def count(self) -> int:
        """How many tensors it holds, an object that occurs twice counted twice."""
        return len(self.tensors) + sum(node.count for node in self.nodes.values())

    @cached_property
    def has_state_dict(self) -> bool:
        """Whether there is a state dict in it, told by dotted names."""
        return any("." in key for key in self.tensors) or any(node.has_state_dict for node in self.nodes.values())

    @cached_property
    def has_weights(self) -> bool:
        """Whether there are tensors in it that their names call weights."""
        return any(map(is_weight, self.tensors)) or any(node.has_weights for node in self.nodes.values())

    def flat(self) -> dict[str, StoredTensor]:
        """All its tensors by their dotted names."""
        found: dict[str, StoredTensor] = self.tensors
        for key, node in self.nodes.items():
            found.update({f"{key}.{name}": replace(each, name=f"{key}.{name}") for name, each in node.flat().items()})
        return found


def tree_of(content: Any) -> Node:
    """The tensors in what a file holds, nested in any way; an object that contains itself is left out of itself."""
    found = _Trees().of(content)
    return found if isinstance(found, Node) else Node(False, {} if found is None else {"weight": found})


class _Trees:
    """Makes one tree of each object, wherever it occurs."""

    def __init__(self) -> None:
        self._made: dict[int, Node | StoredTensor | None] = {}

    def of(self, value: Any) -> Node | StoredTensor | None:
        if not isinstance(value, (StoredTensor, StandIn, Mapping, list, tuple)):
            return None
        if id(value) not in self._made:
            self._made[id(value)] = None  # while it is made, for an object that contains itself
            self._made[id(value)] = self._tree(value)
        return self._made[id(value)]

    def _tree(self, value: Any) -> Node | StoredTensor | None:
        tensor = tensor_of(value)
        if tensor is not None:
            return tensor
        if is_pickled_module(value):
            return _node(dict(pickled_module(value)), False)
        content = value.content if isinstance(value, StandIn) else value
        if _are_items(content):
            content = dict(content)
        if isinstance(content, Mapping):
            if _is_optimiser_state(content):
                return None
            return _node({key: self.of(child) for key, child in content.items()}, _is_numbered(content))
        return _node({index: self.of(child) for index, child in enumerate(content)}, True)


def _node(children: Mapping[Any, Node | StoredTensor | None], is_list: bool) -> Node | None:
    node = Node(is_list)
    for key, child in children.items():
        if child is not None:
            name = str(key)
            node.children[repr(key) if name in node.children else name] = child
    node.children = _averages_apart(_without_optimiser_state(node.children))
    return node if node.children else None


def _are_items(content: Any) -> bool:
    """Whether it is a sequence of names and values, as `named_parameters` gives."""
    return (
        isinstance(content, (list, tuple))
        and bool(content)
        and all(isinstance(each, (list, tuple)) and len(each) == 2 and isinstance(each[0], str) for each in content)
        and len({each[0] for each in content}) == len(content)
    )


def _is_numbered(content: Mapping[Any, Any]) -> bool:
    return bool(content) and all(type(key) is int for key in content)


def _is_optimiser_state(content: Mapping[Any, Any]) -> bool:
    """Whether it is an optimiser's state dict, or its states by the numbers of the parameters."""
    if content.keys() >= _OPTIMISER:
        return True
    return _is_numbered(content) and all(isinstance(each, Mapping) and "step" in each for each in content.values())


def _without_optimiser_state(children: dict[str, Node | StoredTensor]) -> dict[str, Node | StoredTensor]:
    """The children without an optimiser's state of a parameter, also where its names are part of the keys."""
    leaves: dict[str, set[str]] = {}
    for key, child in children.items():
        if isinstance(child, StoredTensor):
            parent, _, leaf = key.rpartition(".")
            leaves.setdefault(parent, set()).add(leaf)
    states = {
        parent
        for parent, beside in leaves.items()
        if len(beside) > 1 and all(_STATE.fullmatch(leaf) or _BESIDE.fullmatch(leaf) for leaf in beside)
    }

    def is_state(key: str) -> bool:
        parent, _, leaf = key.rpartition(".")
        return parent in states or _STATE.fullmatch(leaf) is not None

    return {key: child for key, child in children.items() if isinstance(child, Node) or not is_state(key)}


def is_weight(name: str) -> bool:
    """Whether a tensor's name is one in a state dict or a module."""
    return "." in name or bool({"weight", "kernel", "bias"} & set(re.split(r"[^a-z]+", name.lower())))


def is_average(key: str) -> bool:
    """Whether a key says that a moving average of weights is under it, such as model_ema."""
    return bool(_AVERAGE & _words(key))


def _words(key: str) -> set[str]:
    return set(re.split(r"[^a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", key).lower())) - {""}


def _averages_apart(children: dict[str, Node | StoredTensor]) -> dict[str, Node | StoredTensor]:
    """The children, with the averages among dotted names in nodes of their own, as where a file nests them.

    Told by their key and by their structure: other names go on as theirs do, with or without the dots, to tensors of
    the same shapes, and are named as the average is but for that word, or most of the weights. A module of such a
    name that is no copy of that kind stays where it is.
    """
    groups: dict[str, dict[str, StoredTensor]] = {"": {}}
    for key, child in children.items():
        first, _, rest = key.partition(".")
        if isinstance(child, StoredTensor):
            groups[""][key] = child
            groups.setdefault(first, {})[rest] = child
    total = sum(len(_shapes(group)) for key, group in groups.items() if key and not is_average(key))

    def is_copy(first: str, of: str) -> bool:
        weights = _shapes(groups[first])
        known = _words(of) == _words(first) - _AVERAGE or 2 * len(weights) > total
        return first != of and bool(weights) and known and weights.items() <= _shapes(groups[of]).items()

    apart = {
        first: Node(False, dict(group))
        for first, group in groups.items()
        if is_average(first) and any(is_copy(first, of) for of in groups)
    }
    others = {key: child for key, child in children.items() if key.partition(".")[0] not in apart}
    return {**others, **apart}


def _shapes(tensors: Mapping[str, StoredTensor]) -> dict[str, tuple[int, ...]]:
    """Of weights, by their names without the dots."""
    return {name.replace(".", ""): tensor.shape for name, tensor in tensors.items() if len(tensor.shape) >= 2}
