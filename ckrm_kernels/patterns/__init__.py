"""Which of a network's kernels look like filters that are known from image processing."""

from ckrm_kernels.patterns.known_filters import edge_detectors, gaussian

__all__ = ["edge_detectors", "gaussian"]
