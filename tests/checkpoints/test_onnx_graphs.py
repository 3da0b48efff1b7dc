"""ONNX models, exported by torch and made by hand."""

import logging
import warnings

import numpy as np
import onnx
import pytest
import torch
from damaged import check_damaged
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from ckrm_kernels.checkpoints.onnx_graphs import is_onnx, read_onnx
from ckrm_kernels.checkpoints.stored import CheckpointError

DRAW = np.random.default_rng(0)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.body = nn.Sequential(nn.Conv2d(8, 8, 3, groups=2), nn.ReLU(), nn.Conv2d(8, 6, 1, bias=False))
        self.norm = nn.BatchNorm2d(6)
        self.up = nn.ConvTranspose2d(6, 6, 3, groups=3)
        self.line = nn.Conv1d(6, 6, 3, groups=6)
        self.head = nn.Linear(6, 5)
        self.last = nn.Linear(5, 4, bias=False)
        self.unused_gain = nn.Parameter(torch.randn(5, 1))

    def forward(self, x):
        x = self.norm(self.body(self.stem(x).relu())).relu()
        x = self.line(self.up(x).mean(-1)).transpose(1, 2)
        return self.last(self.head(x).relu()).mean(1) * self.unused_gain[:4, 0]


def folded(net) -> torch.Tensor:
    """The weight before the normalisation, with that folded into it, as exporters do."""
    scale = net.norm.weight / (net.norm.running_var + net.norm.eps).sqrt()
    return net.body[2].weight * scale[:, None, None, None]


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    net = Net()
    net(torch.randn(4, 3, 12, 12))  # statistics that change a folded weight
    return net.eval()


def export(net, path, inputs, **options):
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(net, inputs, str(path), verbose=False, **options)
    return path


@pytest.fixture(scope="module", params=["dynamo", "script"])
def file(request, net, tmp_path_factory):
    path, image = tmp_path_factory.mktemp("onnx") / "net.onnx", torch.randn(2, 3, 12, 12)
    return export(net, path, (image,), dynamo=request.param == "dynamo", external_data=request.param == "dynamo")


def named(path):
    return {tensor.name.removesuffix(".weight"): tensor for tensor in read_onnx(path)}


def test_the_weights_of_an_export_are_those_of_the_model(net, file):
    found = named(file)
    modules = dict(net.named_modules())
    for name, operator, groups in (
        ("stem", "Conv2d", 1),
        ("body.0", "Conv2d", 2),
        ("body.2", "Conv2d", 1),
        ("up", "ConvTranspose2d", 3),
        ("line", "Conv1d", 6),
        ("head", "Linear", 1),
        ("last", "Linear", 1),
    ):
        expected = folded(net) if name == "body.2" else modules[name].weight
        tensor = found[name]
        assert (tensor.operator, tensor.groups, tensor.note) == (operator, groups, ""), name
        assert tensor.shape == tuple(tensor.read().shape) == tuple(expected.shape)
        assert tensor.dtype == "float32"
        torch.testing.assert_close(tensor.read(), expected.detach(), rtol=1e-5, atol=1e-6)
    assert torch.equal(found["stem.bias"].read(), net.stem.bias)
    operators = [tensor for tensor in found.values() if tensor.operator]
    assert len(operators) == 7


def test_its_first_bytes(file):
    assert is_onnx(file.read_bytes()[:16])
    assert is_onnx(b"\x08\x07\x12\x00\x3a\x05")  # without its producer's name
    for head in (b"", b"PK\3\4", b"\x80\2}", b"\x08\x07\x00", b"\x93NUMPY"):
        assert not is_onnx(head)


def test_first_bytes_of_others_that_are_protobuf_too():
    saved_model = b"\x08\x01\x12\xc3\x89\x0b\n\xd1\x02\x12\x08"
    core_ml = b"\x08\x04\x12\x2e\n\x0f\n\x05image\x1a\x06\x1a\x04"
    frozen_graph = b"\n\x1c\n\x05input\x12\x0bPlaceholder"
    assert not any(is_onnx(head) for head in (saved_model, core_ml, frozen_graph))


@pytest.mark.parametrize("dynamo", [False, pytest.param(True, marks=pytest.mark.exhaustive)])
def test_weight_norm_in_the_graph_is_computed(tmp_path, dynamo):
    net = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv1d(4, 6, 3, groups=2))).eval()
    tensor = named(export(net, tmp_path / "a.onnx", (torch.randn(1, 4, 9),), dynamo=dynamo))["0"]
    assert (tensor.operator, tensor.groups, tensor.shape) == ("Conv1d", 2, (6, 2, 3))
    torch.testing.assert_close(tensor.read(), net[0].weight.detach())


def weight(*shape, dtype="f4"):
    return (DRAW.standard_normal(shape) * 20).astype(dtype)


def model(nodes, initializers, functions=(), opset=21, ir_version=10):
    """A model of these nodes, from "x" on."""
    graph = helper.make_graph(
        list(nodes),
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, None)],
        [helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in initializers.items()],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1), helper.make_opsetid("own", 1)]
    return helper.make_model(graph, opset_imports=opsets, functions=list(functions), ir_version=ir_version)


def read(tmp_path, *arguments, **options):
    path = tmp_path / "a.onnx"
    path.write_bytes(model(*arguments, **options).SerializeToString())
    return {tensor.name: tensor for tensor in read_onnx(path)}


def node(operator, inputs, output, name="", **attributes):
    domain = "com.microsoft" if operator.startswith(("Fused", "QGemm", "MatMulNBits", "Dynamic")) else ""
    return helper.make_node(operator, inputs, [output], name=name, domain=domain, **attributes)


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
@pytest.mark.parametrize("raw", [True, False])
def test_the_types_that_an_initialiser_may_have(tmp_path, dtype, raw):
    value = weight(4, 2, 3, 3, dtype=dtype)
    tensor = numpy_helper.from_array(value, "w")
    if not raw:
        tensor = helper.make_tensor("w", tensor.data_type, value.shape, value.flatten())
    made = model([node("Conv", ["x", "w"], "y")], {})
    made.graph.initializer.append(tensor)
    (tmp_path / "a.onnx").write_bytes(made.SerializeToString())
    (found,) = read_onnx(tmp_path / "a.onnx")
    assert np.array_equal(found.read().numpy(), value)
    assert found.dtype == value.dtype.name


def test_bfloat16_float8_and_what_torch_has_not(tmp_path):
    values = torch.randn(4, 2, 3, 3)
    kinds = {"b": ("BFLOAT16", torch.bfloat16), "f": ("FLOAT8E4M3FN", torch.float8_e4m3fn), "q": ("INT4", None)}
    nodes = [node("Conv", ["x", name], f"y{name}") for name in kinds]
    made = model(nodes, {})
    for name, (kind, dtype) in kinds.items():
        raw = values.to(dtype).view(torch.uint8).numpy().tobytes() if dtype else bytes(36)
        made.graph.initializer.add(name=name, dims=values.shape, data_type=getattr(TensorProto, kind), raw_data=raw)
    (tmp_path / "a.onnx").write_bytes(made.SerializeToString())
    found = {tensor.name: tensor for tensor in read_onnx(tmp_path / "a.onnx")}
    for name in "bf":
        assert torch.equal(found[name].read().float(), values.to(kinds[name][1]).float())
        assert found[name].dtype == str(kinds[name][1]).removeprefix("torch.")
    assert (found["q"].read, found["q"].dtype, found["q"].note) == (None, "int4", "int4, which torch has not")
    made.graph.initializer[-1].data_type = 99  # of a later version
    (tmp_path / "a.onnx").write_bytes(made.SerializeToString())
    assert read_onnx(tmp_path / "a.onnx")[-1].note == "type 99, which torch has not"


@pytest.mark.parametrize(
    ("operator", "inputs", "attributes", "is_transposed", "factor"),
    [
        ("MatMul", ["x", "w"], {}, True, 1),
        ("MatMul", ["w", "x"], {}, False, 1),
        ("Gemm", ["x", "w"], {}, True, 1),
        ("Gemm", ["x", "w", "b"], {"transB": 1, "alpha": 0.5}, False, 0.5),
        ("Gemm", ["w", "x"], {}, False, 1),
        ("Gemm", ["w", "x"], {"transA": 1}, True, 1),
        ("FusedMatMul", ["x", "w"], {"transB": 1}, False, 1),
    ],
)
def test_matrices_are_given_as_those_of_a_linear_layer(tmp_path, operator, inputs, attributes, is_transposed, factor):
    value = weight(6, 4)
    found = read(tmp_path, [node(operator, inputs, "y", **attributes)], {"w": value, "b": weight(4)})["w"]
    expected = (value.T if is_transposed else value) * factor
    assert (found.operator, found.groups, found.shape) == ("Linear", 1, expected.shape)
    assert np.array_equal(found.read().numpy(), expected)


def test_a_product_of_activations_has_no_weight(tmp_path):
    assert read(tmp_path, [node("Relu", ["x"], "r"), node("MatMul", ["x", "r"], "y")], {}) == {}


def test_a_stack_of_matrices_is_listed(tmp_path):
    found = read(tmp_path, [node("MatMul", ["x", "w"], "y")], {"w": weight(2, 3, 4)})["w"]
    assert (found.read, found.note) == (None, "multiplied as a stack of matrices, 3 dimensions")


def test_what_stands_between_a_tensor_and_its_operator(tmp_path):
    value, held = weight(6, 4, 3, dtype="f2"), weight(5, 6, 1, 1)
    nodes = [
        node("Identity", ["w"], "same"),
        node("Cast", ["same"], "cast", to=TensorProto.FLOAT),
        node("Constant", [], "axes", value=numpy_helper.from_array(np.array([2]))),
        node("Unsqueeze", ["cast", "axes"], "wide"),
        node("Conv", ["x", "wide"], "c", name="first"),
        node("Constant", [], "/second/Constant_output_0", value=numpy_helper.from_array(held)),
        node("Conv", ["c", "/second/Constant_output_0"], "d", name="/second/Conv"),
        node("Transpose", ["matrix"], "turned", perm=[1, 0]),
        node("MatMul", ["d", "turned"], "y", name="third"),
    ]
    matrix = weight(7, 5)
    found = read(tmp_path, nodes, {"w": value, "matrix": matrix})
    assert {name: (each.operator, each.dtype, each.note) for name, each in found.items()} == {
        "w": ("Conv2d", "float32", ""),
        "second": ("Conv2d", "float32", ""),
        "matrix": ("Linear", "float32", ""),
    }
    assert np.array_equal(found["w"].read().numpy(), value.astype("f4")[:, :, None])
    assert found["w"].shape == (6, 4, 1, 3)
    assert np.array_equal(found["second"].read().numpy(), held)
    assert np.array_equal(found["matrix"].read().numpy(), matrix)  # turned by the graph, and given as a Linear's


def test_a_weight_that_several_operators_use_is_one(tmp_path):
    nodes = [
        node("Identity", ["w"], "same"),
        node("Conv", ["x", "w"], "a", group=2),
        node("Conv", ["a", "w"], "b", group=2),
        node("Conv", ["b", "same"], "y", group=2),
    ]
    found = read(tmp_path, nodes, {"w": weight(4, 2, 3, 3)})
    assert [(name, each.groups) for name, each in found.items()] == [("w", 2)]


def test_what_no_layer_uses_is_listed_with_the_reason(tmp_path):
    tensors = {
        "table": weight(9, 4),
        "gain": weight(1, 4, 1, 1),
        "bias": weight(4),
        "left": weight(2, 3),
        "shape": np.array([1, 4]),
        "rnn": weight(1, 8, 4),
    }
    nodes = [
        node("LSTM", ["x", "rnn", "rnn"], "l"),
        node("Gather", ["table", "x"], "g"),
        node("Mul", ["g", "gain"], "m"),
        node("Add", ["m", "bias"], "a"),
        node("Reshape", ["a", "shape"], "r"),
        node("Conv", ["r", "m"], "y", name="/dynamic/Conv"),
    ]
    found = read(tmp_path, nodes, tensors)
    assert {name: each.note for name, each in found.items()} == {
        "table": "not used by a convolution or linear layer but by Gather",
        "gain": "not used by a convolution or linear layer but by Mul",
        "left": "not used by a convolution or linear layer",
        "rnn": "recurrent, no filters",
        "bias": "",
        "dynamic": "its weight is computed in the graph, from what is no constant",
    }
    assert [name for name, each in found.items() if each.read] == ["bias"]


def test_subgraphs_and_functions_are_walked(tmp_path):
    inner, own = weight(4, 4, 3, 3), weight(4, 2, 3, 3)

    def branch(name, held, output):
        value = helper.make_tensor_value_info(output, TensorProto.FLOAT, None)
        tensors = [numpy_helper.from_array(inner, "inner")] if held == "inner" else []
        return helper.make_graph([node("Conv", ["x", held], output)], name, [], [value], tensors)

    function = helper.make_function(
        "own", "Block", ["a", "w"], ["b"],
        [helper.make_node("Conv", ["a", "w"], ["c"]), helper.make_node("Relu", ["c"], ["b"])],
        [helper.make_opsetid("", 21)], ["group"],
    )  # fmt: skip
    reference = function.node[0].attribute.add(name="group", ref_attr_name="group", type=onnx.AttributeProto.INT)
    assert reference.ref_attr_name == "group"
    nodes = [
        node("Constant", [], "condition", value=numpy_helper.from_array(np.array(True))),
        node("If", ["condition"], "i", then_branch=branch("t", "inner", "p"), else_branch=branch("e", "outer", "q")),
        helper.make_node("Block", ["i", "own"], ["y"], domain="own", group=2),
    ]
    outer = weight(4, 4, 3, 3)
    found = read(tmp_path, nodes, {"outer": outer, "own": own}, functions=[function])
    assert {name: each.groups for name, each in found.items()} == {"inner": 1, "outer": 1, "own": 2}
    for name, value in (("inner", inner), ("outer", outer), ("own", own)):
        assert np.array_equal(found[name].read().numpy(), value)


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("operator", ["DequantizeLinear", "QLinearConv"])
@pytest.mark.parametrize("dtype", ["i1", "u1"])
def test_quantised_convolutions_are_dequantised(tmp_path, per_channel, operator, dtype):
    value = DRAW.integers(-128 if dtype == "i1" else 0, 127, (4, 2, 3, 3)).astype(dtype)
    scale = np.array([0.1, 0.02, 0.3, 1.5], "f4") if per_channel else np.array(0.1, "f4")
    zero = np.array([0, 3, 1, 2] if per_channel else 3, dtype)
    tensors = {"w": value, "s": scale, "z": zero, "xs": np.array(0.1, "f4"), "xz": np.array(0, "u1")}
    if operator == "QLinearConv":
        nodes = [node(operator, ["x", "xs", "xz", "w", "s", "z", "xs", "xz"], "y")]
    else:
        nodes = [node(operator, ["w", "s", "z"], "d", axis=0), node("Conv", ["x", "d"], "y")]
    found = read(tmp_path, nodes, tensors, opset=13)["w"]
    shaped = (4, 1, 1, 1) if per_channel else ()
    expected = (value.astype("f4") - zero.astype("f4").reshape(shaped)) * scale.reshape(shaped)
    assert (found.operator, found.dtype, found.shape) == ("Conv2d", "float32", value.shape)
    assert found.note == f"{value.dtype.name}, dequantised"
    np.testing.assert_allclose(found.read().numpy(), expected, rtol=1e-6)


def test_quantised_matrices_are_dequantised(tmp_path):
    value, scale, zero = DRAW.integers(-128, 127, (6, 4)).astype("i1"), weight(4) ** 2, np.zeros(4, "i1")
    tensors = {"w": value, "s": scale, "z": zero, "xs": np.array(0.1, "f4"), "xz": np.array(0, "u1")}
    nodes = [node("QLinearMatMul", ["x", "xs", "xz", "w", "s", "z", "xs", "xz"], "y")]
    found = read(tmp_path, nodes, tensors)["w"]
    np.testing.assert_allclose(found.read().numpy(), (value * scale).T, rtol=1e-6)
    nodes = [node("DynamicQuantizeMatMul", ["x", "w", "s"], "y")]
    np.testing.assert_allclose(read(tmp_path, nodes, tensors)["w"].read().numpy(), (value * scale).T, rtol=1e-6)
    nodes = [node("QGemm", ["x", "xs", "xz", "t", "s", "z"], "y", transB=1)]
    found = read(tmp_path, nodes, {**tensors, "t": value.T.copy()})["t"]
    np.testing.assert_allclose(found.read().numpy(), (value * scale).T, rtol=1e-6)


def test_what_is_quantised_otherwise_is_named(tmp_path):
    value = DRAW.integers(-128, 127, (4, 2, 3, 3)).astype("i1")
    nodes = [
        node("ConvInteger", ["x", "w_quantized"], "c"),
        node("MatMulInteger", ["c", "m"], "i"),
        node("MatMulNBits", ["i", "packed", "s"], "y", K=16, N=4, bits=4, block_size=16),
    ]
    tensors = {"w_quantized": value, "m": value[0, 0], "packed": np.zeros((4, 1, 8), "u1"), "s": weight(4)}
    found = {name: each.note for name, each in read(tmp_path, nodes, tensors).items() if not each.read}
    assert found == {
        "w": "int8, ConvInteger: its scale is applied elsewhere in the graph",
        "m": "int8, MatMulInteger: its scale is applied elsewhere in the graph",
        "packed": "uint8, MatMulNBits: of few bits, packed as onnxruntime does",
    }


def test_operators_of_others_and_circles_are_listed(tmp_path):
    blocked = helper.make_node("Conv", ["x", "w"], ["a"], domain="com.microsoft.nchwc")
    nodes = [
        blocked,
        node("Identity", ["same"], "other"),
        node("Identity", ["other"], "same"),
        node("Conv", ["a", "same"], "y", name="endless"),
    ]
    found = {name: (each.read, each.note) for name, each in read(tmp_path, nodes, {"w": weight(8, 2, 3, 3)}).items()}
    assert found == {
        "w": (None, "float32, Conv of com.microsoft.nchwc, whose layout is not known"),
        "endless": (None, "its weight is computed in the graph, from what is no constant"),
    }


@pytest.mark.parametrize("form", ["QDQ", "QOperator"])
def test_what_onnxruntime_quantised(net, tmp_path, form):
    quantization = pytest.importorskip("onnxruntime.quantization")
    path = export(net, tmp_path / "a.onnx", (torch.randn(2, 3, 12, 12),), dynamo=False)

    class Images(quantization.CalibrationDataReader):
        def get_next(self):
            return next(self.images, None)

    name = onnx.load(path).graph.input[0].name
    Images.images = iter([{name: DRAW.standard_normal((2, 3, 12, 12)).astype("f4")} for _ in range(2)])
    logging.disable(logging.WARNING)
    options = {"per_channel": True, "op_types_to_quantize": ["Conv", "MatMul"]}
    quantization.quantize_static(
        *(str(path), str(tmp_path / "q.onnx"), Images()),
        quant_format=quantization.QuantFormat[form],
        weight_type=quantization.QuantType.QInt8,
        **options,
    )
    logging.disable(logging.NOTSET)
    found = named(tmp_path / "q.onnx")
    for layer, expected in (("stem", net.stem.weight), ("body.0", net.body[0].weight), ("head", net.head.weight)):
        tensor = found[layer]
        assert tensor.note == "int8, dequantised"
        assert tensor.shape == tuple(expected.shape)
        step = expected.detach().abs().max() / 127
        assert (tensor.read() - expected).abs().max() <= step
    assert found["body.0"].groups == 2


def test_a_fake_quantised_weight_is_the_rounded_one(tmp_path):
    value, scale = weight(4, 2, 3, 3), np.array(0.5, "f4")
    nodes = [
        node("QuantizeLinear", ["w", "s", "z"], "q"),
        node("DequantizeLinear", ["q", "s", "z"], "d"),
        node("Conv", ["x", "d"], "y"),
    ]
    found = read(tmp_path, nodes, {"w": value, "s": scale, "z": np.array(0, "i1")})["w"]
    assert found.note == "quantised and dequantised"
    np.testing.assert_allclose(found.read().numpy(), np.clip(np.round(value / scale), -128, 127) * scale, rtol=1e-6)


def test_a_weight_that_can_not_be_computed_is_listed_and_the_others_are_read(tmp_path):
    nodes = [
        node("Concat", ["w", "narrow"], "r", axis=0),
        node("Conv", ["x", "r"], "c", name="joined"),
        node("Conv", ["c", "flat"], "d"),
        node("Conv", ["d", "good"], "y"),
    ]
    shapes = {"w": (4, 2, 3, 3), "narrow": (4, 1, 3, 3), "flat": (4, 2), "good": (4, 2, 3)}
    found = read(tmp_path, nodes, {name: weight(*shape) for name, shape in shapes.items()})
    assert found["joined"].read is None
    assert found["joined"].note.startswith("computed as the graph does, by Concat, which failed: ")
    assert (found["flat"].read, found["flat"].note) == (None, "a convolution's, of 2 dimensions")
    assert found["good"].read is not None


def with_external(tmp_path, value, **entries):
    made = model([node("Conv", ["x", "w"], "y")], {})
    tensor = made.graph.initializer.add(name="w", dims=value.shape, data_type=TensorProto.FLOAT)
    tensor.data_location = TensorProto.EXTERNAL
    for key, entry in {"location": "data/w.bin", **entries}.items():
        tensor.external_data.add(key=key, value=str(entry))
    (tmp_path / "data").mkdir(exist_ok=True)
    (tmp_path / "data" / "w.bin").write_bytes(bytes(7) + value.tobytes())
    (tmp_path / "a.onnx").write_bytes(made.SerializeToString())
    return tmp_path / "a.onnx"


@pytest.mark.parametrize("linked", [False, True])
def test_data_in_another_file_is_read_when_asked_for(tmp_path, linked):
    value = weight(4, 2, 3, 3)
    path = with_external(tmp_path, value, offset=7, length=value.nbytes)
    if linked:  # as in the cache of Hugging Face
        (tmp_path / "blob").write_bytes((tmp_path / "data" / "w.bin").read_bytes())
        (tmp_path / "data" / "w.bin").unlink()
        (tmp_path / "data" / "w.bin").symlink_to("../blob")
    (found,) = read_onnx(path)
    assert np.array_equal(found.read().numpy(), value)


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"location": "../w.bin"}, "lies in '../w.bin', which is not in the model's folder"),
        ({"location": "/etc/passwd"}, "lies in '/etc/passwd', which is not in the model's folder"),
        ({"location": "..\\w.bin"}, "which is not in the model's folder"),
        ({"location": "C:/w.bin"}, "which is not in the model's folder"),
        ({"location": ""}, "which is not in the model's folder"),
        ({"location": "data/gone.bin"}, "lies in data/gone.bin, which is not there: put it beside the model"),
        ({"offset": 4000}, "which is truncated"),
        ({"length": 4000}, "which is truncated"),
        ({"offset": -1}, "which is truncated"),
        ({"offset": "x"}, "truncated or damaged"),
        ({"length": 4}, "truncated or damaged"),
    ],
)
def test_data_elsewhere_is_refused(tmp_path, entries, words):
    path = with_external(tmp_path, weight(4, 2, 3, 3), **{"offset": 7, "length": 288, **entries})
    with pytest.raises(CheckpointError, match=words.replace("\\", ".")) as caught:
        [tensor.read() for tensor in read_onnx(path)]
    assert str(caught.value).startswith(f"{tmp_path / 'a.onnx'}: ")


def test_names_of_modules_that_run_twice_are_told_apart(tmp_path):
    nodes = [
        node("Conv", ["x", "onnx::Conv_1"], "a", name="/block/block.0/Conv"),
        node("Conv", ["a", "onnx::Conv_2"], "y", name="/block/block.0/Conv_1"),
    ]
    found = read(tmp_path, nodes, {"onnx::Conv_1": weight(4, 4, 3, 3), "onnx::Conv_2": weight(4, 4, 3, 3)})
    assert list(found) == ["block.0", "block.0#2"]


def test_a_model_without_nodes(tmp_path):
    made = helper.make_model(helper.make_graph([], "graph", [], []))
    (tmp_path / "a.onnx").write_bytes(made.SerializeToString())
    with pytest.raises(CheckpointError, match=r"a\.onnx: is an ONNX model without a graph"):
        read_onnx(tmp_path / "a.onnx")


def test_damaged_models(tmp_path):
    tensors = {
        "w": DRAW.integers(-9, 9, (4, 2, 3)).astype("i1"),
        "s": weight(4),
        "z": np.zeros(4, "i1"),
        "m": weight(3, 2),
    }
    nodes = [
        node("DequantizeLinear", ["w", "s", "z"], "d", axis=0),
        node("Conv", ["x", "d"], "c", group=2),
        node("Transpose", ["m"], "t", perm=[1, 0]),
        node("MatMul", ["c", "t"], "y"),
    ]
    path = tmp_path / "a.onnx"
    path.write_bytes(model(nodes, tensors).SerializeToString())
    check_damaged(read_onnx, path, 400)


def test_the_extra_is_named_where_it_lacks(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(ImportError, match=r"reading .*a\.onnx needs onnx: pip install \"ckrm-kernels\[onnx\]\""):
        read_onnx(tmp_path / "a.onnx")
