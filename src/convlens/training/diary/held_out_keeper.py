"""Keeps the suspects of validation and test while Lightning evaluates, and writes their table."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as L

from convlens.core.command_lines import command_line
from convlens.core.files import open_atomic
from convlens.data.datamodule import PictureData
from convlens.data.index.tables import format_csv_line
from convlens.training.diary.held_out import HeldOutSuspects, OpenPass
from convlens.training.module import ClassifierModule

FILE = "suspects.csv"
KEY = "convlens_suspects"  # in checkpoints: those of validation, by the weights beside them
log = logging.getLogger("convlens")


class HeldOutKeeper(L.Callback):
    """Writes ``suspects.csv`` after the test: suspects of validation and test images.

    Checkpoints keep those of validation, so that they are those of the network that is tested, also
    if a run is resumed after its best epoch.

    Args:
        home: the run folder.

    Attributes:
        found: the suspects by split.
        failure: why the table was not written, in one line; empty if it was.
    """

    def __init__(self, home: Path):
        self.home = home
        self.found: dict[str, HeldOutSuspects | None] = {}
        self.failure = ""
        self._open = OpenPass()

    def load(self, checkpoint: Mapping[str, Any]) -> None:
        """Take over the suspects of validation from the checkpoint that is tested."""
        self.found["validation"] = None
        try:
            self.found["validation"] = HeldOutSuspects.from_state(checkpoint[KEY])
        except (KeyError, TypeError, AttributeError):  # of an earlier version, or without a diary
            log.warning("%s has no validation images: the best checkpoint lists none", FILE)

    def on_save_checkpoint(self, trainer, pl_module, checkpoint: dict) -> None:
        if (found := self.found.get("validation")) is not None:
            checkpoint[KEY] = found.to_state()

    def on_validation_batch_end(
        self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0
    ) -> None:
        self._open.take(outputs["logits"], batch)

    def on_validation_end(self, trainer: L.Trainer, pl_module: ClassifierModule) -> None:
        self._close("validation", pl_module.calibrator.temperature)

    def on_test_batch_end(
        self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0
    ) -> None:
        self._open.take(outputs["logits"], batch)

    def on_test_end(self, trainer: L.Trainer, pl_module: ClassifierModule) -> None:
        self._close("test", pl_module.calibrator.temperature)
        if not trainer.is_global_zero or trainer.fast_dev_run:
            return
        data: PictureData = trainer.datamodule
        try:
            write_table(self.home / FILE, self.found, data)
        except OSError as error:
            self.failure = f"{self.home / FILE} was not written ({error.strerror})"
            log.warning("%s: free disk space", self.failure)
        if line := describe(self.found, self.home):
            log.info(line)

    def _close(self, split: str, temperature: float) -> None:
        self.found[split], self._open = self._open.close(temperature), OpenPass()


def write_table(file: Path, found: Mapping[str, HeldOutSuspects | None], data: PictureData) -> None:
    """Write the suspects of each split, completely or not at all.

    Raises:
        OSError: the file cannot be written.
    """
    with open_atomic(file, errors="surrogateescape", newline="") as table:
        table.writelines(_lines(found, data))


def _lines(found: Mapping[str, HeldOutSuspects | None], data: PictureData) -> Iterator[str]:
    names, several = data.class_names, data.dataset.splits["test"].present is not None
    more = (
        ("margin", "probability") if several else ("margin", "probability", "other", "confidence")
    )
    yield format_csv_line(["split", "file", "class", *["labelled"] * several, *more])
    for split, each in found.items():
        if each is None:
            continue
        images = data.dataset.splits[split]
        for n, (row, label) in enumerate(np.stack([each.rows, each.classes], axis=1).tolist()):
            cells = [split, str(images.names[row]), names[label]]
            if several:
                cells.append("present" if images.present[row, label] else "absent")
            cells += [f"{each.margins[n]:.6g}", f"{each.given[n]:.6g}"]
            if not several:
                cells += [names[each.others[n]], f"{each.named[n]:.6g}"]
            yield format_csv_line(cells)


def describe(found: Mapping[str, HeldOutSuspects | None], home: Path) -> str:
    """Return a line on the suspects, or "" if there are none.

    Args:
        found: the suspects by split.
        home: the run folder.
    """
    known = {split: each for split, each in found.items() if each is not None and each.count}
    if not known:
        return ""
    parts = (
        f"{each.count} of {each.total} {split} (chance gives {each.by_chance:.0f})"
        for split, each in known.items()
    )
    again = command_line("review", run=home, split=next(iter(known)))
    line = f"labels that the network contradicts firmly: {', '.join(parts)}; {FILE} has them"
    short = [split for split, each in known.items() if each.count > len(each.rows)]
    if short:
        line += f", in {' and '.join(short)} the first {len(known[short[0]].rows)}"
    return f"{line}; go through them with `{again}`"
