"""Reads pickles without running anything of them: what they would import and call is replaced by records of it."""

from __future__ import annotations

import _compat_pickle
import pickle
import sys
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NoReturn, Protocol

Build = Callable[..., Any]
_LARGEST = 10_000_000  # parts of a tuple of tuples, written out
_HARMLESS_MODULES = ("typing", "datetime", "decimal", "fractions", "uuid", "zoneinfo", "pathlib")
_HARMLESS = {
    f"{module}.{name}"
    for module, names in {
        "argparse": "Namespace",
        "builtins": "Ellipsis NotImplemented bool bytearray bytes complex float frozenset int object range set slice "
        "str type",
        "collections": "ChainMap UserDict UserList",
        "dataclasses": "_MISSING_TYPE",
        "enum": "auto",
        "functools": "partial",
        "inspect": "_empty",
        "itertools": "chain count cycle repeat",
        "logging": "Logger getLogger",
        "random": "Random",
        "re": "RegexFlag _compile",
        "time": "struct_time",
        "types": "GenericAlias SimpleNamespace",
    }.items()
    for name in names.split()
}


class PickleFile(Protocol):
    """What a pickle is read from."""

    def read(self, count: int, /) -> bytes:
        """So many bytes, or fewer at the end."""

    def readline(self) -> bytes:
        """All up to the end of the line, with it."""


class RefusedError(Exception):
    """A pickle names something of Python's own library that could run code; the message is its name."""


class Global:
    """A class or function that a pickle names. Nothing is imported for it.

    build: what is called in its place
    """

    __slots__ = ("build", "name")

    def __init__(self, name: str, build: Build | None = None) -> None:
        self.name = name
        self.build = build or (lambda *arguments: StandIn(name, arguments))


class StandIn:
    """What a pickle says of an object whose class is not built.

    type: the class or function by its name; arguments: that it was called with
    state: that it was given; entries, elements: that were put into it, as into a dict or a list
    """

    __slots__ = ("arguments", "elements", "entries", "state", "type")

    def __init__(self, type: str, arguments: tuple[Any, ...] = ()) -> None:
        self.type, self.arguments = type, arguments
        self.state: Any = None
        self.entries: dict[Any, Any] = {}
        self.elements: list[Any] = []

    def __setitem__(self, key: Any, value: Any) -> None:
        self.entries[key] = value

    def append(self, value: Any) -> None:
        """One more element."""
        self.elements.append(value)

    def extend(self, values: Any) -> None:
        """Several more elements."""
        self.elements.extend(values)

    add = append

    @property
    def attributes(self) -> dict[Any, Any]:
        """The attributes by their names: the state, also where it comes in two parts, of `__dict__` and `__slots__`."""
        parts = self.state if isinstance(self.state, tuple) and len(self.state) == 2 else (self.state,)
        return {name: value for part in parts if isinstance(part, dict) for name, value in part.items()}

    @property
    def content(self) -> dict[Any, Any]:
        """All that it holds, by attribute, key or index."""
        indexed = dict(enumerate(self.elements or self.arguments))
        return {**indexed, **self.attributes, **self.entries}


class Unpickler(pickle._Unpickler):
    """An unpickler that builds containers, numbers and text, and of everything else a record.

    The one in Python, not the one in C: every instruction that calls or changes an object is replaced below, and a
    damaged pickle can't make it allocate at will.
    """

    dispatch: ClassVar[dict[int, Any]] = dict(pickle._Unpickler.dispatch)
    stack: list[Any]
    append: Callable[[Any], None]
    read: Callable[[int], bytes]

    def __init__(
        self, file: PickleFile, builders: Mapping[str, Build], persistent: Callable[[Any], Any] | None = None
    ) -> None:
        """A reader of one pickle.

        builders: what is called in the place of classes and functions, by their full names
        persistent: gives the objects that lie outside of the pickle
        """
        super().__init__(file, encoding="latin1")
        self._builders = {**_CONTAINERS, **builders}
        self._persistent = persistent
        self._sizes: dict[int, tuple[Any, int]] = {}  # of tuples that hold others, by their ids, which stay theirs

    def find_class(self, module: str, name: str) -> Global:
        """The record of a class or function; raises RefusedError."""
        if getattr(self, "proto", 0) < 3:  # as Python 2 named them, which Python 3 still writes
            module, name = _compat_pickle.NAME_MAPPING.get((module, name), (module, name))
            module = _compat_pickle.IMPORT_MAPPING.get(module, module)
        full = f"{module}.{name}"
        if full in self._builders:
            return Global(full, self._builders[full])
        if _is_foreign(full) or full in _HARMLESS:
            return Global(full)
        if full.rpartition(".")[0] in _HARMLESS_MODULES and name.isidentifier():
            return Global(full)
        raise RefusedError(full)

    def persistent_load(self, pid: Any) -> Any:
        """The object that lies outside of the pickle."""
        if self._persistent is None:
            raise pickle.UnpicklingError("objects outside of the pickle")
        return self._persistent(pid)

    def get_extension(self, code: int) -> NoReturn:
        """Refuses what is registered in the process."""
        raise RefusedError(f"copyreg's extension {code}")

    def check_size(self, made: Any) -> None:
        """Refuses a tuple or frozenset of others with too many parts in all."""
        inner = [each for each in made if isinstance(each, (tuple, frozenset))]
        if inner:
            size = len(made) + sum(self._sizes[id(each)][1] if id(each) in self._sizes else len(each) for each in inner)
            if size > _LARGEST:
                raise pickle.UnpicklingError("a tuple of too many parts")
            self._sizes[id(made)] = made, size

    def _call(self, function: Any, arguments: Any) -> Any:
        if not isinstance(function, (Global, StandIn)) or not isinstance(arguments, tuple):
            raise pickle.UnpicklingError("a call of what is no function")
        return function.build(*arguments) if isinstance(function, Global) else StandIn(function.type, arguments)

    def _instantiate(self, klass: Any, args: Any) -> None:
        self.append(self._call(klass, tuple(args)))

    def load_reduce(self) -> None:
        """A call."""
        arguments = self.stack.pop()
        self.stack[-1] = self._call(self.stack[-1], arguments)

    def load_newobj_ex(self) -> None:
        """A class with arguments by their names."""
        named = self.stack.pop()
        arguments = self.stack.pop()
        self.stack[-1] = self._call(self.stack[-1], (*arguments, *named.values()))

    def load_build(self) -> None:
        """The state of an object; that of a container, such as a state dict's `_metadata`, is left out."""
        state = self.stack.pop()
        if isinstance(self.stack[-1], StandIn):
            self.stack[-1].state = state

    def load_bytearray8(self) -> None:
        """Bytes, not allocated before they are there."""
        self.append(bytearray(self.read(int.from_bytes(self.read(8), "little"))))

    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8
    dispatch[pickle.REDUCE[0]] = load_reduce
    dispatch[pickle.NEWOBJ[0]] = load_reduce
    dispatch[pickle.NEWOBJ_EX[0]] = load_newobj_ex
    dispatch[pickle.BUILD[0]] = load_build


def _of_bounded_size(load: Callable[[Any], None]) -> Callable[[Any], None]:
    """A step that makes a tuple or a frozenset, refused where it holds others that are huge when written out.

    A few bytes make one of 2^60 parts, (t, t) of a t made alike, whose hash and text would take for ever.
    """

    def loaded(self: Unpickler) -> None:
        load(self)
        self.check_size(self.stack[-1])

    return loaded


for _opcode in (pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3, pickle.FROZENSET):
    Unpickler.dispatch[_opcode[0]] = _of_bounded_size(Unpickler.dispatch[_opcode[0]])


def _is_foreign(name: str) -> bool:
    """Whether it belongs to neither Python itself nor its library."""
    return name.partition(".")[0] not in sys.stdlib_module_names


def _mapping(*arguments: Any) -> dict[Any, Any]:
    given = arguments[-1] if arguments else None
    return dict(given) if isinstance(given, (dict, list, tuple)) else {}


def _sequence(*arguments: Any) -> list[Any]:
    return list(arguments[0]) if arguments and isinstance(arguments[0], (list, tuple)) else []


def _encoded(text: str, encoding: str = "latin1") -> bytes:
    if encoding not in ("latin1", "latin-1", "utf-8"):
        raise RefusedError("_codecs.encode to another encoding")
    return text.encode(encoding)


def _attribute(owner: Any, name: str, *_: Any) -> StandIn:
    """An attribute by its name, such as an enumeration's member: harmless where the owner is a record."""
    named = owner.name if isinstance(owner, Global) else owner.type if isinstance(owner, StandIn) else "builtins"
    if not _is_foreign(named) or type(name) is not str:
        raise RefusedError("builtins.getattr")
    return StandIn(f"{named}.{name}")


def _reconstructed(cls: Any, base: Any, content: Any) -> Any:
    """An object as protocols 0 and 1 give it: its class, the builtin class that it extends, and that one's content."""
    made = _new(cls)
    if isinstance(made, StandIn):
        made.entries.update(content if isinstance(content, dict) else {})
        made.elements.extend(content if isinstance(content, (list, tuple)) else ())
    return made


def _new(cls: Any, *arguments: Any) -> Any:
    if not isinstance(cls, Global):
        raise pickle.UnpicklingError("an object of what is no class")
    return cls.build(*arguments)


_CONTAINERS: dict[str, Build] = {
    "_codecs.encode": _encoded,
    "builtins.dict": _mapping,
    "builtins.getattr": _attribute,
    "builtins.list": _sequence,
    "builtins.tuple": _sequence,
    "collections.Counter": _mapping,
    "collections.OrderedDict": _mapping,
    "collections.defaultdict": _mapping,
    "collections.deque": _sequence,
    "copyreg.__newobj__": _new,
    "copyreg._reconstructor": _reconstructed,
}
