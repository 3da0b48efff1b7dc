"""What torch.save writes, of every kind of tensor, in both of its formats."""

from __future__ import annotations

import json
import os
import pickle
import struct
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import fully_shard

from ckrm_kernels.checkpoints import CheckpointError, read_checkpoints
from ckrm_kernels.layers import Layer

FORMATS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


def saved(content: object, path: Path, zipped: bool = True) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


def rows(path: Path) -> dict[str, Layer]:
    return {layer.name: layer for layer in read_checkpoints([path])[0].layers}


@FORMATS
def test_views_are_read_as_they_are(zipped, tmp_path):
    base = torch.randn(4, 6, 5, 5)
    state = {
        "whole.weight": base,
        "part.weight": base[1:3, 2:],
        "permuted.weight": base.permute(1, 0, 3, 2),
        "channels_last.weight": torch.randn(4, 6, 3, 3).contiguous(memory_format=torch.channels_last),
        "expanded.weight": torch.randn(4, 1, 3, 1).expand(4, 2, 3, 3),
        "empty.weight": torch.empty(0, 3, 3),
        "parameter.weight": nn.Parameter(torch.randn(3, 2, 3)),
        "double.weight": torch.randn(3, 2, 3, dtype=torch.float64),
        "half.weight": torch.randn(3, 2, 3).half(),
        "bfloat.weight": torch.randn(3, 2, 3).bfloat16(),
    }
    found = rows(saved(state, tmp_path / "w.pt", zipped))
    assert [f"{name}.weight" for name in found] == list(state)
    for name, tensor in state.items():
        (bank,) = found[name.removesuffix(".weight")].banks
        assert bank.dtype == tensor.dtype
        assert torch.equal(bank, tensor)
        assert bank.stride() == tensor.stride()


@FORMATS
@pytest.mark.parametrize(
    "dtype",
    [torch.float8_e4m3fn, torch.float8_e5m2, torch.int8, torch.uint8, torch.int64, torch.bool, torch.complex64,
     torch.uint16],
)  # fmt: skip
def test_what_can_not_be_measured_names_its_dtype(dtype, zipped, tmp_path):
    name = str(dtype).removeprefix("torch.")
    bad = torch.ones(8, 3, 3, 3).to(dtype)
    found = rows(saved({"good.weight": torch.randn(8, 3, 3, 3), "bad.weight": bad}, tmp_path / "w.pt", zipped))
    assert len(found["good"].banks) == 1
    assert (found["bad"].banks, found["bad"].note.split(",")[0]) == ((), name)
    with pytest.raises(CheckpointError, match=f"nothing in it can be measured: {name}, measured are float16"):
        read_checkpoints([saved({"bad.weight": bad}, tmp_path / "w.pt", zipped)])


def quantised(dtype: torch.dtype) -> Tensor:
    return torch.quantize_per_tensor(torch.randn(8, 3, 3, 3), 0.1, 0, dtype)


@pytest.mark.filterwarnings("ignore")
@FORMATS
@pytest.mark.parametrize(
    ("make", "note"),
    [
        (lambda: quantised(torch.qint8), "qint8, quantised"),
        (lambda: quantised(torch.quint8), "quint8, quantised"),
        (lambda: quantised(torch.quint4x2), "quint4x2, quantised"),
        (
            lambda: torch.quantize_per_channel(torch.randn(8, 3, 3, 3), torch.ones(8), torch.zeros(8), 0, torch.qint8),
            "qint8, quantised",
        ),
        (lambda: torch.randn(8, 3, 3).to_sparse(), "torch.sparse_coo: convert it"),
        (lambda: torch.randn(8, 3).to_sparse_csr(), "torch.sparse_csr: convert it"),
        (lambda: torch.empty(8, 3, 3, 3, device="meta"), "on the meta device"),
        (lambda: torch.nested.nested_tensor([torch.randn(2, 3), torch.randn(3, 3)]), "nested: convert it"),
        (lambda: nn.LazyConv2d(3, 3).weight, "lazy"),
        (lambda: torch.randn(8, 3, 3, dtype=torch.complex64).conj(), "a conjugated"),
        (lambda: torch.randn(8, 3, 3, 3, 3, 3), "6 dimensions"),
        (lambda: torch.empty(8, 0, 3), "has filters without slices"),
    ],
)
def test_tensors_of_other_kinds_are_rows_with_the_reason(make, note, zipped, tmp_path):
    state = {"good.weight": torch.randn(8, 3, 3, 3), "bad.weight": make()}
    found = rows(saved(state, tmp_path / "w.pt", zipped))
    assert len(found["good"].banks) == 1
    assert found["bad"].banks == ()
    assert note in found["bad"].note


class Marked(torch.Tensor):
    """A subclass that keeps its numbers as a tensor does."""


class Wrapper(torch.Tensor):
    """A subclass whose numbers are in another tensor, as those of quantisation libraries."""

    @staticmethod
    def __new__(cls, inner: Tensor) -> Wrapper:
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=torch.float32)

    def __init__(self, inner: Tensor) -> None:
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise NotImplementedError


def test_subclasses_of_tensors(tmp_path):
    values = torch.randn(4, 3, 3)
    state = {
        "a.weight": values.as_subclass(Marked),
        "b.weight": Wrapper(values),
        "c.weight": nn.Parameter(values.clone().as_subclass(Marked)),
    }
    found = rows(saved(state, tmp_path / "w.pt"))
    for name in "ac":
        assert torch.equal(found[name].banks[0], values)
        assert type(found[name].banks[0]) is Tensor
        assert "Marked, read as a plain tensor" in found[name].note
    assert found["b"].banks == ()
    assert "Wrapper, which keeps its numbers in other tensors" in found["b"].note


@pytest.fixture
def one_process(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_sharded_tensors_say_how_to_save_full_ones(one_process, tmp_path):
    net = nn.Sequential(nn.Conv2d(3, 8, 3))
    fully_shard(net, mesh=torch.distributed.init_device_mesh("cpu", (1,)))
    with pytest.raises(
        CheckpointError, match=r"sharded over processes; save a full one: get_model_state_dict\(model, op"
    ):
        read_checkpoints([saved(net.state_dict(), tmp_path / "w.pt")])
    full = get_model_state_dict(net, options=StateDictOptions(full_state_dict=True))
    assert len(rows(saved({**net.state_dict(), "plain.weight": full["0.weight"]}, tmp_path / "w.pt"))) == 2


def test_a_flat_parameter_of_fsdp_is_sharded_too(tmp_path):
    with pytest.raises(CheckpointError, match="sharded over processes; save a full one"):
        read_checkpoints([saved({"_fsdp_wrapped_module._flat_param": torch.randn(100)}, tmp_path / "w.pt")])


def test_the_same_storage_is_a_shared_weight_wherever_it_is_mapped(tmp_path):
    weight = torch.randn(4, 3, 3)
    found = rows(saved({"a.weight": weight, "b.weight": weight, "c.weight": weight.clone()}, tmp_path / "w.pt"))
    assert [layer.note for layer in found.values()] == [
        "groups not known",
        "shares its weight with a",
        "groups not known",
    ]


# ---- files -----------------------------------------------------------------------------------------------------------


def test_an_archive_that_was_packed_anew_is_read(tmp_path):
    weight = torch.randn(4, 3, 3)
    with (
        zipfile.ZipFile(saved({"a.weight": weight}, tmp_path / "w.pt")) as old,
        zipfile.ZipFile(tmp_path / "new.pt", "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            new.writestr(name, old.read(name))
    assert torch.equal(rows(tmp_path / "new.pt")["a"].banks[0], weight)


@pytest.mark.parametrize("checksums", [True, False])
def test_a_changed_name_is_damage_where_there_are_checksums(checksums, tmp_path):
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(checksums)
    try:
        path = saved({"conv.weight": torch.randn(4, 3, 3)}, tmp_path / "w.pt")
    finally:
        torch.serialization.set_crc32_options(before)
    assert list(rows(path)) == ["conv"]
    path.write_bytes(path.read_bytes().replace(b"conv.weight", b"cons.weight"))
    if checksums:
        with pytest.raises(CheckpointError, match="truncated or damaged"):
            read_checkpoints([path])
    else:
        assert list(rows(path)) == ["cons"]


def test_a_big_endian_file_is_refused_by_name(tmp_path):
    content = saved({"a.weight": torch.randn(4, 3, 3)}, tmp_path / "w.pt")
    with zipfile.ZipFile(content) as old, zipfile.ZipFile(tmp_path / "big.pt", "w") as new:
        for name in old.namelist():
            new.writestr(name, b"big" if name.endswith("byteorder") else old.read(name))
    with pytest.raises(CheckpointError, match="big-endian"):
        read_checkpoints([tmp_path / "big.pt"])


def test_a_part_of_a_distributed_checkpoint_is_named(tmp_path):
    first, second = (saved(torch.randn(4, 3, 3), tmp_path / f"{n}.pt").read_bytes() for n in range(2))
    (tmp_path / "__0_0.distcp").write_bytes(first + second)
    with pytest.raises(CheckpointError, match="pass its folder"):
        read_checkpoints([tmp_path / "__0_0.distcp"])


def test_views_that_old_files_keep_beside_their_storage(tmp_path):
    """Before 0.4 a storage could be a part of another: its key, first element and size are in the persistent id."""
    values = torch.arange(40.0)
    storage = ("storage", torch.FloatStorage, "0", "cpu", 40, ("1", 4, 36))

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj):
            return storage if obj is storage else None

    class View:
        def __reduce__(self):
            return torch._utils._rebuild_tensor, (storage, 2, (3, 2, 3), (6, 3, 1))

    path = tmp_path / "old.pt"
    with path.open("wb") as file:
        for each in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
            pickle.dump(each, file, protocol=2)
        Pickler(file, protocol=2).dump({"a.weight": View()})
        pickle.dump(["0"], file, protocol=2)
        file.write(struct.pack("<q", 40) + values.numpy().tobytes())
    assert torch.equal(rows(path)["a"].banks[0], values[6:24].view(3, 2, 3))


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the memory from /proc")
@pytest.mark.parametrize("kind", ["legacy", "safetensors"])
def test_what_is_not_measured_is_not_read(kind, tmp_path):
    """An embedding of 80 MB, which lie in no block of the disk."""
    path, large = tmp_path / "w", 20_000_000
    if kind == "legacy":
        saved({"c.weight": torch.randn(4, 3, 3), "embedding.weight": torch.empty(1)}, path, False)
        head = path.read_bytes()[:-12] + struct.pack("<q", large)
    else:
        meta = {
            "c.weight": {"dtype": "F32", "shape": [4, 3, 3], "data_offsets": [0, 144]},
            "embedding.weight": {"dtype": "F32", "shape": [large // 4, 4], "data_offsets": [144, 144 + 4 * large]},
        }
        header = json.dumps(meta).encode()
        head = struct.pack("<q", len(header)) + header + bytes(144)
    path.write_bytes(head)
    os.truncate(path, len(head) + 4 * large)
    before = resident()
    assert set(rows(path)) == {"c", "embedding"}
    assert resident() - before < 30_000_000


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@given(data=st.data())
@settings(max_examples=60)
@pytest.mark.parametrize("kind", ["module", "script", "arrays"])
def test_damage_anywhere_gives_layers_or_a_clear_error(kind, data, damaged_files, tmp_path):
    content = bytearray(damaged_files[kind])
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(1, len(content)))]
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "w"
    path.write_bytes(content)
    message = ""
    try:
        assert read_checkpoints([path])[0].layers
    except CheckpointError as error:
        message = str(error)
    assert message == "" or message.startswith(f"{path}: ")
    assert "\n" not in message


@pytest.fixture(scope="module")
def damaged_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("damaged")
    net = nn.Conv1d(2, 3, 3)
    torch.save(net, folder / "module")
    torch.jit.trace(net, torch.randn(1, 2, 4)).save(folder / "script")
    (folder / "arrays").write_bytes(pickle.dumps({"a": net.weight.detach().numpy(), "b": net.weight.detach()}, 5))
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_is_expanded_beyond_memory_is_a_row_with_the_reason(tmp_path):
    state = {"a.weight": torch.zeros(1, 1, 1, 1).expand(1 << 28, 1 << 28, 3, 3), "b.weight": torch.randn(4, 3, 3, 3)}
    torch.save(state, tmp_path / "w.pt")
    expanded, other = read_checkpoints([tmp_path / "w.pt"])[0].layers
    assert not expanded.banks
    assert expanded.note == "expanded from 1 numbers to more than fit in memory"
    assert other.shape == (4, 3, 3, 3)
