"""The result of measuring a model, and its views."""

from ckrm_kernels.report.result import KernelPatterns, LayerRedundancy, RedundancyReport, ScaleFreeRedundancy, Source

__all__ = ["KernelPatterns", "LayerRedundancy", "RedundancyReport", "ScaleFreeRedundancy", "Source"]
