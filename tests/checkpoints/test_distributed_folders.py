"""Folders that torch.distributed.checkpoint writes, and that its failures leave."""

import io
import os
import pickle
from contextlib import suppress
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)

from ckrm_kernels.checkpoints import CheckpointError, read_checkpoints
from ckrm_kernels.checkpoints.files import checkpoint_files

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")

WEIGHT = torch.arange(10 * 4 * 3 * 3, dtype=torch.float32).view(10, 4, 3, 3).sin()


def saved(state, folder: Path) -> Path:
    dcp.save(state, checkpoint_id=folder, no_dist=True)
    return folder


def weights_of(folder: Path, **options) -> dict[str, torch.Tensor]:
    (checkpoint,) = read_checkpoints([folder], **options)
    return {layer.name: layer.banks[0] for layer in checkpoint.layers if layer.banks}


def in_chunks(folder: Path, weight: torch.Tensor, parts: list[tuple[tuple[int, ...], tuple[int, ...]]]) -> Path:
    """A folder with a tensor in parts, each at its offset and of its size, every second one in the file of rank 1."""
    folder.mkdir(exist_ok=True)
    files, places = {"__0_0.distcp": io.BytesIO(), "__1_0.distcp": io.BytesIO()}, {}
    for number, (offset, size) in enumerate(parts):
        name = list(files)[number % 2]
        start = files[name].seek(0, io.SEEK_END)
        content = io.BytesIO()
        torch.save(weight[tuple(slice(at, at + n) for at, n in zip(offset, size, strict=True))].clone(), content)
        files[name].write(content.getvalue())
        places[MetadataIndex("conv.weight", offset, number)] = _StorageInfo(name, start, len(content.getvalue()))
    chunks = [ChunkStorageMetadata(torch.Size(offset), torch.Size(size)) for offset, size in parts]
    record = TensorStorageMetadata(TensorProperties(dtype=weight.dtype), weight.shape, chunks)
    write_metadata(folder, {"conv.weight": record}, places)
    for name, content in files.items():
        (folder / name).write_bytes(content.getvalue())
    return folder


def write_metadata(folder: Path, tensors, places) -> None:
    (folder / ".metadata").write_bytes(pickle.dumps(Metadata(tensors, None, places)))


def refused(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        _ = [checkpoint.layers for checkpoint in read_checkpoints([path])]
    assert str(path if path.is_dir() else path.parent) in str(caught.value)
    return str(caught.value)


def test_the_model_of_a_training_state_is_read(tmp_path):
    net = nn.Sequential(nn.Conv2d(4, 10, 3), nn.BatchNorm2d(10), nn.Conv2d(10, 6, 3))
    optimizer = torch.optim.Adam(net.parameters())
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    state = {"model": net.state_dict(), "optimizer": optimizer.state_dict(), "step": 3, "rng": torch.get_rng_state()}
    folder = saved(state, tmp_path / "step-3")
    for path in (folder, folder / ".metadata"):
        found = weights_of(path)
        assert list(found) == ["0", "2"]
        assert torch.equal(found["0"], net[0].weight)
        assert torch.equal(found["2"], net[2].weight)
    (checkpoint,) = read_checkpoints([folder])
    assert [Path(source.name).name for source in checkpoint.sources] == [".metadata", "__0_0.distcp"]


def test_weights_are_chosen_as_in_other_checkpoints(tmp_path):
    folder = saved({"model": {"c.weight": WEIGHT}, "model_ema": {"c.weight": WEIGHT + 1}}, tmp_path / "a")
    assert torch.equal(weights_of(folder)["c"], WEIGHT)
    assert torch.equal(weights_of(folder, weights="ema")["c"], WEIGHT + 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_tensor_in_parts_is_put_together(tmp_path, dtype):
    weight = WEIGHT.to(dtype)
    halves = [((0, 0, 0, 0), (7, 4, 3, 3)), ((7, 0, 0, 0), (3, 4, 3, 3))]
    quarters = [((row, column, 0, 0), (5, 2, 3, 3)) for row in (0, 5) for column in (0, 2)]
    with_empty = [((0, 0, 0, 0), (10, 4, 3, 3)), ((10, 0, 0, 0), (0, 4, 3, 3))]
    for parts in (halves, quarters, with_empty):
        (found,) = weights_of(in_chunks(tmp_path / "dcp", weight, parts)).values()
        assert found.dtype == dtype
        assert torch.equal(found, weight)


def test_a_folder_beside_that_of_the_optimiser_is_found(tmp_path):
    saved({"model": {"c.weight": WEIGHT}}, tmp_path / "pytorch_model_fsdp_0")
    saved({"optimizer": {"c.weight": WEIGHT}}, tmp_path / "optimizer_0")
    (files,) = checkpoint_files([tmp_path])
    assert files.files[0] == tmp_path / "pytorch_model_fsdp_0" / ".metadata"


def test_what_a_saving_that_was_cut_off_leaves(tmp_path):
    folder = in_chunks(tmp_path / "dcp", WEIGHT, [((0, 0, 0, 0), (5, 4, 3, 3)), ((5, 0, 0, 0), (5, 4, 3, 3))])
    part, metadata = folder / "__1_0.distcp", folder / ".metadata"
    whole, described = part.read_bytes(), metadata.read_bytes()
    part.write_bytes(whole[:-100])
    assert f"{part}: is truncated" in (words := refused(folder))
    assert words.endswith("take an earlier one, or save it anew")
    part.unlink()
    assert "names __1_0.distcp, which is not there: copy all files of the folder" in refused(folder)
    part.write_bytes(whole)
    metadata.write_bytes(described[:-50])
    assert f"{metadata}: is truncated or damaged" in refused(folder)
    metadata.unlink()
    assert "without .metadata, which is written last" in refused(folder)


def test_parts_that_are_damaged_or_not_the_whole(tmp_path):
    half = [((0, 0, 0, 0), (5, 4, 3, 3))]
    assert "the parts of conv.weight are not the whole of its shape (10, 4, 3, 3)" in refused(
        in_chunks(tmp_path / "half", WEIGHT, half)
    )
    assert "not the whole" in refused(in_chunks(tmp_path / "twice", WEIGHT, half * 2))
    folder = in_chunks(tmp_path / "damaged", WEIGHT, [((0, 0, 0, 0), (10, 4, 3, 3))])
    part = folder / "__0_0.distcp"
    part.write_bytes(bytes(part.stat().st_size))
    assert f"{part}: is a part of a distributed checkpoint with conv.weight, truncated or damaged" in refused(folder)


def test_a_description_that_leaves_its_folder_or_claims_too_much(tmp_path):
    index, info = MetadataIndex("w.weight", (0, 0)), _StorageInfo("../secret", 0, 10)
    chunk = ChunkStorageMetadata(torch.Size((0, 0)), torch.Size((1 << 30, 1 << 30)))
    tensor = TensorStorageMetadata(TensorProperties(), torch.Size((1 << 30, 1 << 30)), [chunk])
    write_metadata(tmp_path, {"w.weight": tensor}, {index: info})
    assert "names '../secret', which is not in its folder" in refused(tmp_path)
    (tmp_path / "__0_0.distcp").write_bytes(b"x" * 10)
    write_metadata(tmp_path, {"w.weight": tensor}, {index: _StorageInfo("__0_0.distcp", 0, 10)})
    assert "not the whole of its shape" in refused(tmp_path)
    write_metadata(tmp_path, {"w.weight": tensor}, {index: _StorageInfo("__0_0.distcp", 0, 10, ["stream.zstd"])})
    assert "were written through stream.zstd" in refused(tmp_path)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    at=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255), name=st.sampled_from([".metadata", "__0_0.distcp"])
)
@example(0.01171875, 1, ".metadata")  # a frame of 2^56 bytes
def test_damage_anywhere_gives_layers_or_a_clear_error(tmp_path, at, byte, name):
    folder = in_chunks(tmp_path / "dcp", WEIGHT, [((0, 0, 0, 0), (5, 4, 3, 3)), ((5, 0, 0, 0), (5, 4, 3, 3))])
    content = bytearray((folder / name).read_bytes())
    content[int(at * len(content))] = byte
    (folder / name).write_bytes(content)
    with suppress(CheckpointError):
        assert [bank.shape for bank in weights_of(folder).values()] in ([], [WEIGHT.shape])


def test_nothing_in_a_description_runs(tmp_path):
    class Harmful:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/ran",)

    (tmp_path / ".metadata").write_bytes(pickle.dumps(Metadata({}, Harmful(), {})))
    assert "could run code from the file" in refused(tmp_path)
    assert not (tmp_path / "ran").exists()
