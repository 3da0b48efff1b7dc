"""Training recipes that have a name: settings for a network that is any."""

from __future__ import annotations

from ckrm_kernels.choices import PresetName
from ckrm_kernels.training.config import TrainingConfig

PRESETS: dict[PresetName, TrainingConfig] = {
    "vgnet": TrainingConfig(
        epochs=300,
        batch_size=512,
        optimizer="sgd",
        learning_rate=0.2,
        momentum=0.9,
        weight_decay=1e-4,
        weight_decay_on="weights",
        schedule="cosine",
        warmup_epochs=5,
        label_smoothing=0.1,
    ),
}
"""By name: "vgnet" is that of the VGNet paper, section 5.1, for ImageNet. Its batch norm's momentum is torch's 0.1."""
