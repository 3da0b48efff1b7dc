"""How redundant are a network's convolution filters? Kernels for the convolutional kernel redundancy measure.

A public name is imported when it is first used, and torch with it: the command's help needs neither.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

from ckrm_kernels.version import __version__ as __version__

if TYPE_CHECKING:
    from ckrm_kernels.distribution import psi_histogram, redundancy
    from ckrm_kernels.functional import cross_psi, pairwise_psi, psi_of_pairs
    from ckrm_kernels.groups import RedundantGroups, redundant_groups
    from ckrm_kernels.measurement import measure
    from ckrm_kernels.patterns import LayerPatterns, PatternReport, match_patterns
    from ckrm_kernels.redundancy_loss import RedundancyLoss
    from ckrm_kernels.report import LayerRedundancy, RedundancyReport
    from ckrm_kernels.sampling import RedundancyEstimate, chance_redundancy, estimate_redundancy
    from ckrm_kernels.shrinking.plan import ShrinkPlan, plan_shrink
    from ckrm_kernels.shrinking.saved import load_shrunk, save_shrunk

__all__ = [
    "LayerPatterns",
    "LayerRedundancy",
    "PatternReport",
    "RedundancyEstimate",
    "RedundancyLoss",
    "RedundancyReport",
    "RedundantGroups",
    "ShrinkPlan",
    "chance_redundancy",
    "cross_psi",
    "estimate_redundancy",
    "load_shrunk",
    "match_patterns",
    "measure",
    "pairwise_psi",
    "plan_shrink",
    "psi_histogram",
    "psi_of_pairs",
    "redundancy",
    "redundant_groups",
    "save_shrunk",
]

_MODULE_OF = {
    "LayerPatterns": "patterns",
    "LayerRedundancy": "report",
    "PatternReport": "patterns",
    "RedundancyEstimate": "sampling",
    "RedundancyLoss": "redundancy_loss",
    "RedundancyReport": "report",
    "RedundantGroups": "groups",
    "ShrinkPlan": "shrinking.plan",
    "chance_redundancy": "sampling",
    "cross_psi": "functional",
    "estimate_redundancy": "sampling",
    "load_shrunk": "shrinking.saved",
    "match_patterns": "patterns",
    "measure": "measurement",
    "pairwise_psi": "functional",
    "plan_shrink": "shrinking.plan",
    "psi_histogram": "distribution",
    "psi_of_pairs": "functional",
    "redundancy": "distribution",
    "redundant_groups": "groups",
    "save_shrunk": "shrinking.saved",
}

if not TYPE_CHECKING:  # a type checker would take every name for one of the package

    def __getattr__(name: str) -> object:
        """A public name, or a module of the package, each imported when it is first asked for."""
        if name in _MODULE_OF:
            value = globals()[name] = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
            return value
        module = f"{__name__}.{name}"
        if not name.startswith("_") and find_spec(module):
            return import_module(module)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
