"""Files to batches: sources, decoding, splits, augmentation, probes."""

from convlens.data.datamodule import PictureData
from convlens.data.probes import Probes, choose_probes, own_probes

__all__ = ["PictureData", "Probes", "choose_probes", "own_probes"]
