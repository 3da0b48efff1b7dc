"""How redundant are a network's convolution filters? Kernels for the convolutional kernel redundancy measure."""

from ckrm_kernels.functional import cross_psi, pairwise_psi, psi_of_pairs
from ckrm_kernels.redundancy import psi_histogram, redundancy

__version__ = "0.1.0"

__all__ = [
    "cross_psi",
    "pairwise_psi",
    "psi_histogram",
    "psi_of_pairs",
    "redundancy",
]
