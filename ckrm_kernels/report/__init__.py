"""The result of measuring a model, and its views."""

from ckrm_kernels.report.result import LayerRedundancy, RedundancyReport, ScaleFreeRedundancy, Source

__all__ = ["LayerRedundancy", "RedundancyReport", "ScaleFreeRedundancy", "Source"]
