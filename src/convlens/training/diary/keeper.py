"""Keeps the diary while Lightning trains: closes epochs, writes the tables, fills checkpoints."""

from __future__ import annotations

import logging
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytorch_lightning as L
from safetensors.numpy import save

from convlens.config.schema import DiaryConfig
from convlens.core.files import open_atomic
from convlens.core.stopwatch import count_seconds
from convlens.data.datamodule import PictureData
from convlens.training.diary.diary import Diary
from convlens.training.diary.presentations import Presentations
from convlens.training.diary.table import FILE, write_table
from convlens.training.module import ClassifierModule

log = logging.getLogger("convlens")
KEY = "convlens_diary"  # in checkpoints


class DiaryKeeper(L.Callback):
    """Gives the module a diary, which its training steps fill.

    It must come before the callbacks that look, and before those that save.

    Args:
        config: the config group ``diary``.
        home: the run folder.

    Attributes:
        failure: why ``diary.csv`` is not that of the last epoch, in one line; empty if it is.
    """

    def __init__(self, config: DiaryConfig, home: Path):
        self.config, self.home = config, home
        self.failure = ""

    def setup(self, trainer: L.Trainer, pl_module: ClassifierModule, stage: str) -> None:
        if stage == "fit":
            data: PictureData = trainer.datamodule
            images = data.dataset.splits["train"]
            pl_module.diary = Diary(
                images.targets, images.names, data.class_names,
                double=trainer.precision == "64-true",
            )  # fmt: skip

    def on_train_start(self, trainer: L.Trainer, pl_module: ClassifierModule) -> None:
        if pl_module.diary.epoch and trainer.is_global_zero:
            self._write(pl_module.diary)  # a full disk may have left it behind

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: ClassifierModule) -> None:
        diary, epoch = pl_module.diary, trainer.current_epoch + 1
        with count_seconds("diary"):
            found = diary.close_epoch(epoch)
            if trainer.is_global_zero and not trainer.fast_dev_run and found is not None:
                self._write(diary, found)

    def _write(self, diary: Diary, found: Presentations | None = None) -> None:
        before, self.failure = self.failure, ""
        try:
            write_table(self.home / FILE, diary)
            if found is not None and self.config.rows:
                write_rows(self.home / "diary", diary.epoch, found)
        except OSError as error:
            self.failure = f"{self.home / FILE} is not of the last epoch ({error.strerror})"
            if not before:
                log.warning("%s: free disk space; training continues", self.failure)

    def on_save_checkpoint(self, trainer, pl_module, checkpoint: dict) -> None:
        checkpoint[KEY] = pl_module.diary.state()

    def on_load_checkpoint(self, trainer, pl_module, checkpoint: dict) -> None:
        state = checkpoint.get(KEY)
        if state is None or not pl_module.diary.load(state):
            log.warning(
                "the checkpoint has no diary of these images: diary.csv begins after epoch %s",
                checkpoint.get("epoch", 0) + 1,
            )


def write_rows(folder: Path, epoch: int, found: Presentations) -> None:
    """Write every presentation of an epoch to ``diary/epoch_<n>.safetensors``, whole or not at all.

    Raises:
        OSError: the file cannot be written.
    """
    folder.mkdir(exist_ok=True)
    columns = {each.name: np.ascontiguousarray(getattr(found, each.name)) for each in fields(found)}
    with open_atomic(folder / f"epoch_{epoch:03d}.safetensors", "wb") as file:
        file.write(save(columns))
