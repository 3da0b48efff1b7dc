"""Typed configurations from files and from `KEY=VALUE` settings, and values of dataclasses from JSON."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

from ckrm_kernels.extras import require
from ckrm_kernels.version import __version__

T = TypeVar("T")
Tables = Mapping[str, Callable[[Any, bool], Any]]
"""For fields of a configuration, what gives the whole table or list that a setting, such as a name, stands for.

It gives None where the setting is one itself.

Its second argument says whether a table of settings is one of its own, as in a file, or changes single settings.
"""
_LONGEST = 100  # characters of a wrong value in a message
_USUAL_NAMES = {
    "amp": "precision",
    "arch": "network",
    "architecture": "network",
    "batch": "batch_size",
    "bs": "batch_size",
    "dataset": "data.name",
    "decay": "weight_decay",
    "dtype": "precision",
    "early_stopping": "early_stop",
    "l2": "weight_decay",
    "lr": "learning_rate",
    "model": "network",
    "mom": "momentum",
    "num_epochs": "epochs",
    "opt": "optimizer",
    "optim": "optimizer",
    "patience": "early_stop",
    "rate": "learning_rate",
    "rounds": "most_rounds",
    "sched": "schedule",
    "scheduler": "schedule",
    "seed": "seeds",
    "wd": "weight_decay",
}
"""What settings are called elsewhere, by the last part of the name, and what they are called here."""


def read_config(
    default: T,
    path: Path | None,
    settings: Iterable[str],
    options: Mapping[str, Any] | None = None,
    *,
    besides: Any = None,
) -> T:
    """The default, a dataclass, changed by a TOML or JSON file, then by the options, then by the settings.

    settings: texts such as "training.epochs=30", with values as in TOML; what is not valid there is text
    options: values by their names, nested as in the configuration
    besides: the default of another command's configuration, which a file may serve too: its fields that are none of
        this one's are left out
    The default's class may have `tables`, see `Tables`; `version`, which saved configurations hold, says nothing here.
    Raises ValueError for a file that can't be read, and where a setting is unknown or does not fit.
    """
    values: dict[str, Any] = asdict(default)  # type: ignore[call-overload]
    accepted = copy.deepcopy(values)
    changes = [
        (_without(_file_settings(path), default, besides) if path else {}, True),
        (options or {}, False),
        *map(_setting, settings),
    ]
    for change, whole in changes:
        tables = _tables(default, change, whole)
        accepted |= tables
        values |= copy.deepcopy(tables)
        _change(
            values, {name: value for name, value in change.items() if name not in tables or isinstance(value, dict)}
        )
    values.pop("version", None)
    _check_known(values, accepted, besides)
    return typed(type(default), values, "the configuration")


def typed(kind: type[T] | Any, value: Any, what: str) -> T:
    """The value of that type, dataclasses and tuples within it included, that JSON or TOML values describe.

    Raises ValueError, with the place of the first fault, where it does not fit.
    """
    with require("a configuration", "pydantic"):
        import pydantic
    try:
        # as JSON, where a list is strictly a tuple's value, and no truth value a number
        result: T = pydantic.TypeAdapter(kind).validate_json(json.dumps(value, default=str), strict=True)
    except pydantic.ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(str(part) for part in fault["loc"])
        if fault["type"] == "value_error":
            raise ValueError(f"{what}: {place + ': ' if place else ''}{fault['ctx']['error']}") from error
        if fault["type"] == "unexpected_keyword_argument":
            raise ValueError(f"{what} has no setting {place}") from error
        raise ValueError(f"{what}: {place}: {fault['msg']}, got {_shortened(repr(fault['input']))}") from error
    return result


def check_kinds(config: Any, **kinds: type) -> None:
    """Raises TypeError where a field of the configuration, which holds settings itself, is not of its class."""
    for name, kind in kinds.items():
        if not isinstance(value := getattr(config, name), kind):
            raise TypeError(f"{name} must be a {kind.__name__}, got {_shortened(repr(value))}")


def as_json(config: Any) -> dict[str, Any]:
    """The configuration, a dataclass, as JSON gives it back, with the version of the package."""
    value: dict[str, Any] = json.loads(json.dumps({"version": __version__, **asdict(config)}))
    return value


def completed(kind: type[Any], config: Mapping[str, Any], what: str) -> dict[str, Any]:
    """A saved configuration, as JSON, of that class, with the defaults of settings that came later."""
    settings = {name: value for name, value in config.items() if name != "version"}
    return {**as_json(typed(kind, settings, what)), "version": config.get("version")}


def check_same(ours: dict[str, Any], theirs: dict[str, Any], folder: Path) -> None:
    """Raises ValueError where the folder holds what was made by another configuration than ours, both as JSON."""
    different = [
        f"{name} is {other}, not {mine}" for name, (other, mine) in differences(theirs, ours, absent="absent").items()
    ]
    if different:
        raise ValueError(
            f"{folder} holds runs of another configuration ({'; '.join(different)}): choose another folder or delete it"
        )


def differences(before: Mapping[str, Any], after: Mapping[str, Any], absent: Any = None) -> dict[str, tuple[Any, Any]]:
    """The settings, by their dotted names, in which two configurations, both as JSON, differ, each before and after."""
    old, new = _flat(before), _flat(after)
    return {
        name: (old.get(name, absent), new.get(name, absent))
        for name in {**new, **old}
        if old.get(name, ...) != new.get(name, ...)
    }


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by their dotted names."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."


def _check_known(values: dict[str, Any], accepted: dict[str, Any], besides: Any = None) -> None:
    """Raises ValueError for the first setting that there is not, with the most similar ones that there are.

    besides: see `read_config`
    """
    known, others = list(_flat(accepted)), _flat({} if besides is None else asdict(besides))
    for name in _flat(values):
        if name not in known and not any(each.startswith(f"{name}.") for each in known):
            if name in others:
                raise ValueError(f"the configuration has no setting {name}: it is one of another command")
            similar = " or ".join(_similar(name, known))
            raise ValueError(f"the configuration has no setting {name}" + (f"; is it {similar}?" if similar else ""))


def _similar(name: str, known: Sequence[str]) -> list[str]:
    """The settings that may be meant: by the name that they have elsewhere, of the same last part, or spelt alike."""
    last = name.rpartition(".")[2].lower().replace("-", "_")
    usual = _USUAL_NAMES.get(last, last)
    tables = {each.partition(".")[0] for each in known if "." in each}
    same = [each for each in (*tables, *known) if each == usual or each.endswith(f".{usual}")]
    return same or get_close_matches(name, known, cutoff=0.5) or [each for each in known if last in each.split("_")]


def _without(values: dict[str, Any], default: Any, besides: Any) -> dict[str, Any]:
    """The values of a file without those of the other configuration alone, which are checked to be its own."""
    if besides is None:
        return values
    own, others = asdict(default), asdict(besides)
    foreign = {name: value for name, value in values.items() if name in others and name not in own}
    _check_known(foreign, others)
    return {name: value for name, value in values.items() if name not in foreign}


def _file_settings(path: Path) -> dict[str, Any]:
    readers: Mapping[str, Callable[[str], dict[str, Any]]] = {".toml": _toml().loads, ".json": json.loads}
    if path.suffix not in readers:
        raise ValueError(f"a configuration must end in .toml or .json, got {path}")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        values = readers[path.suffix](path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid {path.suffix[1:].upper()}: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold settings by name, got a {type(values).__name__}")
    return values


def _setting(text: str) -> tuple[dict[str, Any], bool]:
    """What `a.b=1` says: {"a": {"b": 1}}, and whether it gives a field of the configuration as a whole."""
    key, equals, value = text.partition("=")
    names = key.strip().split(".")
    if not equals or not all(names):
        raise ValueError(f"a setting must be KEY=VALUE, such as training.epochs=30, got {text!r}")
    nested = _toml_value(value.strip())
    for name in reversed(names):
        nested = {name: nested}
    return nested, len(names) == 1


def _tables(default: Any, change: Mapping[str, Any], whole: bool) -> dict[str, dict[str, Any]]:
    """For the fields of which the change stands for a whole table, that table."""
    tables = {}
    for name, table_of in getattr(type(default), "tables", {}).items():
        try:
            table = table_of(change.get(name), whole)
        except ValueError as error:
            raise ValueError(f"the configuration: {name}: {error}") from error
        if table is not None:
            tables[name] = table
    return tables


def _change(values: dict[str, Any], change: Mapping[str, Any]) -> None:
    """Puts each setting of the change in the place of the old one, of what has settings itself each of those."""
    for name, value in change.items():
        if isinstance(value, dict) and isinstance(values.get(name), dict):
            _change(values[name], value)
        else:
            values[name] = value


def _toml_value(text: str) -> Any:
    if text in ("none", "None", "null"):
        return None
    try:
        return _toml().loads(f"value = {text}")["value"]
    except ValueError:
        return text


def _toml() -> Any:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        with require("a configuration", "tomli"):
            import tomli as tomllib
    return tomllib
