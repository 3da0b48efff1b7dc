"""Nothing of a pickle runs, and records of any kind beside the weights are no obstacle."""

from __future__ import annotations

import argparse
import collections
import copyreg
import dataclasses
import datetime
import decimal
import enum
import functools
import importlib
import io
import logging
import operator
import os
import pickle
import random
import re
import runpy
import subprocess
import sys
import types
import uuid
import warnings
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from ckrm_kernels.checkpoints import CheckpointError, read_checkpoints
from ckrm_kernels.checkpoints.pickles import Global, StandIn, Unpickler

WEIGHT = torch.randn(4, 3, 3, 3)


def names(path: Path) -> list[str]:
    return [layer.name for layer in read_checkpoints([path])[0].layers]


def protocols(*usual: int) -> list[Any]:
    """All of pickle's, the others than the usual ones left to the exhaustive tests."""
    return [pytest.param(n, marks=() if n in usual else pytest.mark.exhaustive) for n in range(6)]


class Calls:
    """Pickled as a call of a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self):
        return self.call


# ---- what runs nothing -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", protocols(0, 2, 4))
@pytest.mark.parametrize(
    ("function", "name"),
    [
        (os.system, f"{os.name}.system" if os.name == "nt" else "posix.system"),
        (subprocess.Popen, "subprocess.Popen"),
        (eval, "builtins.eval"),
        (exec, "builtins.exec"),
        (open, "_?io.open"),
        (__import__, "builtins.__import__"),
        (importlib.import_module, "importlib.import_module"),
        (runpy.run_path, "runpy.run_path"),
        (operator.attrgetter, "operator.attrgetter"),
        (setattr, "builtins.setattr"),
        (map, "builtins.map"),
        (print, "builtins.print"),
        (pickle.loads, "_?pickle.loads"),
        (os.remove, "(posix|nt).remove"),
        (warnings.simplefilter, "warnings.simplefilter"),
    ],
)
def test_what_could_run_code_is_refused_by_name(function, name, protocol, tmp_path):
    path, witness = tmp_path / "evil.pt", tmp_path / "witness"
    witness.touch()
    torch.save({"w.weight": WEIGHT, "evil": Calls(function, str(witness))}, path, pickle_protocol=max(protocol, 2))
    if protocol < 2:
        path.write_bytes(b"\x80\2" + pickle.dumps({"evil": Calls(function, str(witness))}, protocol))
    with pytest.raises(CheckpointError, match=f"holds {name}, and reading that could run code .* torch.save") as caught:
        read_checkpoints([path])
    assert str(caught.value).startswith(f"{path}: ")
    assert witness.exists()


@pytest.mark.parametrize("function", [torch.load, torch.hub.load, np.load, torch.manual_seed])
def test_functions_of_other_packages_do_not_run(function, tmp_path):
    torch.save({"w.weight": WEIGHT, "record": Calls(function, 7)}, tmp_path / "weights.pt")
    state = torch.get_rng_state()
    assert names(tmp_path / "weights.pt") == ["w"]
    assert torch.equal(torch.get_rng_state(), state)


def test_no_module_is_imported(tmp_path):
    name = "a_module_that_is_nowhere"
    content = b"\x80\2}(X\1\0\0\0wc" + name.encode() + b"\nThing\n)\x81}X\1\0\0\0aK\1sbu."
    (tmp_path / "weights.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match="no weights"):
        read_checkpoints([tmp_path / "weights.pt"])
    assert name not in sys.modules


def load(content: bytes) -> Any:
    return Unpickler(io.BytesIO(content), {}).load()


@pytest.mark.parametrize("name", ["collections.OrderedDict", "torch.Tensor", "builtins.dict", "some.Thing"])
def test_no_real_class_can_be_changed(name):
    module, _, leaf = name.rpartition(".")
    made = load(b"\x80\2c" + f"{module}\n{leaf}\n".encode() + b"}X\1\0\0\0aK\1sb.")
    assert type(made) is Global
    assert not hasattr(made, "a")
    assert not hasattr(collections.OrderedDict, "a")


def module_record(modules: bytes) -> bytes:
    """A pickled module that holds others; what is on the stack before it stays there."""
    return (
        b"ctorch.nn.modules.container\nSequential\n)\x81}(X\x0b\x00\x00\x00_parameters}X\x08\x00\x00\x00_buffers}"
        b"X\x08\x00\x00\x00_modules" + modules + b"ub"
    )


@pytest.mark.parametrize(
    ("start", "double", "end"),
    [  # each writes what it made last twice into the next, 60 times over
        (b")q\x00", b"0h\x00h\x00\x86q\x00", b"0}h\x00K\x01s."),  # the key of a dict
        (b")q\x00", b"0h\x00h\x00\x86q\x00", b"0h\x00Q."),  # a persistent id
        (b"]q\x00", b"0](h\x00h\x00eq\x00", b"0(X\x07\x00\x00\x00storageNh\x00NNtQ."),  # a storage's key
        (
            module_record(b"}") + b"q\x00",
            b"0" + module_record(b"}(X\x01\x00\x00\x00ah\x00X\x01\x00\x00\x00bh\x00u") + b"q\x00",
            b"0h\x00.",
        ),
    ],
)
def test_what_is_huge_when_written_out_comes_to_an_end(start, double, end, tmp_path):
    (tmp_path / "w.pt").write_bytes(b"\x80\x02" + start + double * 60 + end)
    with pytest.raises(CheckpointError, match=r"w\.pt: is a truncated or damaged checkpoint"):
        read_checkpoints([tmp_path / "w.pt"])


def test_a_pickle_without_the_storages_it_names_is_damaged(tmp_path):
    torch.save({"w.weight": WEIGHT}, tmp_path / "w.zip")
    with zipfile.ZipFile(tmp_path / "w.zip") as archive:
        (tmp_path / "w.pt").write_bytes(archive.read("w/data.pkl"))
    with pytest.raises(CheckpointError, match=r"w\.pt: is a truncated or damaged checkpoint"):
        read_checkpoints([tmp_path / "w.pt"])


def test_an_extension_that_the_process_registered_is_refused():
    copyreg.add_extension("os", "system", 240)
    try:
        with pytest.raises(Exception, match="extension 240"):
            load(b"\x80\2\x82\xf0X\4\0\0\0true\x85R.")
    finally:
        copyreg.remove_extension("os", "system", 240)


def test_an_attribute_of_a_record_is_a_record():
    made = load(b"\x80\2cbuiltins\ngetattr\ncsome.package\nColour\nX\3\0\0\0RED\x86R.")
    assert type(made) is StandIn
    assert made.type == "some.package.Colour.RED"


# ---- what is harmless ------------------------------------------------------------------------------------------------


class Colour(enum.Enum):
    RED = 1


class Config(dict):
    """As Lightning's AttributeDict and a hundred others."""


class Slotted:
    __slots__ = ("a", "b")

    def __init__(self) -> None:
        self.a, self.b = 1, "two"


@dataclasses.dataclass
class Options:
    path: Path = Path("data")
    inner: Any = None


class Pair(NamedTuple):
    first: int
    second: Any


def function(x: int) -> int:
    return x


HARMLESS = {
    "path": Path("runs/1"),
    "pure path": PurePosixPath("a"),
    "namespace": argparse.Namespace(data=Path("x"), lr=0.1),
    "simple namespace": types.SimpleNamespace(a=1),
    "array": np.arange(6.0).reshape(2, 3)[0],
    "objects": np.array([None, "a"], dtype=object),
    "strings": np.array(["a", "bc"]),
    "structured": np.zeros(2, dtype=[("a", "f4"), ("b", "i8")]),
    "dates": np.array(["2024-01-01"], dtype="datetime64[D]"),
    "scalars": [np.float64(0.5), np.int64(3), np.bool_(True), np.float16(1)],
    "random state": [random.getstate(), np.random.get_state(legacy=True)],  # noqa: NPY002
    "generator": np.random.default_rng(1),
    "enumeration": Colour.RED,
    "class": Colour,
    "function": function,
    "partial": functools.partial(function, 3),
    "datetime": datetime.datetime(2024, 1, 2, tzinfo=datetime.timezone.utc),
    "timedelta": datetime.timedelta(3),
    "decimal": decimal.Decimal("1.5"),
    "uuid": uuid.UUID(int=1),
    "dict subclass": Config(a=1, b=Config(c=2)),
    "slots": Slotted(),
    "dataclass": Options(inner=Options()),
    "named tuple": Pair(1, (2, 3)),
    "default dict": collections.defaultdict(list, a=[1]),
    "counter": collections.Counter("abc"),
    "deque": collections.deque([1, 2], maxlen=3),
    "sets": [{1, 2}, frozenset({3})],
    "complex": [1 + 2j, slice(1, 2), range(3), bytearray(b"abc"), b"\xff", ..., NotImplemented],
    "types": [int, dict, torch.float32, torch.Size([2]), torch.device("cpu"), torch.strided, type(None)],
    "typing": [Any, list[int]],
    "pattern": re.compile("a+", re.IGNORECASE),
    "logger": logging.getLogger("a"),
    "scheduler": torch.optim.lr_scheduler.LambdaLR(torch.optim.SGD([torch.ones(1)]), function).state_dict(),
    "optimiser": torch.optim.SGD([torch.ones(2, 2)], 0.1),
    "transform": torch.nn.functional.relu,
}


@pytest.mark.parametrize("protocol", protocols(2, 5)[2:])
@pytest.mark.parametrize("kind", HARMLESS)
def test_records_beside_the_weights_are_harmless(kind, protocol, tmp_path):
    torch.save({"state_dict": {"c.weight": WEIGHT}, "x": HARMLESS[kind]}, tmp_path / "w.pt", pickle_protocol=protocol)
    assert names(tmp_path / "w.pt") == ["c"]


@pytest.mark.parametrize("protocol", protocols(0, 2, 5))
@pytest.mark.parametrize(
    "wrap",
    [
        Config,
        lambda state: Options(inner=state),
        lambda state: Pair(1, state),
        lambda state: types.SimpleNamespace(a=1, model=state),
        lambda state: collections.deque([state]),
        lambda state: collections.defaultdict(list, state),
    ],
)
def test_weights_are_found_in_records(wrap, protocol, tmp_path):
    content = pickle.dumps(wrap({"c.weight": WEIGHT.numpy(), "d.weight": WEIGHT.numpy()}), protocol)
    (tmp_path / "w.pkl").write_bytes(content if protocol > 1 else b"\x80\2" + content)
    checkpoint = read_checkpoints([tmp_path / "w.pkl"])[0]
    assert [layer.name for layer in checkpoint.layers] == ["c", "d"]
    assert torch.equal(checkpoint.layers[0].banks[0], WEIGHT)


ARRAYS = [np.arange(24, dtype=code).reshape(4, 2, 3) for code in ("<f4", ">f4", "<f8", ">f8", "f2")] + [
    np.asfortranarray(np.arange(24.0).reshape(4, 2, 3)),
    np.arange(48.0).reshape(4, 2, 6)[:, :, ::2],
]


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("at", range(len(ARRAYS)))
def test_numpy_arrays_are_weights_too(at, protocol, tmp_path):
    torch.save({"c.weight": ARRAYS[at], "old.bias": np.ones(3)}, tmp_path / "w.pt", pickle_protocol=protocol)
    (layer,) = read_checkpoints([tmp_path / "w.pt"])[0].layers
    assert np.array_equal(layer.banks[0].numpy(), ARRAYS[at])


def test_tensors_in_a_plain_pickle(tmp_path):
    base = torch.randn(6, 3, 3)
    (tmp_path / "w.pkl").write_bytes(pickle.dumps({"c.weight": base[2:], "d.weight": base.mT}))
    first, second = read_checkpoints([tmp_path / "w.pkl"])[0].layers
    assert torch.equal(first.banks[0], base[2:])
    assert torch.equal(second.banks[0], base.mT)


# ---- the process stays as it is --------------------------------------------------------------------------------------


def test_what_a_user_registered_stays(tmp_path):
    torch.save({"state_dict": {"c.weight": WEIGHT}, "args": argparse.Namespace(a=1)}, tmp_path / "w.pt")
    before = torch.serialization.get_safe_globals()
    torch.serialization.add_safe_globals([Options])
    try:
        filters = list(warnings.filters)
        names(tmp_path / "w.pt")
        assert torch.serialization.get_safe_globals() == [*before, Options] or Options in (
            torch.serialization.get_safe_globals()
        )
        assert warnings.filters == filters
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


def test_threads_do_not_disturb_each_other(tmp_path):
    for number in range(4):
        content = {"state_dict": {"c.weight": WEIGHT + number}, "args": argparse.Namespace(n=number), "p": Path("x")}
        torch.save(content, tmp_path / f"{number}.pt")

    def first_bank(at: int) -> torch.Tensor:
        return read_checkpoints([tmp_path / f"{at % 4}.pt"])[0].layers[0].banks[0]

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(first_bank, range(40)))
    assert all(torch.equal(bank, WEIGHT + at % 4) for at, bank in enumerate(found))
