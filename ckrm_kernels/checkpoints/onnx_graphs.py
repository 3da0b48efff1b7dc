"""ONNX models: the weights of their convolutions and linear layers, with groups and transposition."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ckrm_kernels.checkpoints.onnx_values import (
    DOMAINS,
    ORDERS,
    Constant,
    Scope,
    computed,
    constant,
    dtype_of,
    external,
    form,
    is_read,
    tensor_of,
)
from ckrm_kernels.checkpoints.other_uses import reason_of_other_uses
from ckrm_kernels.checkpoints.raw import damage_named
from ckrm_kernels.checkpoints.stored import CheckpointError, StoredTensor
from ckrm_kernels.extras import require

_FIELDS = b"\x12\x1a\x22\x28\x32\x3a\x42"  # of a ModelProto, one of which follows the version
_PRODUCER = 0x12  # the first of them, a text
# Where the weight is among the inputs; its scale and zero point follow.
_QUANTISED = {"QLinearConv": 3, "QLinearMatMul": 3, "QGemm": 3, "DynamicQuantizeMatMul": 1}
_WEIGHTED = {"Conv", "FusedConv", "ConvTranspose", "Gemm", "FusedGemm", "MatMul", "FusedMatMul", *_QUANTISED}
_NOT_READ = {
    "ConvInteger": "its scale is applied elsewhere in the graph",
    "MatMulInteger": "its scale is applied elsewhere in the graph",
    "MatMulNBits": "of few bits, packed as onnxruntime does",
    "NhwcFusedConv": "quantised as onnxruntime does",
    "NhwcConv": "of another layout",
    "DeformConv": "deformable",
}
_GENERATED = re.compile(r"onnx::.*|val_\d+|\d+|const_fold_opt__\d+")


EXPORT_NOTE = "weights as the model was exported: batch normalisation may be folded into them, which scales each filter"
"""For the heading of whatever is measured from an ONNX model."""


def is_onnx(head: bytes) -> bool:
    """Whether a file that begins so is an ONNX model, which has no signature: its first fields are."""
    if len(head) < 4 or head[0] != 0x08 or not 0 < head[1] < 0x20 or head[2] not in _FIELDS:
        return False
    # where others begin alike, a message follows: SavedModel's first graph, Core ML's description
    return head[2] != _PRODUCER or (head[3] < 0x80 and all(0x20 <= byte < 0x7F for byte in head[4 : 4 + head[3]]))


def read_onnx(path: Path) -> list[StoredTensor]:
    """The weights that convolutions and linear layers of the model use, with their operators and groups.

    What the graph makes of the file's tensors alone, such as a dequantised weight, is computed, by the reference
    implementation of ONNX; a matrix is given as that of a Linear, (F2, F1). Each other initialiser of two dimensions or
    more is listed with the reason why it is none; those of one dimension that are floating point are given as they
    are. Graphs in nodes, such as branches, and functions of the model are walked. A weight's name is its initialiser's,
    or that of the module or node which uses it, where an exporter generated it.
    path: of a regular file; what it keeps in other files must lie beside it, and is mapped when asked for
    Raises CheckpointError; ImportError where the extra `onnx` lacks.
    """
    with require(f"reading {path}", "onnx"):
        import onnx
        from onnx.inliner import inline_local_functions
    with damage_named(path, "an ONNX model"):
        model = onnx.ModelProto.FromString(path.read_bytes())
        if model.functions:
            model = inline_local_functions(model)
        if not model.graph.node:
            raise CheckpointError(f"{path}: is an ONNX model without a graph")
        found = _Found()
        _walk(model.graph, None, found)
        tensors = [_stored(weight, path, list(model.opset_import)) for weight in found.weights.values()]
        tensors += found.refused
        for tensor in found.initializers:
            if id(tensor) not in found.used:
                tensors += _other(tensor, found.others.get(id(tensor), []), path)
        return _of_unique_names(tensors)


@dataclass
class _Weight:
    """A weight that an operator uses.

    transposed: whether it is a matrix (F1, F2)
    factor: that the operator multiplies it with
    """

    name: str
    value: Constant
    operator: str
    groups: int
    transposed: bool = False
    factor: float = 1.0


@dataclass
class _Found:
    """What the graphs of a model hold.

    initializers: of all graphs
    weights: by what they are made of: one that several nodes use is one
    refused: weights that can't be read, each with the reason
    used: the ids of the tensors that all these are made of
    others: the operators that use an initialiser otherwise, by its id
    """

    initializers: list[Any] = field(default_factory=list)
    weights: dict[Any, _Weight] = field(default_factory=dict)
    refused: list[StoredTensor] = field(default_factory=list)
    used: set[int] = field(default_factory=set)
    others: dict[int, list[str]] = field(default_factory=dict)


def _walk(graph: Any, outer: Scope | None, found: _Found) -> None:
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    scope = Scope(tensors, {output: node for node in graph.node for output in node.output if output}, outer)
    found.initializers += tensors.values()
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                _walk(inner, scope, found)
        if node.op_type in _NOT_READ:
            _note_refused(node, scope, found, f"{node.op_type}: {_NOT_READ[node.op_type]}")
        elif node.op_type in _WEIGHTED and node.domain not in DOMAINS:
            _note_refused(node, scope, found, f"{node.op_type} of {node.domain}, whose layout is not known")
        elif node.op_type in _WEIGHTED:
            _note_weight(node, scope, found)
        elif node.op_type not in ORDERS:
            for name in node.input:
                tensor, _ = scope.find(name)
                if tensor is not None and node.op_type not in found.others.setdefault(id(tensor), []):
                    found.others[id(tensor)].append(node.op_type)


def _note_weight(node: Any, scope: Scope, found: _Found) -> None:
    from onnx.helper import get_attribute_value

    settings = {attribute.name: get_attribute_value(attribute) for attribute in node.attribute}
    convolution = "Conv" in node.op_type
    value = constant(_dequantised(node, settings, scope), scope)
    if convolution:
        if value is None:
            _note_refused(node, scope, found, "its weight is computed in the graph, from what is no constant")
            return
        operator = "ConvTranspose" if node.op_type == "ConvTranspose" else "Conv"
        weight = _Weight(_name(node, value), value, operator, settings.get("group", 1))
    else:
        swapped = not settings.get("transB", 0)  # on the right a matrix is (F1, F2)
        if value is None and node.op_type not in _QUANTISED:
            value, swapped = constant(node.input[0], scope), bool(settings.get("transA", 0))
        if value is None:  # of two activations, as in attention
            return
        weight = _Weight(_name(node, value), value, "Linear", 1, swapped, settings.get("alpha", 1.0))
    found.weights.setdefault(value.key, weight)
    found.used |= {id(tensor) for tensor in value.tensors.values()}


def _dequantised(node: Any, settings: dict[str, Any], scope: Scope) -> str:
    """The name of the node's weight; where the node dequantises it, of a value that does so before."""
    from onnx.helper import make_node

    if node.op_type not in _QUANTISED:
        return str(node.input[1])
    place = _QUANTISED[node.op_type]
    stored, scale, *zero = node.input[place : place + 3]
    name = f"{stored} dequantised by {node.output[0]}"
    axis = 0 if node.op_type == "QLinearConv" or settings.get("transB", 0) else 1
    scope.nodes[name] = make_node("DequantizeLinear", [stored, scale, *zero], [name], axis=axis)
    return name


def _note_refused(node: Any, scope: Scope, found: _Found, reason: str) -> None:
    value = constant(node.input[1], scope)
    if value is None or not value.matrices:
        found.refused.append(StoredTensor(_of_node(node) or node.output[0], (), "", None, note=reason))
        return
    tensor = value.tensors[value.matrices[0]]
    dtype = dtype_of(tensor)
    found.used.add(id(tensor))
    found.refused.append(StoredTensor(_name(node, value), tuple(tensor.dims), dtype, None, note=f"{dtype}, {reason}"))


def _name(node: Any, value: Constant) -> str:
    """A weight's name: its initialiser's, or that of the module or node that uses it where an exporter generated it."""
    own = value.matrices[0].removesuffix("_quantized") if len(value.matrices) == 1 else ""
    module = _of_module(node)
    if not own or value.inline or _GENERATED.fullmatch(own) or (module and "." not in own):
        return module or _of_node(node) or own or value.name
    return own


def _of_module(node: Any) -> str:
    """The path of the module that a node was exported from, as torch.onnx writes it; "" where it does not say."""
    scopes = next((each.value for each in node.metadata_props if each.key == "pkg.torch.onnx.name_scopes"), "[]")
    try:
        *modules, _ = ast.literal_eval(scopes)
    except (ValueError, SyntaxError):
        return ""
    return str(modules[-1]) if modules else ""


def _of_node(node: Any) -> str:
    """A node's name; as a module's path where it is such as "/layer1/layer1.0/conv1/Conv"."""
    *path, last = node.name.split("/")
    if len(path) < 2 or path[0] or not last[:1].isupper():  # the operator's name
        return str(node.name)
    names: list[str] = []
    for name in path[1:]:
        if names and name.startswith(f"{names[-1]}."):  # of a Sequential or a ModuleList
            names.pop()
        names.append(name)
    return ".".join(names)


def _stored(weight: _Weight, path: Path, opsets: list[Any]) -> StoredTensor:
    value = weight.value
    for tensor in value.tensors.values():
        if tensor.data_location == tensor.EXTERNAL:
            external(tensor, path)  # what lacks is said at once
    if unread := [dtype_of(tensor) for tensor in value.tensors.values() if not value.nodes and not is_read(tensor)]:
        return _unread(weight.name, value, f"{unread[0]}, which torch has not")
    try:
        dtype, shape = form(value, path, opsets)
    except CheckpointError:
        raise
    except Exception as error:  # what the implementation has no operator or no such value for
        return _unread(weight.name, value, f"{value.note or 'computed in the graph'}, which failed: {error}")
    if weight.operator == "Linear" and len(shape) != 2:
        return _unread(weight.name, value, f"multiplied as a stack of matrices, {len(shape)} dimensions")
    if weight.operator != "Linear" and len(shape) < 3:
        return _unread(weight.name, value, f"a convolution's, of {len(shape)} dimensions")
    operator = weight.operator if weight.operator == "Linear" else f"{weight.operator}{len(shape) - 2}d"

    def read() -> Tensor:
        with damage_named(path, f"an ONNX model with {weight.name}"):
            tensor = (
                computed(value, path, opsets) if value.nodes else tensor_of(next(iter(value.tensors.values())), path)
            )
            tensor = tensor * weight.factor if weight.factor != 1 else tensor
            return tensor.t() if weight.transposed else tensor

    given = shape[::-1] if weight.transposed else shape
    return StoredTensor(weight.name, given, dtype, read, operator, weight.groups, value.note)


def _unread(name: str, value: Constant, reason: str) -> StoredTensor:
    tensor = next(iter(value.tensors.values()))
    return StoredTensor(name, tuple(tensor.dims), dtype_of(tensor), None, note=reason)


def _other(tensor: Any, operators: list[str], path: Path) -> list[StoredTensor]:
    """An initialiser that is no weight of a convolution or a linear layer; none where it is no parameter."""
    name, shape, dtype = tensor.name, tuple(tensor.dims), dtype_of(tensor)
    if len(shape) > 1:
        return [StoredTensor(name, shape, dtype, None, note=reason_of_other_uses(operators))]
    if not is_read(tensor) or not dtype.startswith(("float", "bfloat")):
        return []

    def read() -> Tensor:
        with damage_named(path, f"an ONNX model with {name}"):
            return tensor_of(tensor, path)

    return [StoredTensor(name, shape, dtype, read)]


def _of_unique_names(tensors: list[StoredTensor]) -> list[StoredTensor]:
    """The tensors, those whose name occurred before with a number after it: modules may run more than once."""
    count: dict[str, int] = {}
    unique = []
    for tensor in tensors:
        count[tensor.name] = number = count.get(tensor.name, 0) + 1
        unique.append(replace(tensor, name=f"{tensor.name}#{number}") if number > 1 else tensor)
    return unique
