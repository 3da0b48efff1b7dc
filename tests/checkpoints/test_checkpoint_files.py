"""Which files form a checkpoint, pipes, and digests."""

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from ckrm_kernels.checkpoints.files import CheckpointFiles, checkpoint_files, readable, source_of
from ckrm_kernels.checkpoints.raw import mapped
from ckrm_kernels.checkpoints.stored import CheckpointError
from ckrm_kernels.report.result import Source


@pytest.fixture
def folder(tmp_path):
    def make(*names: str) -> Path:
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(b"x")
        return tmp_path

    return make


def index(path: Path, files: list[str]) -> Path:
    path.write_text(json.dumps({"metadata": {}, "weight_map": {f"layer{n}.weight": f for n, f in enumerate(files)}}))
    return path


def names(found):
    return [[path.name for path in each.files] for each in found]


def refused(*paths) -> str:
    with pytest.raises(CheckpointError) as caught:
        checkpoint_files(list(paths))
    assert str(caught.value).startswith(str(paths[0])) or len(paths) > 1
    return str(caught.value)


UNET = "diffusion_pytorch_model.safetensors"
SHARDS = [f"model-{n:05}-of-00003.safetensors" for n in (1, 2, 3)]


def test_a_file_is_one_checkpoint(folder):
    path = folder("a.pt", "b.bin")
    assert checkpoint_files([path / "b.bin", path / "a.pt"]) == [
        CheckpointFiles((path / "b.bin",)),
        CheckpointFiles((path / "a.pt",)),
    ]
    assert checkpoint_files([]) == []


def test_what_is_not_there_or_can_not_be_looked_at(tmp_path, folder):
    assert refused(tmp_path / "no.pt") == f"{tmp_path / 'no.pt'}: no such file"
    folder("a.pt")
    assert refused(tmp_path / "a.pt" / "b.pt").endswith("can't be read: Not a directory")
    assert refused(tmp_path / ("x" * 300)).endswith("can't be read: File name too long")
    assert "can't be read" in refused(Path(f"{tmp_path}/a\0b"))
    (tmp_path / "gone.pt").symlink_to(tmp_path / "nowhere.pt")
    assert refused(tmp_path / "gone.pt").endswith("no such file")


@pytest.mark.parametrize(
    "name",
    ["model.safetensors.index.json", "pytorch_model.bin.index.json", "model.safetensors.index.fp16.json"],
)
def test_an_index_gives_its_shards(folder, name):
    path = folder(*SHARDS, "other.safetensors")
    # a weight map holds a file for each weight, in any order
    index(path / name, [SHARDS[1], SHARDS[0], SHARDS[1], SHARDS[2]])
    assert names(checkpoint_files([path / name])) == [SHARDS]
    assert names(checkpoint_files([path])) == [SHARDS]


def test_an_index_may_lie_beside_links_that_leave_the_folder(folder):
    """As in the cache of Hugging Face, whose snapshots link to blobs."""
    path = folder("blobs/0a", "blobs/0b", "snapshots/x")
    files = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    for file, blob in zip(files, ("0a", "0b"), strict=True):
        (path / "snapshots" / file).symlink_to(f"../blobs/{blob}")
    (path / "snapshots" / "x").unlink()
    index(path / "snapshots" / "model.safetensors.index.json", files)
    assert names(checkpoint_files([path / "snapshots"])) == [files]


@pytest.mark.parametrize("outside", ["../a.pt", "/etc/passwd", "sub/../../a.pt", "..", "", "a\\b.pt", "a\0b"])
def test_an_index_that_leaves_its_folder_is_refused(folder, outside):
    path = index(folder("a.pt") / "model.safetensors.index.json", ["a.pt", outside])
    assert refused(path) == f"{path}: lists {outside!r}, which is not in its folder"


def test_an_index_whose_files_lack_names_them(folder):
    path = index(folder(SHARDS[1]) / "model.safetensors.index.json", SHARDS)
    assert refused(path) == f"{path}: lists files that are not there: {SHARDS[0]}, {SHARDS[2]}"
    path = index(path, [f"{n}.safetensors" for n in range(1000)])
    assert refused(path).endswith(" and 992 more")


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {}}', '{"weight_map": {"a": 3}}', "[" * 99_999],
)
def test_an_index_that_is_none(tmp_path, content):
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(content)
    assert "is not valid JSON" in (words := refused(path)) or 'must hold "weight_map"' in words


def test_shards_given_together_are_one_checkpoint(folder):
    path = folder(*SHARDS, "pytorch_model-00001-of-00001.bin", "a.pt", "other/" + SHARDS[0])
    given = [path / name for name in (SHARDS[2], "a.pt", SHARDS[0], "pytorch_model-00001-of-00001.bin", SHARDS[1])]
    assert names(checkpoint_files(given)) == [SHARDS, ["a.pt"], ["pytorch_model-00001-of-00001.bin"]]


def test_an_incomplete_set_names_what_lacks(folder):
    path = folder(*SHARDS)
    words = refused(path / SHARDS[1])
    assert words == f"{path / SHARDS[1]}: is one of 3 shards, pass the others too: {SHARDS[0]}, {SHARDS[2]}"
    assert refused(path / SHARDS[2], path / SHARDS[0]).endswith(f"pass the others too: {SHARDS[1]}")


def test_shards_of_different_sets_are_not_mixed(folder):
    one, other = "a-00001-of-00002.bin", "a-00002-of-00002.safetensors"
    path = folder(one, other)
    assert "pass the others too: a-00002-of-00002.bin" in refused(path / one, path / other)


def test_numbers_of_shards_may_begin_at_0(folder):
    shards = ["m-00000-of-00002.bin", "m-00001-of-00002.bin"]
    assert names(checkpoint_files([folder(*shards)])) == [shards]
    folder("m-00002-of-00002.bin")
    assert "none of them is m-00002-of-00002.bin" in refused(folder())


def test_folds_are_no_shards(folder):
    path = folder("fold-1-of-5.pt", "fold-2-of-5.pt")
    assert len(checkpoint_files(sorted(path.iterdir()))) == 2


@pytest.mark.parametrize(
    ("held", "read"),
    [
        (["model.safetensors", "config.json", "README.md"], ["model.safetensors"]),
        (["net.pth", "train.log"], ["net.pth"]),
        (["model.safetensors", "pytorch_model.bin", "tf_model.h5"], ["model.safetensors"]),
        (["model.safetensors", "optimizer.pt", "rng_state.pth", "training_args.bin"], ["model.safetensors"]),
        (["best.pt", "optimizer.pt", "rng_state_0.pth"], ["best.pt"]),
        (["config.json", UNET], [UNET]),
        ([UNET, "diffusion_pytorch_model.fp16.safetensors"], [UNET]),
        (["weights.safetensors", "run.json", "unfinished.pt"], ["weights.safetensors"]),
        (SHARDS, SHARDS),
        (["config.json", *reversed(SHARDS)], SHARDS),
        (["model.onnx", "model.onnx_data"], ["model.onnx"]),
    ],
)  # fmt: skip
def test_what_is_read_of_a_folder(folder, held, read):
    assert names(checkpoint_files([folder(*held)])) == [read]


def test_the_index_of_safetensors_goes_before_that_of_pickles(folder):
    path = folder(*SHARDS, "pytorch_model-00001-of-00001.bin")
    index(path / "model.safetensors.index.json", SHARDS)
    index(path / "pytorch_model.bin.index.json", ["pytorch_model-00001-of-00001.bin"])
    assert names(checkpoint_files([path])) == [SHARDS]


def test_a_folder_of_runs_gives_a_checkpoint_of_each_seed(folder):
    path = folder(*(f"seed-{n}/weights.safetensors" for n in (0, 2, 10)), "config.json", "seed-0/run.json")
    found = checkpoint_files([path])
    assert [str(each.files[0].relative_to(path)) for each in found] == [
        f"seed-{n}/weights.safetensors" for n in (0, 2, 10)
    ]
    folder("seed-11/unfinished.pt")
    assert refused(path) == f"{path}: is not trained to its end: no weights.safetensors in seed-11"


@pytest.mark.parametrize(
    ("held", "words"),
    [
        ([], "is a folder without a checkpoint, it holds nothing"),
        (["README.md", "unet/model.pt", "vae/model.pt"], "it holds README.md, unet, vae"),
        (["a.pt", "b.pt"], "holds several checkpoints, pass one of them: a.pt, b.pt"),
        (SHARDS[:2], f"is one of 3 shards, pass the others too: {SHARDS[2]}"),
        ([*SHARDS, "other.pt"], "holds several checkpoints"),
        (["saved_model.pb", "variables/variables.index"], "is a TensorFlow SavedModel"),
        (["checkpoint", "model.ckpt.index", "model.ckpt.data-00000-of-00001"], "is a TensorFlow model"),
        (["__0_0.distcp", "__1_0.distcp"], "is a distributed checkpoint without .metadata, which is written last"),
        (["Manifest.json", "Data/com.apple.CoreML/model.mlmodel"], "is a Core ML model"),
    ],
)
def test_what_is_not_read_of_a_folder(folder, held, words):
    path = folder(*held)
    with pytest.raises(CheckpointError, match=re.escape(words)) as caught:
        checkpoint_files([path])
    assert str(caught.value).startswith(str(path))


def test_two_indexes_of_no_known_name(folder):
    path = folder("a.model")
    for name in ("a.bin.index.json", "b.bin.index.json"):
        index(path / name, ["a.model"])
    assert "holds several checkpoints, pass one of them: a.bin.index.json, b.bin.index.json" in refused(path)


def test_a_file_is_readable_at_its_path(folder):
    path = folder("a.pt") / "a.pt"
    with readable(path) as there:
        assert there == path
    assert path.read_bytes() == b"x"


def test_a_pipe_is_readable_in_a_copy_that_is_gone_afterwards(tmp_path):
    pipe, content = tmp_path / "pipe", bytes(range(256)) * 1000
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(content), daemon=True)
    writer.start()
    assert checkpoint_files([pipe]) == [CheckpointFiles((pipe,))]  # without reading from it
    with readable(pipe) as copy:
        assert copy.read_bytes() == content
        assert source_of(pipe, content=copy) == Source(str(pipe), len(content), hashlib.sha256(content).hexdigest())
        tensor = torch.from_numpy(mapped(copy, 0, len(content)))
    writer.join(5)
    assert not copy.exists()
    assert not copy.parent.exists()
    assert bytes(tensor.numpy()) == content  # mapped, and so still there


def test_standard_input_is_readable(tmp_path):
    code = (
        "from pathlib import Path; from ckrm_kernels.checkpoints.files import *\n"
        "with readable(Path('/dev/stdin')) as there: print(there.read_bytes())"
    )
    run = [sys.executable, "-c", code]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    piped = subprocess.run(run, input=b"content", capture_output=True, env=environment, check=True)
    assert piped.stdout == b"b'content'\n"


def test_what_is_not_readable(tmp_path, monkeypatch):
    for path, words in ((Path("/dev/zero"), "is a device or a socket, not a file"), (tmp_path / "no", "no such file")):
        with pytest.raises(CheckpointError) as caught, readable(path):
            pass
        assert str(caught.value) == f"{path}: {words}"
    secret = tmp_path / "secret.pt"
    secret.write_bytes(b"x")
    monkeypatch.setattr(Path, "open", lambda *_, **__: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
    for read in (lambda: readable(secret).__enter__(), lambda: source_of(secret)):
        with pytest.raises(CheckpointError) as caught:
            read()
        assert str(caught.value) == f"{secret}: can't be read: Permission denied"


def test_a_pipe_for_which_there_is_no_room(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.setattr("tempfile.mkdtemp", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with (
        pytest.raises(CheckpointError, match="pipe: can't be copied to read it: No space left on device"),
        readable(tmp_path / "pipe"),
    ):
        pass


def test_an_error_inside_of_readable_passes(folder):
    with pytest.raises(OSError, match="mine"), readable(folder("a.pt") / "a.pt"):
        raise OSError("mine")


def test_the_source_of_a_file(tmp_path):
    path, content = tmp_path / "a.pt", bytes(3 << 20) + b"end"
    path.write_bytes(content)
    assert source_of(path, "ema") == Source(str(path), len(content), hashlib.sha256(content).hexdigest(), "ema")


@pytest.mark.exhaustive
def test_the_source_of_a_large_file_takes_about_a_second(tmp_path):
    path = tmp_path / "large.pt"
    with path.open("wb") as file:
        file.truncate(400 << 20)
    start = time.perf_counter()
    source_of(path)
    assert time.perf_counter() - start < 5
