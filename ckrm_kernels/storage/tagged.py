"""Fields of configurations that hold a dataclass of one of several classes, which its `kind` tells."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ByKind:
    """Reads such a field from JSON or TOML values, where its type is `Annotated[..., ByKind(class_of)]`.

    class_of: gives the dataclass of a kind, and raises ValueError for an unknown one; its `kind` is a field with
        init=False, which `asdict` gives and which is not an argument
    """

    class_of: Callable[[Any], type[Any]]

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        return core_schema.no_info_plain_validator_function(self._read)

    def _read(self, value: Any) -> Any:
        from pydantic import TypeAdapter

        if not isinstance(value, dict):
            raise ValueError(f"must be a table of settings with a kind, got {value!r}")
        settings = {name: each for name, each in value.items() if name != "kind"}
        # as JSON, as in `settings.typed`; the faults keep their places, below that of this field
        return TypeAdapter(self.class_of(value.get("kind"))).validate_json(json.dumps(settings), strict=True)
