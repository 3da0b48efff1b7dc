"""Whole modules, pickled or as TorchScript: their tensors by name, each with the operator that uses it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import count
from typing import Any, NamedTuple

from ckrm_kernels.checkpoints.pickles import StandIn
from ckrm_kernels.checkpoints.stored import StoredTensor
from ckrm_kernels.checkpoints.torch_archives import TorchArchive
from ckrm_kernels.checkpoints.torch_tensors import tensor_of

_MOST = 100_000
_SCRIPT = "__torch__."
_MANGLED = re.compile(r"\.___torch_mangle_\d+")
_CLASS = re.compile(r"^class (\w+)\(Module\):\n((?:  .*\n|\n)*)", re.MULTILINE)
_LISTS = r"\[[-\d, ]*\]"
_TRACED = re.compile(
    rf"torch\._convolution(?:_mode)?\(\w+, \w+, \w+, (?P<strides>{_LISTS})(?:, (?:{_LISTS}|\"\w+\"))+"
    rf"(?:, (?P<transposed>True|False), {_LISTS})?, (?P<groups>\d+)"
)
_FROZEN = re.compile(
    rf"torch\.(conv(?:_transpose)?)(\d)d\(\w+, (CONSTANTS\.c\d+)(?:, [\w.]+)?(?:, (?:{_LISTS}|\"\w+\"))*"
    r"(?:, (\d+))?(.)"
)


class Operator(NamedTuple):
    """What uses a module's weight; groups: None where that is not known."""

    name: str
    groups: int | None
    note: str = ""


def is_pickled_module(value: Any) -> bool:
    """Whether the record is a pickled torch.nn.Module."""
    return isinstance(value, StandIn) and {"_parameters", "_buffers", "_modules"} <= value.attributes.keys()


def pickled_module(record: StandIn) -> dict[str, StoredTensor]:
    """The tensors of a pickled module by the names that its state dict would give them."""
    return _tensors(record, _of_pickled, "", frozenset(), count(1))


def script_module(archive: TorchArchive) -> dict[str, StoredTensor]:
    """The tensors of a TorchScript archive by name; those of a frozen one are constants without a name."""
    operators = _script_operators(archive)
    root = archive.load("data.pkl", "data")
    found = _tensors(root, lambda record: _of_script(record, operators), "", frozenset(), count(1))
    if found:
        return found
    constants = archive.load("constants.pkl", "constants")
    named = {f"CONSTANTS.c{index}": tensor_of(value) for index, value in enumerate(constants)}
    found = {name: replace(tensor, name=name) for name, tensor in named.items() if tensor is not None}
    return _with_frozen_operators(archive, found)


class _Parts(NamedTuple):
    """A module's own tensors, its modules, and the operator that it is."""

    tensors: Mapping[Any, Any]
    modules: Mapping[Any, Any]
    operator: Operator


def _tensors(
    record: Any, parts_of: Any, prefix: str, above: frozenset[int], entered: Iterator[int]
) -> dict[str, StoredTensor]:
    """entered: counts the modules, of which a few that are shared, and share others, make no end."""
    if next(entered) > _MOST:
        raise ValueError("too many modules")
    if not isinstance(record, StandIn) or id(record) in above:  # a module may hold its parent
        return {}
    parts: _Parts = parts_of(record)
    if _is_quantised(record, parts):
        name = f"{prefix}weight"
        return {name: StoredTensor(name, (), "", None, parts.operator.name, None, "quantised, dequantise it first")}
    found = {}
    for name, value in parts.tensors.items():
        tensor = tensor_of(value)
        if tensor is not None:
            note = ", ".join(filter(None, (tensor.note, parts.operator.note)))
            full = f"{prefix}{name}"
            found[full] = replace(
                tensor, name=full, operator=parts.operator.name, groups=parts.operator.groups, note=note
            )
    for name, module in parts.modules.items():
        found.update(_tensors(module, parts_of, f"{prefix}{name}.", above | {id(record)}, entered))
    return found


def _is_quantised(record: StandIn, parts: _Parts) -> bool:
    """Whether it is one of torch's modules that keep their weight packed, or as a part of a tuple."""
    packed = "_packed_params" in {*record.attributes, *parts.modules}
    return ".quantized." in record.type and (packed or (isinstance(record.state, tuple) and not record.attributes))


def _of_pickled(record: StandIn) -> _Parts:
    state = record.attributes
    own = {**_dict(state.get("_parameters")), **_dict(state.get("_buffers"))}
    return _Parts(own, _dict(state.get("_modules")), _pickled_operator(record.type, state))


def _pickled_operator(type_name: str, state: Mapping[Any, Any]) -> Operator:
    """A subclass's by what torch's own classes keep, as its name says nothing."""
    package, _, name = type_name.rpartition(".")
    groups, kernel = state.get("groups"), state.get("kernel_size")
    if type(groups) is int and isinstance(kernel, tuple) and isinstance(state.get("transposed"), bool):
        convolution = f"Conv{'Transpose' if state['transposed'] else ''}{len(kernel)}d"
        own = package.startswith("torch.nn.modules")
        return Operator(convolution, groups, "" if own else f"a {type_name}, by its stored weight")
    if type(state.get("in_features")) is int and type(state.get("out_features")) is int and "Bilinear" not in name:
        return Operator("Linear", 1, "" if package.startswith("torch.nn.modules") else f"a {type_name}")
    return Operator(name, None)


def _of_script(record: StandIn, operators: Mapping[str, Operator]) -> _Parts:
    state = record.attributes
    modules = {k: v for k, v in state.items() if isinstance(v, StandIn) and v.type.startswith(_SCRIPT)}
    name = _MANGLED.sub("", record.type).rpartition(".")[2]
    return _Parts(
        {k: v for k, v in state.items() if k not in modules},
        modules,
        operators.get(record.type, Operator(name, 1 if name == "Linear" else None)),
    )


def _script_operators(archive: TorchArchive) -> dict[str, Operator]:
    """What the code of each class says of its groups, by its name: in constants if scripted, in calls if traced."""
    found = {}
    for member in archive.members:
        if member.startswith(f"code/{_SCRIPT[:-1]}") and member.endswith(".py"):
            module = member.removeprefix("code/").removesuffix(".py").replace("/", ".")
            for name, body in _CLASS.findall(archive.read(member).decode("utf-8", "replace")):
                if (operator := _of_code(name, body)) is not None:
                    found[f"{module}.{name}"] = operator
    return found


def _of_code(name: str, body: str) -> Operator | None:
    groups = re.search(r"^  groups : Final\[int\] = (\d+)$", body, re.MULTILINE)
    kernel = re.search(r"^  kernel_size : Final\[Tuple\[([int, ]+)\]\]", body, re.MULTILINE)
    if groups and kernel:
        transposed = "torch.conv_transpose" in body
        return _convolution(name, kernel[1].count("int"), transposed, int(groups[1]))
    if traced := _TRACED.search(body):
        dims = traced["strides"].count(",") + 1
        return _convolution(name, dims, traced["transposed"] == "True", int(traced["groups"]))
    return None


def _convolution(name: str, dims: int, transposed: bool, groups: int) -> Operator:
    convolution = f"Conv{'Transpose' if transposed else ''}{dims}d"
    return Operator(convolution, groups, "" if name == convolution else f"a {name}, by its stored weight")


def _with_frozen_operators(archive: TorchArchive, tensors: dict[str, StoredTensor]) -> dict[str, StoredTensor]:
    """The constants of a frozen module, with the operators that its code calls them in."""
    code = "".join(
        archive.read(name).decode("utf-8", "replace")
        for name in archive.members
        if name.startswith("code/") and name.endswith(".py")
    )
    for call, dims, name, groups, end in re.findall(_FROZEN, code):
        if name in tensors:
            operator = f"Conv{'Transpose' if call.endswith('transpose') else ''}{dims}d"
            known = int(groups) if groups else 1 if end == ")" else None
            tensors[name] = replace(tensors[name], operator=operator, groups=known)
    for name in re.findall(r"torch\.linear\(\w+, (CONSTANTS\.c\d+)", code):
        if name in tensors:
            tensors[name] = replace(tensors[name], operator="Linear", groups=1)
    return tensors


def _dict(value: Any) -> Mapping[Any, Any]:
    """The entries of a mapping, also of one whose class was not built."""
    return value if isinstance(value, dict) else value.content if isinstance(value, StandIn) else {}
