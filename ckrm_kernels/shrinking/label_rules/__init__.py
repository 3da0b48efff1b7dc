"""What each operation does to labels: one rule for each, found by the operation's name."""

from ckrm_kernels.shrinking.label_rules import elementwise, layers, norms, pieces, products, reductions, shapes
from ckrm_kernels.shrinking.label_rules.call import Along, Call, Rule

__all__ = ["RULES", "Along", "Call"]

RULES: dict[str, Rule] = {
    **elementwise.RULES,
    **layers.RULES,
    **norms.RULES,
    **pieces.RULES,
    **products.RULES,
    **reductions.RULES,
    **shapes.RULES,
}
"""For each operation of ATen, by its name without overload and without the underscore of in-place variants."""
