"""Whether a network's widths can be searched: each must belong to a layer that the rule can judge."""

from __future__ import annotations

from ckrm_kernels.choices import SearchRule
from ckrm_kernels.filters import filter_banks, is_pointwise
from ckrm_kernels.models import Network, without_memory
from ckrm_kernels.width_search.shrunk_network import ShrunkNetwork


def check_searchable(network: Network, by: SearchRule = "redundancy") -> None:
    """Raises ValueError where the rule can judge no layer of a width, or one is not there, or the network was shrunk.

    Built without memory. By error every layer can be judged, by redundancy those that are measured, whose slices hold
    more than one number.
    """
    if isinstance(network, ShrunkNetwork):
        raise ValueError(
            "network must have widths that can be chosen, to be searched, got one that was shrunk: choose its original"
        )
    modules = dict(without_memory(network).named_modules())
    width_of_layer, widths = network.width_of_layer(), network.widths()
    if not widths:
        raise ValueError("network.widths must hold a width, to be searched, got none")
    absent = [layer for layer in width_of_layer if layer not in modules]
    if absent:
        raise ValueError(f"network.width_of_layer must name layers of the network, got {', '.join(absent)}")
    inferred = [name for name in widths if name not in width_of_layer.values()]
    if inferred:
        raise ValueError(
            "network.widths must each count the filters of a layer that width_of_layer names, to be searched; "
            f"{', '.join(inferred)} do not"
        )
    measured = {width for layer, width in width_of_layer.items() if not is_pointwise(filter_banks(modules[layer])[0])}
    unmeasured = [name for name in widths if name not in measured]
    if unmeasured and by == "redundancy":
        raise ValueError(
            "network.widths must each count the filters of a layer that is measured, or be inferred, to be searched; "
            f"those of {', '.join(unmeasured)} are of 1x1 convolutions or linear layers alone, "
            "which the rule by error can search (`--rule error`)"
        )
