"""Select one split of the images of a checkpoint's run, exactly as the run had it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from convlens.config.schema import Config
from convlens.core.errors import UserError
from convlens.data.datamodule import PictureData
from convlens.data.index.labels import SPLITS
from convlens.data.pixels.dataset import Images
from convlens.data.split_record import SplitRecord
from convlens.experiment.data import build_data
from convlens.experiment.unseen import select_test_images


@dataclass(frozen=True)
class OwnImages:
    """The images of a split.

    Attributes:
        images: the images, with labels that are indices into the checkpoint's class names.
        place: what messages call them.
        lines: messages about the selection.
    """

    images: Images
    place: str
    lines: Sequence[str]


def select_split(config: Config, checkpoint: dict, split: str) -> OwnImages:
    """Select the images of a split.

    Those of ``test`` are selected as for ``make eval``, also from other data. Training and
    validation images must be those of the run, by content: other images are no split of it.

    Args:
        config: resolved; it names the data.
        checkpoint: contents of a checkpoint, from ``read_checkpoint``.
        split: ``train``, ``validation`` or ``test``.

    Raises:
        UserError: the images are not those of the run, or the checkpoint does not record them.
    """
    names = tuple(checkpoint["hyper_parameters"]["class_names"])
    if split == "test":
        unseen = select_test_images(config, checkpoint)
        return OwnImages(unseen.data.dataset.splits["test"], unseen.place, unseen.lines)
    record = SplitRecord.from_state(checkpoint.get(PictureData.__qualname__), "the checkpoint")
    if record is None:
        raise UserError(
            f"split={split}: the checkpoint does not record the images of its run, as those of "
            f"earlier versions; try split=test"
        )
    dataset = build_data(config, record.before).dataset
    images = dataset.splits[split]
    recorded, place = getattr(record, split), SPLITS.index(split)
    if images.digests is None or not np.array_equal(np.sort(images.digests), np.sort(recorded)):
        raise UserError(
            f"split={split}: these are not the {len(recorded)} {split} images of the run; "
            f"data.dir=FOLDER says where those are, and split=test takes other images"
        )
    if tuple(dataset.class_names) != names:
        raise UserError(f"split={split}: the classes of the images are not those of the checkpoint")
    lines, labels = [], getattr(SplitRecord.of(dataset, record.before), "labels", None)
    if labels is not None and record.labels is not None and (labels != record.labels)[place]:
        lines.append("some labels have changed since the run: accuracy is by the labels of now")
    return OwnImages(images, f"the run's {split} images", lines)
