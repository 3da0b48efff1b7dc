"""A trained network as an ONNX file that takes raw pixels."""

from __future__ import annotations

import copy
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ckrm_kernels.extras import require
from ckrm_kernels.models import predicts_saliency, whole_pass
from ckrm_kernels.training.trained import TrainedNetwork


class _OfRawPixels(nn.Module):
    """The network with the standardisation of its inputs inside."""

    def __init__(self, trained: TrainedNetwork) -> None:
        super().__init__()
        self.model = copy.deepcopy(trained.model)  # whose device and mode are the caller's
        self._whole = whole_pass(self.model)
        self.mean, self.deviation = (
            nn.Buffer(torch.tensor(numbers)[:, None, None])
            for numbers in (trained.transform.mean, trained.transform.deviation)
        )

    def forward(self, images: Tensor) -> Any:
        standardised: Tensor = (images.float() - self.mean) / self.deviation
        return self.model(standardised, **self._whole)


def as_onnx(trained: TrainedNetwork) -> bytes:
    """The content of an ONNX file: "images" (N, C, H, W) of raw pixels -> "logits" (N, classes), for any N.

    Of a network that predicts saliency, "saliency" (N, H, W) is a second output, see `models.SaliencyMaps`.
    The pixels are uint8 where the data set's are, else float32. The file's metadata holds the classes, as JSON.
    """
    with require("an ONNX file", "onnx"):
        import onnx
    with require("an ONNX file", "onnxscript"):
        import onnxscript  # noqa: F401
    model = _OfRawPixels(trained).eval().cpu()
    images = torch.zeros(2, *trained.image_shape, dtype=getattr(torch, trained.transform.pixels))
    with _quiet():
        program = torch.onnx.export(
            model,
            (images,),
            dynamo=True,
            verbose=False,
            input_names=["images"],
            output_names=["logits", *(["saliency"] if predicts_saliency(trained.model) else [])],
            dynamic_shapes={"images": {0: torch.export.Dim("N")}},
        )
    assert program is not None
    proto: Any = program.model_proto
    facts = {"classes": json.dumps(trained.classes), "data": trained.data, "data_digest": trained.data_digest}
    onnx.helper.set_model_props(proto, facts)
    onnx.checker.check_model(proto)
    content: bytes = proto.SerializeToString()
    return content


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's warnings, such as of packages that are not there and not needed."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
