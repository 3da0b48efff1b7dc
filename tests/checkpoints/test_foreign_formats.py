"""What is no checkpoint that can be read, by name."""

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile

import pytest
import torch

from ckrm_kernels.checkpoints.foreign import HEAD, foreign_format

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


def zipped(*names: str) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name in names:
            archive.writestr(name, "x")
    return content.getvalue()


def tarred() -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("model/a.pt"))
    return content.getvalue()


def words_of(tmp_path, content: bytes, name: str = "model.pt") -> str | None:
    path = tmp_path / name
    path.write_bytes(content)
    return foreign_format(content[:HEAD], path)


@pytest.mark.parametrize(
    ("content", "name", "words"),
    [
        (LFS, "model.safetensors", "is a Git LFS pointer, not the file itself: run git lfs pull"),
        (b"<!DOCTYPE html>\n<html>", "model.pt", "is a web page, not a checkpoint"),
        (b"\n  <html lang='en'>", "model.pt", "is a web page, not a checkpoint"),
        (b"\xef\xbb\xbf<!doctype html>", "model.pt", "is a web page, not a checkpoint"),
        (b"\x89HDF\r\n\x1a\n" + bytes(99), "model.h5", "is an HDF5 file, as Keras writes"),
        (zipped("metadata.json", "config.json", "model.weights.h5"), "model.keras", "is a Keras model"),
        (b"\x1c\0\0\0TFL3" + bytes(99), "model.tflite", "is a TensorFlow Lite model"),
        (b"GGUF\3\0\0\0", "model.gguf", "is a GGUF model"),
        (b"lmgg\1\0\0\0", "ggml-base.bin", "is a GGML model"),
        (b"\x20\0\0\0ORTM", "model.ort", "is an ONNX Runtime model"),
        (b"\x08\x03\x12\x05", "saved_model.pb", "is a TensorFlow model"),
        (b"\0\0\x06\x0c", "model.ckpt.index", "is a TensorFlow model"),
        (b"\0\x01\x02\x03", "variables.data-00000-of-00001", "is a TensorFlow model"),
        (zipped("config.json", "model.safetensors"), "m.zip", "is a zip archive (config.json, model.safetensors)"),
        (b"\x08\x04\x12\x05", "model.mlmodel", "is a Core ML model"),
        (zipped("a.mlpackage/Manifest.json"), "model.zip", "is a Core ML model"),
        (b"<?xml version='1.0'?><net name='m' version='11'>", "model.xml", "is an OpenVINO model"),
        (zipped("MAR-INF/MANIFEST.json", "model.pt"), "model.mar", "is a TorchServe archive"),
        (zipped("m/saved_model.pb"), "m.zip", "is a TensorFlow model"),
        (zipped("a/model.pt", "a/README"), "m.zip", "is a zip archive (a/model.pt, a/README): unpack it"),
        (zipped(), "m.zip", "is a zip archive (empty)"),
        (tarred(), "m.tar", "is a tar archive: unpack it"),
        (gzip.compress(b"x", mtime=0), "m.pt.gz", "is compressed with gzip: unpack it first, or pass <(zcat "),
        (lzma.compress(b"x"), "m.pt.xz", "is compressed with xz"),
        (bz2.compress(b"x"), "m.pt.bz2", "is compressed with bzip2"),
        (b"\x28\xb5\x2f\xfd\0\0", "m.pt.zst", "is compressed with zstd: unpack it first, or pass <(zstdcat "),
        (b"# My model\n\nIt is good.\n", "README.md", "is a text, not a checkpoint"),
        ("Größe".encode() * 100, "notes", "is a text, not a checkpoint"),
        (b'{"architectures": ["ResNet"]}', "config.json", "is a JSON file, not a checkpoint"),
        (b"\x81\xa6params", "flax_model.msgpack", "is a Flax checkpoint"),
        (b"\x7fELF\2\1", "model.so", "is a program or a library"),
        (b"%PDF-1.7", "paper.pdf", "is a PDF document"),
    ],
    ids=lambda value: "" if isinstance(value, bytes) else None,  # a zip holds the time: no process's ids would agree
)  # fmt: skip
def test_what_a_file_is(tmp_path, content, name, words):
    found = words_of(tmp_path, content, name)
    assert found is not None
    assert found.startswith(words)


@pytest.mark.parametrize("content", [b"", b"\0" * 600, b"\x93\x12\x01\x02", bytes(range(256)), b"   \n"])
def test_what_is_not_known(tmp_path, content):
    assert words_of(tmp_path, content) is None


def test_the_way_to_read_a_compressed_file_names_it(tmp_path):
    assert f"<(zcat {tmp_path / 'a b.gz'})" in words_of(tmp_path, gzip.compress(b"x"), "a b.gz")


def test_a_damaged_zip_is_left_to_who_reads_it(tmp_path):
    assert words_of(tmp_path, zipped("a", "b")[:-30]) is None


def test_a_text_whose_last_letter_is_cut(tmp_path):
    content = b"x" * (HEAD - 1) + "ö".encode()
    assert words_of(tmp_path, content) == "is a text, not a checkpoint"


def test_a_checkpoint_is_only_asked_of_when_no_reader_knows_it(tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "a.pt")
    assert words_of(tmp_path, (tmp_path / "a.pt").read_bytes()).startswith("is a zip archive")
