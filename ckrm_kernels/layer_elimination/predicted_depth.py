"""CNN 2 and CNN 3 as one network."""

from __future__ import annotations

from torch import Tensor, nn


class PredictedDepth(nn.Module):
    """A network whose layers each image skips as another network predicts: images (N, C, H, W) -> logits (N, classes).

    predictor: images -> scores of the layers (N, layers); the image passes all up to the one with the highest
    network: called with images and depths (N,) from 1, such as a built `ThreeConvolutions`
    """

    def __init__(self, predictor: nn.Module, network: nn.Module) -> None:
        super().__init__()
        self.predictor, self.network = predictor, network

    def depths(self, images: Tensor) -> Tensor:
        """How many layers each image passes: (N,) int64 from 1."""
        return self.predictor(images).argmax(1) + 1

    def forward(self, images: Tensor) -> Tensor:
        """images (N, C, H, W) -> logits (N, classes); images of one depth are computed in one batch."""
        logits: Tensor = self.network(images, self.depths(images))
        return logits
