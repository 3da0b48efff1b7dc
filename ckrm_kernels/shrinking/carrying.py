"""(crude; replaced)"""


def carry_over(original, small, graph, removed, *, optimizer=None, scheduler=None, ema=None):
    return None
