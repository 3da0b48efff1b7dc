"""Which network a configuration means: one that has a name, or a kind and its settings.

A kind is a short name of this package or "module:Class", the import path of a class outside it. So a configuration, a
saved run and a worker process hold all that is needed to find the class, and none has to be registered.
"""

from __future__ import annotations

from dataclasses import MISSING, asdict, fields, is_dataclass
from typing import Annotated, Any

from ckrm_kernels.imported import imported
from ckrm_kernels.models.network import Network
from ckrm_kernels.models.resnet import ResNetShape
from ckrm_kernels.models.zoo import network_shape
from ckrm_kernels.storage.tagged import ByKind

KINDS: dict[str, type[Network]] = {"resnet": ResNetShape}


def network_class(kind: Any) -> type[Any]:
    """The class of a kind of networks.

    Raises ValueError for an unknown kind, and for a class that is none of a network.
    """
    if not isinstance(kind, str) or (kind not in KINDS and ":" not in kind):
        raise ValueError(f"kind must be {', '.join(KINDS)}, or module:Class of a network's class, got {kind!r}")
    return KINDS[kind] if kind in KINDS else _imported(kind)


def check_kind(network: Network) -> None:
    """Raises ValueError where the network's kind does not lead back to its class."""
    if network_class(getattr(network, "kind", None)) is not type(network):
        path = f"{type(network).__module__}:{type(network).__qualname__}"
        raise ValueError(f"the kind of the network's class must be {path!r}, got {network.kind!r}")


def network_of(name: str) -> Any:
    """The network of a name that `ckrm models` lists, or of the import path of a kind, with its defaults.

    Raises ValueError for an unknown name, and as `network_class` does.
    """
    return network_class(name)() if ":" in name else network_shape(name)


def network_settings(value: Any) -> dict[str, Any] | None:
    """All settings of the network that a configuration names, or whose kind it names; None where it does neither.

    value: a name, see `network_of`, or a table of settings that holds a kind: what it lacks has the kind's defaults
    """
    if isinstance(value, str):
        return asdict(network_of(value))
    if isinstance(value, dict) and "kind" in value:
        return asdict(network_class(value["kind"])())
    return None


AnyNetwork = Annotated[Network, ByKind(network_class)]
"""The type of a configuration's field that holds a network of any kind."""


def _imported(kind: str) -> type[Any]:
    if kind.startswith("__main__:"):
        raise ValueError(
            f"kind {kind!r} is of a script: define the class in a module, which other processes can import"
        )
    found = imported(kind, f"kind {kind!r}")
    if not isinstance(found, type) or not is_dataclass(found):
        raise ValueError(f"kind {kind!r} must be a dataclass, as models.Network says, got {found!r}")
    own = {each.name: each for each in fields(found)}
    if "kind" not in own or own["kind"].init or own["kind"].default != kind:
        raise ValueError(f"kind {kind!r} must be a field of its class: kind: str = field(default={kind!r}, init=False)")
    lacking = [member for member in dir(Network) if not member.startswith("_") and not hasattr(found, member)]
    if lacking:
        raise ValueError(f"kind {kind!r} lacks {', '.join(lacking)}, see models.Network")
    needed = [name for name, each in own.items() if each.default is MISSING and each.default_factory is MISSING]
    if needed:
        raise ValueError(f"kind {kind!r} must have a default for {', '.join(needed)}")
    return found
