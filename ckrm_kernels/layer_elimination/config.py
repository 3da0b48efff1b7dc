"""Every setting of a layer elimination that decides its result."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from ckrm_kernels.data import DataConfig
from ckrm_kernels.models import AnyNetwork, ThreeConvolutions
from ckrm_kernels.models.kinds import as_network, network_settings
from ckrm_kernels.storage.settings import Tables
from ckrm_kernels.training import TrainingConfig
from ckrm_kernels.training.runs import RunsConfig, seeds_of
from ckrm_kernels.whole_numbers import whole_number

# RMSprop and 20 epochs as the paper says. It gives no rate and no batch: those are Keras's defaults, and 20 epochs of
# "plateau" never reach its patience, so that the rate is constant and the weights of the best epoch are kept.
_TRAINING = TrainingConfig(
    batch_size=32, optimizer="rmsprop", learning_rate=1e-3, momentum=0.0, weight_decay=0.0, schedule="plateau"
)


@dataclass(frozen=True)
class EliminationConfig:
    """The three networks, what they are trained on and how, and the selection of images.

    network: CNN 1 and CNN 3, a `ThreeConvolutions`; its images and classes are those of the data
    predictor: CNN 2, any network. The paper leaves it open; by default it is CNN 1 at a quarter of its width, since a
        predictor of the size of CNN 1 would cost as much as CNN 3 can save
    training: of all three
    maps: the first so many feature maps of each convolution are looked at; images_per_map: the so many images that
        activate each of them most are chosen
    seeds: different whole numbers; each gives the three networks
    Raises ValueError, naming it, for a setting that is not as above.
    """

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012
    tables: ClassVar[Tables] = {"network": network_settings, "predictor": network_settings, "seeds": seeds_of}

    network: AnyNetwork = field(default_factory=ThreeConvolutions)
    predictor: AnyNetwork = field(default_factory=lambda: ThreeConvolutions(width=4))
    data: DataConfig = field(default_factory=DataConfig)
    training: TrainingConfig = _TRAINING
    maps: int = 10
    images_per_map: int = 10
    seeds: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        for name in ("network", "predictor"):
            object.__setattr__(self, name, as_network(getattr(self, name)))
        if not isinstance(self.network, ThreeConvolutions):
            raise ValueError(
                f"network must be of the kind three-convolutions, whose layers can be skipped, got {self.network.kind}"
            )
        for name in ("maps", "images_per_map"):
            object.__setattr__(self, name, whole_number(name, getattr(self, name)))
        if self.maps > self.network.width:
            raise ValueError(f"maps must be at most the width of network, {self.network.width}, got {self.maps}")
        object.__setattr__(self, "seeds", self.first_runs.seeds)

    @property
    def first_runs(self) -> RunsConfig:
        """The trainings of CNN 1, which are those of `ckrm train`."""
        return RunsConfig(self.network, self.data, self.training, self.seeds)
