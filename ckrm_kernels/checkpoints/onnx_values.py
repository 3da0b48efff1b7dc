"""What is constant in an ONNX graph: tensors that the file holds, and what the graph computes from them alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ckrm_kernels.checkpoints.raw import as_tensor, mapped
from ckrm_kernels.checkpoints.stored import CheckpointError

# onnx.TensorProto.DataType
_DTYPES: dict[int, str] = {
    **{1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 9: "bool"},
    **{10: "float16", 11: "float64", 12: "uint32", 13: "uint64", 14: "complex64", 15: "complex128", 16: "bfloat16"},
    **{17: "float8_e4m3fn", 18: "float8_e4m3fnuz", 19: "float8_e5m2", 20: "float8_e5m2fnuz", 24: "float8_e8m0fnu"},
}
DOMAINS = ("", "ai.onnx", "com.microsoft")
"""Of operators whose meaning is known."""
ORDERS = ("Identity", "Cast", "CastLike", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten")
"""Operators that keep the numbers, and put them into another form."""
_QUANTISES = ("QuantizeLinear", "DequantizeLinear")
# Without subgraphs and without chance: what weight norm, standardisation and the like leave in a graph.
_COMPUTES = {
    *(*ORDERS, *_QUANTISES, "Constant", "Concat", "Slice", "Gather", "Expand", "Where", "Min", "Max", "Clip", "Round"),
    *("Add", "Sub", "Mul", "Div", "Neg", "Abs", "Sign", "Sqrt", "Reciprocal", "Pow", "Exp", "Log", "Tanh", "Sigmoid"),
    *("MatMul", "ReduceL1", "ReduceL2", "ReduceMean", "ReduceSum", "ReduceSumSquare", "ReduceMax", "ReduceMin"),
}


@dataclass
class Scope:
    """The values of a graph by their names, and those of the graphs around it."""

    tensors: dict[str, Any]  # onnx.TensorProto
    nodes: dict[str, Any]  # onnx.NodeProto, by their outputs
    outer: Scope | None = None

    def find(self, name: str) -> tuple[Any, Any]:
        """The tensor of this name, or the node that gives it; None for what there is not."""
        if name in self.tensors or name in self.nodes:
            return self.tensors.get(name), self.nodes.get(name)
        return self.outer.find(name) if self.outer else (None, None)


@dataclass
class Constant:
    """A value that a graph takes or makes from the file's tensors alone.

    name: of the value
    tensors: that it is made of, by their names
    nodes: that make it of them, in their order; none where it is a tensor itself
    inline: whether the tensor is that of a Constant node, which has no name of its own
    """

    name: str
    tensors: dict[str, Any] = field(default_factory=dict)
    nodes: list[Any] = field(default_factory=list)
    inline: bool = False

    @property
    def key(self) -> tuple[Any, ...]:
        """Equal for what is made of the same tensors in the same way."""
        made = [(node.op_type, *(each.SerializeToString() for each in node.attribute)) for node in self.nodes]
        return (*sorted(id(tensor) for tensor in self.tensors.values()), *made)

    @property
    def matrices(self) -> list[str]:
        """The names of its tensors with two dimensions or more."""
        return [name for name, tensor in self.tensors.items() if len(tensor.dims) > 1]

    @property
    def note(self) -> str:
        """What the graph does to the numbers of the file."""
        operators = [node.op_type for node in self.nodes if node.op_type not in (*ORDERS, "Constant")]
        if not operators:
            return ""
        if all(each in _QUANTISES for each in operators):
            stored = ", ".join(dtype_of(self.tensors[name]) for name in self.matrices)
            return "quantised and dequantised" if "QuantizeLinear" in operators else f"{stored}, dequantised"
        return f"computed as the graph does, by {', '.join(dict.fromkeys(operators))}"


def constant(name: str, scope: Scope) -> Constant | None:
    """The value of this name, if it is made of the file's tensors alone by operators that can be computed here."""
    name = _behind_identities(name, scope)
    found, done = Constant(name), set()

    def collect(value: str) -> bool:
        if not value or value in done:  # an input that is left out has no name
            return True
        done.add(value)
        tensor, node = scope.find(value)
        if tensor is not None:
            found.tensors[value] = tensor
            return True
        if node is None or node.domain not in DOMAINS or node.op_type not in _COMPUTES:
            return False
        held = next((each.t for each in node.attribute if each.name == "value"), None)
        if node.op_type == "Constant" and held is not None:
            found.tensors[value] = held
            found.inline |= value == name
            return True
        if not all(collect(each) for each in node.input):
            return False
        found.nodes.append(node)
        return True

    return found if collect(name) and found.tensors else None


def _behind_identities(name: str, scope: Scope) -> str:
    passed: set[str] = set()
    node = scope.find(name)[1]
    while node is not None and node.op_type == "Identity" and name not in passed:  # a damaged graph may have a circle
        passed.add(name)
        name = node.input[0]
        node = scope.find(name)[1]
    return name


def dtype_of(tensor: Any) -> str:
    """A tensor's dtype as torch writes it, or as ONNX does where torch has no such type."""
    from onnx import TensorProto

    if tensor.data_type in _DTYPES:
        return _DTYPES[tensor.data_type]
    known = {number: name.lower() for name, number in TensorProto.DataType.items()}
    return known.get(tensor.data_type, f"type {tensor.data_type}")


def is_read(tensor: Any) -> bool:
    """Whether torch has the tensor's dtype."""
    return isinstance(getattr(torch, _DTYPES.get(tensor.data_type, ""), None), torch.dtype)


def tensor_of(tensor: Any, path: Path) -> Tensor:
    """A tensor of the model at this path, mapped where it lies in a file beside it."""
    from onnx import numpy_helper

    raw = _raw(tensor, path)
    if raw is None:
        return torch.from_numpy(numpy_helper.to_array(tensor).copy())
    return as_tensor(raw, getattr(torch, _DTYPES[tensor.data_type]), tuple(tensor.dims))


def _raw(tensor: Any, path: Path) -> np.ndarray | None:
    """The tensor's bytes (uint8); None where the model holds its numbers in fields of their type."""
    if tensor.data_location == tensor.EXTERNAL:
        return external(tensor, path)
    if tensor.HasField("raw_data"):
        return np.frombuffer(bytearray(tensor.raw_data), np.uint8)
    return None


def external(tensor: Any, path: Path) -> np.ndarray:
    """The bytes (uint8) of a tensor that lies in a file beside the model, mapped."""
    where = {entry.key: entry.value for entry in tensor.external_data}
    location = where.get("location", "")
    # by the name alone: in a cache of Hugging Face the files themselves are links that leave the folder
    parts = PurePosixPath(location.replace("\\", "/"))
    if not location or parts.is_absolute() or ".." in parts.parts or ":" in location or "\0" in location:
        raise CheckpointError(f"{path}: {tensor.name} lies in {location!r}, which is not in the model's folder")
    file = path.parent / location
    if not file.is_file():
        raise CheckpointError(f"{path}: {tensor.name} lies in {location}, which is not there: put it beside the model")
    offset = int(where.get("offset", 0))
    size = int(where.get("length", file.stat().st_size - offset))
    if offset < 0 or size < 0 or offset + size > file.stat().st_size:
        raise CheckpointError(f"{path}: {tensor.name} lies at {offset} in {location}, which is truncated")
    return mapped(file, offset, size)


def computed(value: Constant, path: Path, opsets: list[Any]) -> Tensor:
    """What the nodes make of the tensors, by ONNX's reference implementation."""
    arrays = {name: _array(tensor, path) for name, tensor in value.tensors.items()}
    result = np.asarray(_evaluator(value, opsets).run(None, arrays)[0])
    if result.dtype.name == "bfloat16":
        return torch.from_numpy(result.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(np.array(result, order="C"))


def form(value: Constant, path: Path, opsets: list[Any]) -> tuple[str, tuple[int, ...]]:
    """dtype and shape of the value, from its nodes where they tell, else by computing it.

    Raises whatever ONNX does for what can't be computed.
    """
    if not value.nodes:
        tensor = next(iter(value.tensors.values()))
        return dtype_of(tensor), tuple(tensor.dims)
    from onnx.shape_inference import infer_shapes

    _evaluator(value, opsets)
    for info in infer_shapes(_program(value, opsets, whole=False), strict_mode=True).graph.output:
        kind = info.type.tensor_type
        if (
            kind.elem_type in _DTYPES
            and kind.HasField("shape")
            and all(d.HasField("dim_value") for d in kind.shape.dim)
        ):
            return _DTYPES[kind.elem_type], tuple(dim.dim_value for dim in kind.shape.dim)
    result = computed(value, path, opsets)
    return str(result.dtype).removeprefix("torch."), tuple(result.shape)


def _evaluator(value: Constant, opsets: list[Any]) -> Any:
    """What computes the value; raises RuntimeError for an operator, or a version of it, that has no implementation."""
    from onnx.reference import ReferenceEvaluator

    return ReferenceEvaluator(_program(value, opsets, whole=True))


def _array(tensor: Any, path: Path) -> np.ndarray:
    from onnx import TensorProto, numpy_helper

    if tensor.data_location == tensor.EXTERNAL:
        held = TensorProto()
        held.CopyFrom(tensor)
        held.ClearField("external_data")
        held.data_location = TensorProto.DEFAULT
        held.raw_data = external(tensor, path).tobytes()
        return numpy_helper.to_array(held)
    return numpy_helper.to_array(tensor)


def _program(value: Constant, opsets: list[Any], whole: bool) -> Any:
    """A model of the value's nodes alone; whole: with its tensors as inputs, else with small ones as initialisers."""
    from onnx import TensorProto, helper

    held = [] if whole else [name for name, each in value.tensors.items() if _is_small(each)]
    inputs = [
        helper.make_tensor_value_info(name, each.data_type, list(each.dims))
        for name, each in value.tensors.items()
        if name not in held
    ]
    output = helper.make_empty_tensor_value_info(value.name)
    initializer = []
    for name in held:
        small = TensorProto()
        small.CopyFrom(value.tensors[name])
        small.name = name
        initializer.append(small)
    graph = helper.make_graph(list(_of_onnx(value.nodes)), "weight", inputs, [output], initializer)
    version = max([each.version for each in opsets if each.domain in ("", "ai.onnx")] or [13])
    if any(node.op_type in _QUANTISES for node in value.nodes):
        version = max(version, 21)  # the reference implementation has no older ones, which do the same
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", version)])


def _is_small(tensor: Any) -> bool:
    return len(tensor.dims) < 2 and tensor.data_location != tensor.EXTERNAL


def _of_onnx(nodes: list[Any]) -> Iterator[Any]:
    """The nodes as ONNX's own: those of onnxruntime mean the same."""
    for node in nodes:
        own = type(node)()
        own.CopyFrom(node)
        own.domain = ""
        yield own
