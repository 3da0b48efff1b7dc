"""NumPy's archives and arrays."""

import zipfile

import numpy as np
import pytest
import torch
from damaged import check_damaged

from ckrm_kernels.checkpoints.npz import is_npy, is_npz, read_npz
from ckrm_kernels.checkpoints.stored import CheckpointError

DRAW = np.random.default_rng(0)


def array(*shape, dtype="f4"):
    return DRAW.standard_normal(shape).astype(dtype)


def saved(path, compressed=False, **arrays):
    (np.savez_compressed if compressed else np.savez)(path, **arrays)
    return {tensor.name: tensor for tensor in read_npz(path)}


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i1", "i8", "?", "c8", ">f4", ">f8", ">i4"])
def test_the_values_of_an_archive(tmp_path, compressed, dtype):
    arrays = {"b.weight": array(8, 3, 3, 3) * 9, "a.weight": np.asfortranarray(array(4, 2, 3)), "a.bias": array(4)}
    arrays = {name: value.astype(dtype) for name, value in arrays.items()} | {"empty": array(0, 3), "one": array()}
    found = saved(tmp_path / "a.npz", compressed, **arrays)
    assert list(found) == list(arrays)
    for name, value in arrays.items():
        read = found[name].read()
        assert found[name].shape == tuple(read.shape) == value.shape
        assert found[name].dtype == str(read.dtype).removeprefix("torch.") == value.dtype.newbyteorder("=").name
        assert np.array_equal(read.numpy(), value)
        assert (found[name].operator, found[name].groups, found[name].note) == ("", None, "")


@pytest.mark.parametrize("order", ["C", "F"])
def test_an_array_by_itself(tmp_path, order):
    value = array(8, 3, 3, 3).copy(order)
    np.save(tmp_path / "a.npy", value)
    (found,) = read_npz(tmp_path / "a.npy")
    assert found.name == "weight"
    assert np.array_equal(found.read().numpy(), value)


def test_arrays_are_mapped_and_writing_to_them_leaves_the_file(tmp_path):
    found = saved(tmp_path / "a.npz", w=array(8, 3, 3, 3))
    before = (tmp_path / "a.npz").read_bytes()
    found["w"].read().zero_()
    assert (tmp_path / "a.npz").read_bytes() == before
    assert found["w"].read().abs().sum() > 0


def test_what_needs_pickle_and_what_torch_has_not(tmp_path):
    ran = []

    class Runs:
        def __reduce__(self):
            return ran.append, (1,)

    found = saved(
        tmp_path / "a.npz",
        objects=np.array([Runs()], dtype=object),
        text=np.array(["a"]),
        raw=np.zeros((8, 3, 3, 3), "V2"),  # as NumPy saves bfloat16
        fields=np.zeros(3, [("a", "f4")]),
        w=array(8, 3, 3, 3),
    )
    assert not ran
    assert [name for name, each in found.items() if each.read] == ["w"]
    assert found["objects"].note == "objects, which only pickle reads, and that runs code"
    assert found["raw"].note == "NumPy's type |V2, which torch has not"
    assert found["raw"].shape == (8, 3, 3, 3)


@pytest.mark.parametrize("name", ["params/Conv_0/kernel", "conv2d/kernel:0", "layers.0.kernel", "kernel"])
@pytest.mark.parametrize("shape", [(3, 5, 7, 2), (5, 7, 2), (3, 2, 4, 7, 2), (7, 2)])
def test_a_kernel_is_put_into_the_layout_of_torch(tmp_path, name, shape):
    value = array(*shape)
    found = saved(tmp_path / "a.npz", **{name: value})[name]
    assert found.shape == (2, 7, *shape[:-2])
    read = found.read().numpy()
    for *at, inputs, filters in np.ndindex(shape):
        assert read[(filters, inputs, *at)] == value[(*at, inputs, filters)]
    assert "(*K, I, O)" in found.note


def test_a_depthwise_kernel_of_keras(tmp_path):
    value = array(3, 5, 4, 2)  # two filters for each of four channels
    found = saved(tmp_path / "a.npz", **{"separable/depthwise_kernel": value})["separable/depthwise_kernel"]
    assert found.shape == (8, 1, 3, 5)
    read = found.read().numpy()
    for y, x, channel, each in np.ndindex(value.shape):
        assert read[channel * 2 + each, 0, y, x] == value[y, x, channel, each]


def test_a_transposed_kernel_of_keras_and_one_of_flax(tmp_path):
    keras, flax = array(3, 3, 7, 2), array(3, 3, 2, 7)
    found = saved(tmp_path / "a.npz", **{"conv2d_transpose_1/kernel": keras, "ConvTranspose_0/kernel": flax})
    for name, value, to_torch in (
        ("conv2d_transpose_1/kernel", keras, (2, 3, 0, 1)),
        ("ConvTranspose_0/kernel", flax, (3, 2, 0, 1)),
    ):
        assert found[name].shape == (7, 2, 3, 3)  # 7 filters
        assert np.array_equal(found[name].read().numpy(), value.transpose(to_torch))


def test_kernels_that_are_no_convolution(tmp_path):
    kernels = {"encoder/query/kernel": (8, 2, 4), "encoder/out/kernel": (2, 4, 8), "lstm/recurrent_kernel": (8, 32)}
    found = saved(tmp_path / "a.npz", **{name: array(*shape) for name, shape in kernels.items()})
    assert [each.read for each in found.values()] == [None] * 3
    assert found["encoder/query/kernel"].note == "attention, a projection to heads"
    assert found["lstm/recurrent_kernel"].note == "recurrent, no filters"


@pytest.mark.parametrize(
    ("shape", "layout", "others"),
    [
        ((3, 3, 64, 128), "(*K, I, O), as TensorFlow", {(64, 10): None, (3, 3, 3, 8): None, (64,): 1}),
        ((64, 3, 3, 32), "(O, *K, I), as MLX", {(64, 10): 1, (8, 3, 3, 3): None, (64,): 1}),
    ],
)
def test_shapes_that_speak_of_another_layout_are_refused(tmp_path, shape, layout, others):
    found = saved(
        tmp_path / "a.npz", conv=array(*shape), **{f"other{n}": array(*each) for n, each in enumerate(others)}
    )
    assert found["conv"].read is None
    assert layout in found["conv"].note
    for n, kept in enumerate(others.values()):
        assert (found[f"other{n}"].read is None) == (kept is None)


@pytest.mark.parametrize(
    "shape",
    [(64, 32, 3, 3), (128, 1, 31, 31), (768, 3, 16, 16), (8, 16, 1, 64), (64, 1, 1, 15), (64, 3, 5, 3), (9, 4, 70)],
)
def test_shapes_of_torch_are_read(tmp_path, shape):
    assert saved(tmp_path / "a.npz", w=array(*shape))["w"].shape == shape


def test_how_its_files_are_known():
    assert is_npy(b"\x93NUMPY\1\0")
    assert is_npz(["a.npy", "b/kernel.npy"])
    assert not is_npz(["a/data.pkl", "a/data/0"])
    assert not is_npz([])


@pytest.mark.parametrize("compressed", [False, True])
def test_damaged_archives(tmp_path, compressed):
    saved(tmp_path / "a.npz", compressed, w=array(4, 2, 3), b=array(4))
    check_damaged(read_npz, tmp_path / "a.npz", 150)


def test_damaged_arrays(tmp_path):
    np.save(tmp_path / "a.npy", array(4, 2, 3))
    check_damaged(read_npz, tmp_path / "a.npy", 100)


def test_an_array_that_claims_more_than_there_is(tmp_path):
    with (tmp_path / "a.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (10**9, 10**8)})
    (found,) = read_npz(tmp_path / "a.npy")
    with pytest.raises(CheckpointError, match=r"a\.npy"):
        found.read()


def test_a_file_that_changed_since(tmp_path):
    found = saved(tmp_path / "a.npz", w=array(4, 2, 3))
    (tmp_path / "a.npz").unlink()
    with pytest.raises(CheckpointError, match=r"a\.npz: can't be read: No such file"):
        found["w"].read()


def test_an_archive_with_another_member(tmp_path):
    saved(tmp_path / "a.npz", w=array(4, 2, 3))
    with zipfile.ZipFile(tmp_path / "a.npz", "a") as archive:
        archive.writestr("README", "text")
    with pytest.raises(CheckpointError, match="is a file of NumPy arrays, truncated or damaged"):
        read_npz(tmp_path / "a.npz")


def test_tensors_are_of_torch(tmp_path):
    assert isinstance(saved(tmp_path / "a.npz", w=array(2, 2))["w"].read(), torch.Tensor)
