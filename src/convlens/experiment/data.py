"""From a config to its data, and what a run has used of it before."""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from convlens.config.schema import Config
from convlens.data.datamodule import PictureData
from convlens.data.index.files import Files
from convlens.data.pixels.contents import FileDigests
from convlens.data.sources.source import Index
from convlens.data.split_record import USED, SplitRecord
from convlens.models.weights_file import load_data

log = logging.getLogger("convlens")


def build_data(
    config: Config, before: np.ndarray | None = None, found: Index | None = None
) -> PictureData:
    """The data of a config.

    Args:
        before: digests of images that are not to be tested.
        found: the images, where they are not those that the config names.
    """
    training = config.training
    return PictureData(
        config.data,
        seed=config.seed,
        batch_size=training.batch_size,
        eval_batch_size=training.eval_batch_size,
        steps_per_epoch=training.steps_per_epoch,
        per_device=training.batch_size_is == "per_device",
        index=found,
        before=before,
    )


def read_used_digests(config: Config, start: Path | None) -> np.ndarray:
    """Digests of what earlier runs have used whose weights a run starts from; often none.

    Args:
        config: of the run; ``model.weights`` may be another run's checkpoint.
        start: the checkpoint of a resumed run, which knows them itself.
    """
    path, none = start or Path(config.model.weights).expanduser(), np.zeros(0, np.int64)
    if not path.is_file() or not zipfile.is_zipfile(path):
        return none
    try:
        content = load_data(path, mmap=True)
    except Exception:  # the unpickler raises anything; whoever loads the weights tells of it
        return none
    content = content if isinstance(content, dict) else {}
    record = SplitRecord.from_state(content.get(PictureData.__qualname__), str(path))
    if record is not None:
        return record.before if start else record.used
    if "hyper_parameters" in content and not start:
        log.warning(
            f"{path} does not record which images its run was trained on: whether any of the test "
            f"images of this run are among them cannot be told"
        )
    return none


def describe_used_images(files: Sequence[Path], checkpoint: Path) -> str:
    """A line on files that a checkpoint's run was trained or validated on; empty for none.

    Also empty of a checkpoint without a record, which cannot tell.

    Raises:
        UserError: the checkpoint's record cannot be read.
    """
    content = load_data(checkpoint, mmap=True)  # of a large file only what is asked for is read
    record = SplitRecord.from_state(content.get(PictureData.__qualname__), str(checkpoint))
    if record is None:
        return ""
    used = record.find_uses(FileDigests(Files.of(files), None).get())
    if not used.any():
        return ""
    return (
        f"{np.sum(used != '')} of {len(files)} images are among those that the run has used "
        f"({describe_uses(used)}), such as {files[int(np.argmax(used != ''))]}: how well it does on "
        f"them says nothing about new images"
    )


def describe_uses(used: np.ndarray) -> str:
    """How many images were used in which way."""
    counts = {split: int(np.sum(used == split)) for split in USED}
    return ", ".join(f"{count} {USED[split]}" for split, count in counts.items() if count)
