"""The report of a finished experiment: one page to look at, its figures and its tables."""

from ckrm_kernels.width_search.report.write import write_report

__all__ = ["write_report"]
