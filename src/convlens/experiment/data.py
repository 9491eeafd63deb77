"""From a config to its data."""

from __future__ import annotations

import numpy as np

from convlens.config.schema import Config
from convlens.data.datamodule import PictureData


def data_of(config: Config, before: np.ndarray | None = None) -> PictureData:
    """The data of a config; ``before``: digests of images that are not to be tested."""
    training = config.training
    return PictureData(
        config.data,
        seed=config.seed,
        batch_size=training.batch_size,
        eval_batch_size=training.eval_batch_size,
        steps_per_epoch=training.steps_per_epoch,
        per_device=training.batch_size_is == "per_device",
        before=before,
    )
