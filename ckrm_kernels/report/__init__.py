"""The result of measuring a model, and its views."""

from ckrm_kernels.report.result import LayerRedundancy, RedundancyReport

__all__ = ["LayerRedundancy", "RedundancyReport"]
