"""Choosing a network's widths by the redundancy of its layers."""

from ckrm_kernels.similarity import Similarity
from ckrm_kernels.width_search.config import RuleConfig, WidthSearchConfig
from ckrm_kernels.width_search.findings import Findings
from ckrm_kernels.width_search.pipeline import search_widths
from ckrm_kernels.width_search.rules import BracketRule, Change, Observation, StageRule, WidthRule
from ckrm_kernels.width_search.search import Round, Search

__all__ = [
    "BracketRule",
    "Change",
    "Findings",
    "Observation",
    "Round",
    "RuleConfig",
    "Search",
    "Similarity",
    "StageRule",
    "WidthRule",
    "WidthSearchConfig",
    "search_widths",
]
