"""Build the data of a config, and find which images earlier runs have used."""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from convlens.config.checks import replace_values
from convlens.config.schema import Config
from convlens.data.datamodule import PictureData
from convlens.data.index.files import Files
from convlens.data.pixels.contents import FileDigests
from convlens.data.sources.corrections import COPY
from convlens.data.sources.source import Index
from convlens.data.split_record import USED, SplitRecord
from convlens.data.unchanged import PLACES
from convlens.experiment.inputs import find_run_folder, is_exported
from convlens.models.weights_file import load_data
from convlens.rundir.paths import holds_run
from convlens.rundir.read import read_config

log = logging.getLogger("convlens")


def build_data(
    config: Config, before: np.ndarray | None = None, index: Index | None = None
) -> PictureData:
    """Return the data of a config.

    Args:
        config: resolved.
        before: digests of images that are excluded from the test split.
        index: the images to use instead of those that the config names.
    """
    training = config.training
    return PictureData(
        config.data,
        seed=config.seed,
        batch_size=training.batch_size,
        eval_batch_size=training.eval_batch_size,
        steps_per_epoch=training.steps_per_epoch,
        per_device=training.batch_size_is == "per_device",
        balanced=training.sampler == "balanced",
        index=index,
        before=before,
    )


def use_own_corrections(config: Config, checkpoint: Path | None) -> Config:
    """Return the config with the table of corrections that the run folder of a checkpoint keeps.

    The user's own table may have changed since, moved or be gone.

    Args:
        config: the config of the run.
        checkpoint: a checkpoint; None for a new run, which has no table of its own yet.
    """
    home = None if checkpoint is None else find_run_folder(checkpoint)
    if home is None or not config.data.corrections or not (home / COPY).is_file():
        return config
    return replace_values(config, {"data.corrections": str(home / COPY)})


def use_own_places(config: Config, checkpoint: Path) -> Config:
    """Return the config with the data's paths of the run folder, which may have changed since.

    Args:
        config: the config in the checkpoint.
        checkpoint: the checkpoint.
    """
    config, home = use_own_corrections(config, checkpoint), find_run_folder(checkpoint)
    if home is None or not holds_run(home):
        return config
    places = read_config(home).data_keys(config.data.name)
    known = {place for place in PLACES if place.removeprefix("data.") in config.data.key_names}
    return replace_values(config, {key: places[key] for key in places if key in known})


def read_used_digests(config: Config, start: Path | None) -> np.ndarray:
    """Return the digests of images used by earlier runs whose weights a run starts from.

    Args:
        config: config of the run; ``model.weights`` may be the checkpoint of another run.
        start: the checkpoint of a resumed run, which contains these digests; None for a new run.
    """
    path, none = start or Path(config.model.weights).expanduser(), np.zeros(0, np.int64)
    if not path.is_file() or not zipfile.is_zipfile(path):
        return none
    try:
        content = load_data(path, mmap=True)
    except Exception:  # unpickling may raise anything; loading the weights reports the error
        return none
    content = content if isinstance(content, dict) else {}
    record = SplitRecord.from_state(content.get(PictureData.__qualname__), str(path))
    if record is not None:
        return record.before if start else record.used
    if "hyper_parameters" in content and not start:
        log.warning(
            f"{path} does not record which images its run was trained on: this run's test images "
            f"may be among them"
        )
    return none


def describe_used_images(files: Sequence[Path], checkpoint: Path) -> str:
    """Return a line about the files that a checkpoint's run was trained or validated on.

    The line is empty if there are none, or if the checkpoint has no record of its images, as an
    exported file has none.

    Raises:
        UserError: the checkpoint's record cannot be read.
    """
    if is_exported(checkpoint):
        return ""
    content = load_data(checkpoint, mmap=True)  # reads only the record, not the weights
    record = SplitRecord.from_state(content.get(PictureData.__qualname__), str(checkpoint))
    if record is None:
        return ""
    used = record.find_uses(FileDigests(Files.of(files), None).get())
    if not used.any():
        return ""
    count, example = np.sum(used != ""), files[int(np.argmax(used != ""))]
    return (
        f"{count} of {len(files)} images were used by the run ({describe_uses(used)}), such as "
        f"{example}: results on them say nothing about new images"
    )


def describe_uses(used: np.ndarray) -> str:
    """Return how many images were used in which way, such as ``3 trained on, 1 validated on``."""
    counts = {split: int(np.sum(used == split)) for split in USED}
    return ", ".join(f"{count} {USED[split]}" for split, count in counts.items() if count)
