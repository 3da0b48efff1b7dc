"""The redundancy of a model as a metric of torchmetrics."""

from __future__ import annotations

from typing import Any, get_args
from zlib import crc32

import torch
from torch import Tensor, nn

from ckrm_kernels.choices import Pointwise
from ckrm_kernels.distribution import checked_threshold
from ckrm_kernels.extras import require
from ckrm_kernels.integrations.curves import pairs_above
from ckrm_kernels.measurement import measure
from ckrm_kernels.options import SimilarityOptions, resolve

with require("the metric", "torchmetrics"):
    from torchmetrics import Metric


class RedundancyMetric(Metric):
    """lambda^t over the pairs of filters of all measured layers together: `metric.update(model=model)`, once an epoch.

    In a `MetricCollection` the others get what they are given and this one the model:
    `collection.update(predictions, labels, model=model)`. Of several updates, as of several processes, the pairs are
    counted together.

    threshold, pointwise: as of `measure`
    options: those of `SimilarityOptions`, and torchmetrics' own, such as sync_on_compute
    Raises TypeError or ValueError, naming it, for an argument that is not as above; `update`, what `measure` does.
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False
    plot_lower_bound, plot_upper_bound = 0.0, 1.0

    above: Tensor
    pairs: Tensor

    def __init__(self, threshold: float = 0.6, *, pointwise: Pointwise = "skip", **options: Any) -> None:
        similarity: Any = {name: options.pop(name) for name in SimilarityOptions.__annotations__ if name in options}
        checked_threshold(threshold, resolve(similarity, "RedundancyMetric")[0].lowest)
        if pointwise not in get_args(Pointwise):
            raise ValueError(f"pointwise must be one of {', '.join(get_args(Pointwise))}, got {pointwise!r}")
        super().__init__(**options)
        self._arguments = {"threshold": threshold, "pointwise": pointwise, "details": False, **similarity}
        self.add_state("above", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("pairs", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        # a collection updates only the first of metrics whose states are alike after a batch
        self.add_state("asked", torch.tensor(crc32(repr(self._arguments).encode())), dist_reduce_fx="max")

    def update(self, *_: Any, model: nn.Module) -> None:
        """Counts the pairs of filters of the model; what else a collection hands on is left."""
        report = measure(model, **self._arguments)
        self.above += sum(pairs_above(report))
        self.pairs += sum(layer.pairs for layer in report.measured)

    def compute(self) -> Tensor:
        """lambda^t, float64, 0-dimensional; 0 where there is no pair."""
        return self.above.double() / self.pairs.clamp(min=1)
