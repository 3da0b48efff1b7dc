"""What a program of torch.export, as its JSON says it, does with each of its weights."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from ckrm_kernels.checkpoints.other_uses import reason_of_other_uses

_CONVOLUTION = re.compile(r"conv[123]d|conv_transpose[123]d|_?convolution")
_RIGHT = {"linear": "weight", "addmm": "mat2", "mm": "mat2", "matmul": "other"}
_LEFT = {"addmm": "mat1", "mm": "self", "matmul": "self"}
_SAME = {"alias", "clone", "contiguous", "detach", "detach_", "_to_copy", "to", "lift_fresh_copy", "type_as"}
_TRANSPOSES = {"t", "permute", "transpose", "numpy_T", "mT"}  # of a matrix
_MOVES = {
    *(*_TRANSPOSES, "movedim", "view", "_unsafe_view", "reshape", "flatten", "unflatten", "unsqueeze", "squeeze"),
    *("flip", "roll", "rot90", "cat", "stack", "expand", "repeat", "slice", "select", "index", "index_select"),
}
_SIGNATURE = {
    "parameter": "parameter_name",
    "buffer": "buffer_name",
    "tensor_constant": "tensor_constant_name",
}


@dataclass
class Use:
    """What a program does with a weight.

    operator: "Conv", "ConvTranspose" or "Linear"; "" where none of them uses it
    groups: of that operator
    transposed: whether it is a matrix (F1, F2)
    changed, moved: whether the program changes its values, or where each lies, before the operator uses it
    others: the operators that use it otherwise
    """

    operator: str = ""
    groups: int | None = None
    transposed: bool = False
    changed: bool = False
    moved: bool = False
    others: list[str] = field(default_factory=list)

    def operator_of(self, shape: tuple[int, ...]) -> str:
        """The operator as torch.nn names it, such as "Conv2d"."""
        if len(shape) < 2:
            return ""
        return f"{self.operator}{len(shape) - 2}d" if self.operator.startswith("Conv") else self.operator

    def reason(self, shape: tuple[int, ...]) -> str:
        """Why a weight of this shape can't be measured; "" where it can."""
        if not self.operator:
            return reason_of_other_uses(self.others)
        if self.operator == "Linear" and len(shape) != 2 and not self.moved:
            return f"multiplied as a stack of matrices, {len(shape)} dimensions"
        if self.moved or (self.operator == "Linear") != (len(shape) == 2):
            return "the program puts its numbers into another order before it uses them"
        return ""

    def note(self, name: str) -> str:
        """What is to be known of the values as they are stored."""
        if not self.operator or not self.changed or re.search(r"parametrizations\.|weight_[gv]$", name):
            return ""  # what weight norm keeps is put together by its names
        return "as stored, the program changes it before it is used"


@dataclass(frozen=True)
class _Value:
    """A value in a graph that is made of weights alone; moved: those whose numbers lie elsewhere; else see `Use`."""

    weights: tuple[str, ...]
    transposed: bool = False
    changed: bool = False
    moved: frozenset[str] = frozenset()


def uses_in(module: dict[str, Any]) -> dict[str, Use]:
    """What the program does with each parameter, buffer and constant, by its name in the module."""
    values = {}
    for spec in module["signature"]["input_specs"]:
        for kind, key in _SIGNATURE.items():
            if kind in spec:
                values[spec[kind]["arg"]["name"]] = _Value((spec[kind][key],))
    uses = {name: Use() for value in values.values() for name in value.weights}
    _walk(module["graph"], values, uses)
    return uses


def _walk(graph: dict[str, Any], values: dict[str, _Value], uses: dict[str, Use]) -> None:
    """Notes what each node of a graph, and of the graphs it calls, does with weights."""
    for node in graph["nodes"]:
        operator = _operator(node["target"])
        given = [each["arg"] for each in node["inputs"]]
        arguments = {each["name"]: each["arg"] for each in node["inputs"]}
        _walk_inner(given, values, uses)
        tensors = [name for arg in given for name in _tensors(arg)]
        pure = [values[name] for name in tensors if name in values]
        weight, found = _weight(operator, arguments, values)
        if found:
            _note(operator, arguments, found, weight in _LEFT.values(), uses)
        elif pure and len(pure) == len(tensors) and (output := _outputs(node)):
            values[output[0]] = _made(operator, pure, graph["tensor_values"].get(tensors[0], {}))
        elif not any("as_graph" in arg for arg in given):
            for name in {name for value in pure for name in value.weights}:
                uses[name].others += [operator] if operator not in uses[name].others else []


def _operator(target: str) -> str:
    """Such as "conv2d", for "torch.ops.aten.conv2d.padding"."""
    aten = re.match(r"torch\.ops\.\w+\.(\w+)", target)
    return aten[1] if aten else target.rpartition(".")[2]


def _tensors(arg: dict[str, Any]) -> Iterator[str]:
    """The names of the tensors in an argument."""
    for kind, value in arg.items():
        if kind in ("as_tensor", "as_optional_tensor"):
            inner = value.get("as_tensor", value)
            if isinstance(inner, dict) and "name" in inner:
                yield inner["name"]
        elif kind in ("as_tensors", "as_optional_tensors"):
            for each in value:
                yield from _tensors({"as_optional_tensor": each})


def _outputs(node: dict[str, Any]) -> list[str]:
    return [name for arg in node["outputs"] for name in _tensors(arg)]


def _walk_inner(given: list[dict[str, Any]], values: dict[str, _Value], uses: dict[str, Use]) -> None:
    """Walks the graphs that a node calls, whose inputs are the tensors that follow them among its arguments."""
    first = next((at for at, arg in enumerate(given) if "as_graph" in arg), len(given))
    operands = [name for arg in given[first:] for name in _tensors(arg)]
    for arg in given[first:]:
        if "as_graph" in arg:
            graph = arg["as_graph"]["graph"]
            inputs = [name for each in graph["inputs"] for name in _tensors(each)]
            inner = {name: values[outer] for name, outer in zip(inputs, operands, strict=False) if outer in values}
            _walk(graph, inner, uses)


def _weight(operator: str, arguments: dict[str, Any], values: dict[str, _Value]) -> tuple[str, _Value | None]:
    """The argument that is the operator's weight, and its value if that is made of weights alone."""
    places = ["weight"] if _CONVOLUTION.fullmatch(operator) else [t[operator] for t in (_RIGHT, _LEFT) if operator in t]
    found = []
    for place in places:
        name = next(_tensors(arguments.get(place, {})), "")
        if name in values:
            found.append((place, values[name]))
    return found[0] if len(found) == 1 else ("", None)  # both: a weight made of two


def _note(operator: str, arguments: dict[str, Any], value: _Value, left: bool, uses: dict[str, Use]) -> None:
    convolution = _CONVOLUTION.fullmatch(operator)
    kind = "Linear"
    if convolution:
        transposed = "transpose" in operator or arguments.get("transposed", {}).get("as_bool", False)
        kind = "ConvTranspose" if transposed else "Conv"
    swapped = not convolution and operator != "linear" and not left  # a matrix on the right is (F1, F2)
    use = Use(
        kind,
        arguments.get("groups", {"as_int": 1})["as_int"],
        transposed=kind == "Linear" and value.transposed != swapped,
        changed=value.changed,
    )
    for name in value.weights:
        if not uses[name].operator:
            moved = name in value.moved or (kind != "Linear" and value.transposed)
            uses[name] = replace(use, moved=moved, others=uses[name].others)


def _made(operator: str, values: list[_Value], first: dict[str, Any]) -> _Value:
    """What an operator makes of values that are made of weights alone; first: what the graph says of the first one."""
    value = values[0]
    if len(values) == 1 and operator in _SAME:
        return value
    if len(values) == 1 and operator in _TRANSPOSES and len(first.get("sizes", ())) == 2:
        return replace(value, transposed=not value.transposed)
    weights = tuple(dict.fromkeys(name for each in values for name in each.weights))
    moved = weights if operator in _MOVES else (name for each in values for name in each.moved)
    return _Value(weights, value.transposed, True, frozenset(moved))
