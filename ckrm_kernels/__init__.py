"""How redundant are a network's convolution filters? Kernels for the convolutional kernel redundancy measure."""

from ckrm_kernels.distribution import psi_histogram, redundancy
from ckrm_kernels.functional import cross_psi, pairwise_psi, psi_of_pairs
from ckrm_kernels.groups import RedundantGroups, redundant_groups
from ckrm_kernels.measurement import measure
from ckrm_kernels.report import LayerRedundancy, RedundancyReport
from ckrm_kernels.sampling import RedundancyEstimate, chance_redundancy, estimate_redundancy
from ckrm_kernels.version import __version__ as __version__

__all__ = [
    "LayerRedundancy",
    "RedundancyEstimate",
    "RedundancyReport",
    "RedundantGroups",
    "chance_redundancy",
    "cross_psi",
    "estimate_redundancy",
    "measure",
    "pairwise_psi",
    "psi_histogram",
    "psi_of_pairs",
    "redundancy",
    "redundant_groups",
]
