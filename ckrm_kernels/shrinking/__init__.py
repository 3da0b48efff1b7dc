"""Choosing a network's widths by the redundancy of its layers."""

from ckrm_kernels.shrinking.rules import BracketRule, Change, Observation, WidthRule
from ckrm_kernels.shrinking.search import Round, Search

__all__ = ["BracketRule", "Change", "Observation", "Round", "Search", "WidthRule"]
