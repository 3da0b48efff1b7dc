"""Layer elimination: which convolutions an image can skip, learnt from where it activates a network most."""

from ckrm_kernels.layer_elimination.config import EliminationConfig
from ckrm_kernels.layer_elimination.phases import eliminate_layers
from ckrm_kernels.layer_elimination.predicted_depth import PredictedDepth
from ckrm_kernels.layer_elimination.results import Elimination, SeedResult
from ckrm_kernels.layer_elimination.strongest import Selection, strongest_activations

__all__ = [
    "Elimination",
    "EliminationConfig",
    "PredictedDepth",
    "SeedResult",
    "Selection",
    "eliminate_layers",
    "strongest_activations",
]
