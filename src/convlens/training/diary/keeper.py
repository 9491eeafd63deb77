"""Keeps the diary while Lightning trains: closes epochs, writes the tables, fills checkpoints."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import fields
from functools import partial
from pathlib import Path

import numpy as np
import pytorch_lightning as L
from safetensors.numpy import save

from convlens.config.schema import DiaryConfig
from convlens.core.files import open_atomic
from convlens.core.stopwatch import count_seconds
from convlens.data.datamodule import PictureData
from convlens.data.pixels.dataset import Dataset
from convlens.training.diary.diary import Diary
from convlens.training.diary.presentations import Presentations
from convlens.training.diary.table import FILE, write_table
from convlens.training.module import ClassifierModule

COST = 0.01  # fraction of the training that writing the table after epochs may take
log = logging.getLogger("convlens")
KEY = "convlens_diary"  # in checkpoints


class DiaryKeeper(L.Callback):
    """Gives the module a diary, which its training steps fill.

    ``diary.csv`` is written at the end of every epoch, but seldomer if that would take more than
    ``COST`` of the training, and in any case at the end of the run. It must come before the
    callbacks that save.

    Args:
        config: the config group ``diary``.
        home: the run folder.

    Attributes:
        failure: why ``diary.csv`` is not that of the last epoch, in one line; empty if it is.
    """

    def __init__(self, config: DiaryConfig, home: Path):
        self.config, self.home = config, home
        self.failure = ""
        self._began = self._spent = 0.0
        self._written = 0  # epoch of the table

    def setup(self, trainer: L.Trainer, pl_module: ClassifierModule, stage: str) -> None:
        if stage == "fit":
            data: PictureData = trainer.datamodule
            images = data.dataset.splits["train"]
            pl_module.diary = Diary(
                images.targets, images.names, data.class_names,
                double=trainer.precision == "64-true", copies=find_copies(data.dataset),
            )  # fmt: skip

    def on_train_start(self, trainer: L.Trainer, pl_module: ClassifierModule) -> None:
        self._began, self._spent, self._written = time.perf_counter(), 0.0, 0
        self._write(trainer, pl_module.diary)  # a killed run, or a full disk, left an earlier one

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: ClassifierModule) -> None:
        diary, epoch = pl_module.diary, trainer.current_epoch + 1
        found = diary.close_epoch(epoch)
        with count_seconds("diary"):
            until_now = time.perf_counter() - self._began
            if not self._written or self._spent <= COST * until_now:
                self._write(trainer, diary)
            if found is not None and self.config.rows:
                self._save(trainer, partial(write_rows, self.home / "diary", epoch, found))

    def on_train_end(self, trainer: L.Trainer, pl_module: ClassifierModule) -> None:
        if self._written != pl_module.diary.epoch:
            self._write(trainer, pl_module.diary)

    def _write(self, trainer: L.Trainer, diary: Diary) -> None:
        if diary.epoch:
            began, before, self.failure = time.perf_counter(), self.failure, ""
            table = partial(write_table, self.home / FILE, diary)
            self._save(trainer, table, quiet=bool(before))
            self._written = diary.epoch
            self._spent += time.perf_counter() - began

    def _save(self, trainer: L.Trainer, write: Callable[[], None], *, quiet: bool = False) -> None:
        """Write a file, in the first process of a run that keeps anything."""
        if not trainer.is_global_zero or trainer.fast_dev_run:
            return
        try:
            write()
        except OSError as error:
            self.failure = f"{self.home / FILE} is not of the last epoch ({error.strerror})"
            if not quiet:
                log.warning("%s: free disk space; training continues", self.failure)

    def on_save_checkpoint(self, trainer, pl_module, checkpoint: dict) -> None:
        checkpoint[KEY] = pl_module.diary.state()

    def on_load_checkpoint(self, trainer, pl_module, checkpoint: dict) -> None:
        state = checkpoint.get(KEY)
        if not isinstance(state, dict) or not pl_module.diary.load(state):
            log.warning(
                "the checkpoint has no diary of these images: diary.csv begins after epoch %s",
                checkpoint.get("epoch", 0) + 1,
            )


def find_copies(dataset: Dataset) -> dict[int, int]:
    """Return, by position of a training image, one that looks the same and has another label."""
    copies: dict[int, int] = {}
    for each in dataset.conflicts:
        (one, first), (other, second) = each.first, each.second
        if one == other == "train":
            copies.setdefault(first, second)
            copies.setdefault(second, first)
    return copies


def write_rows(folder: Path, epoch: int, found: Presentations) -> None:
    """Write every presentation of an epoch to ``diary/epoch_<n>.safetensors``, whole or not at all.

    Raises:
        OSError: the file cannot be written.
    """
    folder.mkdir(exist_ok=True)
    columns = {each.name: np.ascontiguousarray(getattr(found, each.name)) for each in fields(found)}
    with open_atomic(folder / f"epoch_{epoch:03d}.safetensors", "wb") as file:
        file.write(save(columns))
