"""Which network a configuration means: one that has a name, or a kind and its settings.

A kind is a short name of this package or "module:Class", the import path of a class outside it. So a configuration, a
saved run and a worker process hold all that is needed to find the class, and none has to be registered.
"""

from __future__ import annotations

from dataclasses import MISSING, asdict, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any

from ckrm_kernels.imported import imported
from ckrm_kernels.models.mt_unet import MTUNetShape
from ckrm_kernels.models.network import Network
from ckrm_kernels.models.resnet import ResNetShape
from ckrm_kernels.models.three_convolutions import ThreeConvolutions
from ckrm_kernels.models.vgnet import VGNetShape
from ckrm_kernels.models.zoo import NETWORKS, network_shape
from ckrm_kernels.storage.files import read_json
from ckrm_kernels.storage.run_folders import RECORD, finished_run
from ckrm_kernels.storage.settings import typed
from ckrm_kernels.storage.tagged import ByKind

KINDS: dict[str, type[Network]] = {
    "resnet": ResNetShape,
    "vgnet": VGNetShape,
    "mt-unet": MTUNetShape,
    "three-convolutions": ThreeConvolutions,
}


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
    """The network of a name that `ckrm models` lists, of a run's folder, or of the import path of a kind.

    The folder is any that `finished_run` takes, the kind's network has its defaults. Raises ValueError for an unknown
    name, and as `network_class` does.
    """
    if name not in NETWORKS and Path(name).is_dir():
        return described_network(read_json(finished_run(name) / RECORD)["identity"]["network"], name)
    if ":" in name:
        return network_class(name)()
    if name not in NETWORKS:
        raise ValueError(
            f"name must be one of {', '.join(NETWORKS)}, the folder of a finished run, or module:Class, got {name!r}"
        )
    return network_shape(name)


def described_network(settings: Any, what: str) -> Any:
    """The network of the settings, with its kind, that a finished run in `what` holds as JSON."""
    return typed(AnyNetwork, settings, f"the network of {what}")


def as_network(value: Any) -> Any:
    """The network itself, or that of a name, see `network_of`; raises ValueError for anything else."""
    if isinstance(value, (str, Path)):
        return network_of(str(value))
    if isinstance(value, type) or not is_dataclass(value) or _lacking(value):
        raise ValueError(
            "network must be a name that `ckrm models` lists, a run's folder, or a network's description such as "
            f"models.ResNetShape(), got {value!r}"
        )
    return value


def network_settings(value: Any, whole: bool = False) -> dict[str, Any] | None:
    """All settings of the network that a configuration names, or whose kind it names; None where it does neither.

    value: a name, see `network_of`, or a table of settings that holds a kind: what it lacks has the kind's defaults
    whole: the table is one of its own, as in a file: without a kind, one with the stages of a residual network is such
        a network, whose blocks are not those of another
    """
    if isinstance(value, str):
        return asdict(network_of(value))
    if isinstance(value, dict) and "kind" in value:
        return asdict(network_class(value["kind"])())
    if isinstance(value, dict) and whole and ("inner" in value or "out" in value):
        return asdict(ResNetShape())
    return None


AnyNetwork = Annotated[Network, ByKind(network_class)]
"""The type of a configuration's field that holds a network of any kind."""


def _lacking(found: Any) -> list[str]:
    """The members of a network's description that a class, or an object of one, has not."""
    return [member for member in dir(Network) if not member.startswith("_") and not hasattr(found, member)]


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
    lacking = _lacking(found)
    if lacking:
        raise ValueError(f"kind {kind!r} lacks {', '.join(lacking)}, see models.Network")
    needed = [name for name, each in own.items() if each.default is MISSING and each.default_factory is MISSING]
    if needed:
        raise ValueError(f"kind {kind!r} must have a default for {', '.join(needed)}")
    return found
