"""Choosing a network's widths by the redundancy of its layers."""

from ckrm_kernels.shrinking.config import RuleConfig, ShrinkConfig
from ckrm_kernels.shrinking.findings import Findings
from ckrm_kernels.shrinking.pipeline import shrink
from ckrm_kernels.shrinking.rules import BracketRule, Change, Observation, StageRule, WidthRule
from ckrm_kernels.shrinking.search import Round, Search

__all__ = [
    "BracketRule",
    "Change",
    "Findings",
    "Observation",
    "Round",
    "RuleConfig",
    "Search",
    "ShrinkConfig",
    "StageRule",
    "WidthRule",
    "shrink",
]
