"""Which of a network's kernels look like filters that are known from image processing."""

from ckrm_kernels.patterns.known_filters import edge_detectors, gaussian
from ckrm_kernels.patterns.matching import match_patterns
from ckrm_kernels.patterns.result import LayerPatterns, PatternReport

__all__ = ["LayerPatterns", "PatternReport", "edge_detectors", "gaussian", "match_patterns"]
