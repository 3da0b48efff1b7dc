"""Files that are no checkpoint this package reads, by name: what they are, and what to pass instead."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

HEAD = 512
"""Bytes of a file that `foreign_format` wants to see."""

_KERAS_CURE = "save its weights with numpy.savez, each under its name, or export the model to ONNX"
_KERAS = f"is a Keras model: {_KERAS_CURE}"
_SAVED_MODEL = "is a TensorFlow model: convert it to ONNX, as with tf2onnx"
_CORE_ML = "is a Core ML model: pass the checkpoint or the ONNX model that it was converted from"
_OPENVINO = "is an OpenVINO model: pass the checkpoint or the ONNX model that it was converted from"
_COMPRESSED = "is compressed with {0}: unpack it first, or pass <({1} {2})"

_BY_HEAD: tuple[tuple[bytes, int, str], ...] = (  # the bytes, where they stand, the words
    (b"version https://git-lfs", 0, "is a Git LFS pointer, not the file itself: run git lfs pull"),
    (b"\x89HDF\r\n\x1a\n", 0, f"is an HDF5 file, as Keras writes: {_KERAS_CURE}"),
    (b"TFL3", 4, "is a TensorFlow Lite model: pass the model that it was converted from"),
    (b"GGUF", 0, "is a GGUF model, quantised for llama.cpp: pass the checkpoint that it was converted from"),
    *(
        (magic, 0, "is a GGML model, quantised for llama.cpp: pass the checkpoint that it was converted from")
        for magic in (b"lmgg", b"tjgg", b"fmgg", b"algg")
    ),
    (b"ORTM", 4, "is an ONNX Runtime model: pass the .onnx that it was made from"),
    (b"ET12", 4, "is an ExecuTorch program: pass the checkpoint or the .pt2 that it was made from"),
    (b"ustar", 257, "is a tar archive: unpack it, and pass the checkpoint in it"),
    (b"\x1f\x8b", 0, _COMPRESSED.format("gzip", "zcat", "{name}")),
    (b"\xfd7zXZ\0", 0, _COMPRESSED.format("xz", "xzcat", "{name}")),
    (b"\x28\xb5\x2f\xfd", 0, _COMPRESSED.format("zstd", "zstdcat", "{name}")),
    (b"BZh", 0, _COMPRESSED.format("bzip2", "bzcat", "{name}")),
    (b"\x04\x22\x4d\x18", 0, _COMPRESSED.format("lz4", "lz4cat", "{name}")),
    (b"7z\xbc\xaf\x27\x1c", 0, "is a 7-Zip archive: unpack it, and pass the checkpoint in it"),
    (b"Rar!", 0, "is a RAR archive: unpack it, and pass the checkpoint in it"),
    (b"\x7fELF", 0, "is a program or a library, not a checkpoint"),
    (b"%PDF", 0, "is a PDF document, not a checkpoint"),
    (b"\x89PNG", 0, "is a picture, not a checkpoint"),
    (b"\xff\xd8\xff", 0, "is a picture, not a checkpoint"),
    (b"T7\0\0", 0, "is a model of Lua Torch: load it with torchfile, and save a state dict"),
)
_BY_SUFFIX = {  # where the content does not tell
    ".pb": _SAVED_MODEL,
    ".pbtxt": _SAVED_MODEL,
    ".mlmodel": _CORE_ML,
    ".mlpackage": _CORE_ML,
    ".mar": "is a TorchServe archive: unpack it, and pass the checkpoint in it",
    ".msgpack": "is a Flax checkpoint: save its parameters with numpy.savez, each under its path",
    ".caffemodel": "is a Caffe model: convert it to ONNX",
    ".params": "is an MXNet model: convert it to ONNX",
    ".pdparams": "is a PaddlePaddle model: convert it to ONNX, as with paddle2onnx",
    ".weights": "is a Darknet model: convert it to a PyTorch state dict or to ONNX",
    ".engine": "is a TensorRT engine: pass the ONNX model that it was built from",
    ".plan": "is a TensorRT engine: pass the ONNX model that it was built from",
    ".gguf": "is a GGUF model, quantised for llama.cpp: pass the checkpoint that it was converted from",
}
_BY_MEMBER: tuple[tuple[str, str], ...] = (  # what the name of a zip's member matches
    (r"(.*/)?model\.weights\.h5", _KERAS),
    (r"(.*/)?MAR-INF/MANIFEST\.json", _BY_SUFFIX[".mar"]),
    (r".*\.mlpackage/.*|(.*/)?com\.apple\.CoreML/.*", _CORE_ML),
    (r"(.*/)?saved_model\.pb", _SAVED_MODEL),
)
_IN_FOLDER: tuple[tuple[str, str], ...] = (  # what tells a folder
    ("saved_model.pb", _SAVED_MODEL.replace("TensorFlow model", "TensorFlow SavedModel")),
    ("*.ckpt.index", _SAVED_MODEL),
    ("Manifest.json", _CORE_ML),
    (
        "zero_pp_rank_*",
        "holds shards of DeepSpeed ZeRO: make a file of them by the zero_to_fp32.py that lies beside them",
    ),
    (
        "_CHECKPOINT_METADATA",
        "is a Flax checkpoint of Orbax: save its parameters with numpy.savez, each under its path",
    ),
)


def foreign_format(head: bytes, path: Path) -> str | None:
    """What a file is that no reader here takes, in words that go on after its path; None where it isn't known.

    head: its first `HEAD` bytes
    path: where it lies; its name decides only where the content can't
    To be asked once no reader knows the content: a torch.save file is a zip, too.
    """
    for magic, at, words in _BY_HEAD:
        if head[at : at + len(magic)] == magic:
            return words.format(name=path)
    if head.startswith(b"PK"):
        return _zip(path)
    if text := _text(head, path):
        return text
    if re.fullmatch(r".+\.(index|data-\d{5}-of-\d{5})", path.name):
        return _SAVED_MODEL
    return _BY_SUFFIX.get(path.suffix.lower())


def foreign_folder(folder: Path) -> str | None:
    """What a folder is that no reader here takes, in words that go on after its path; None where it isn't known."""
    return next((words for pattern, words in _IN_FOLDER if any(folder.glob(pattern))), None)


def _zip(path: Path) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile):
        return None
    for pattern, words in _BY_MEMBER:
        if any(re.fullmatch(pattern, name) for name in names):
            return words
    shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return f"is a zip archive ({shown or 'empty'}): unpack it, and pass the checkpoint in it"


def _text(head: bytes, path: Path) -> str | None:
    """What a text is; None for what is not UTF-8, or holds control characters."""
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if re.match(rb"<(!doctype html|html|head|!--)", start):
        return "is a web page, not a checkpoint: download the file itself"
    if start.startswith(b"<?xml"):
        return _OPENVINO if path.suffix == ".xml" else "is an XML file, not a checkpoint"
    try:
        text = head.decode()
    except UnicodeDecodeError as error:
        if error.end < len(head):  # not a character that the head's end cuts
            return None
        text = head[: error.start].decode()
    if not text.strip() or any(ord(letter) < 32 and letter not in "\t\n\r\f" for letter in text):
        return None
    if text.lstrip().startswith("{"):
        return "is a JSON file, not a checkpoint"
    return "is a text, not a checkpoint"
