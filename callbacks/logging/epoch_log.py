"""Logs the scalars of each epoch, all at the number of completed epochs."""

from __future__ import annotations

import contextlib
import logging
import time
from pathlib import Path
from typing import cast

import pytorch_lightning as L
from convlens.callbacks.ledger import Ledger
from convlens.callbacks.logging.writing import find_event_loggers, write_numbers

from convlens.core.files import open_atomic
from convlens.core.host_copy import HostCopy
from convlens.core.progress import progress_bar
from convlens.core.stopwatch import count_seconds, get_stopwatch
from convlens.data.datamodule import PictureData
from convlens.data.index.tables import format_csv_line
from convlens.training import ClassifierModule

log = logging.getLogger("convlens")


class EpochLog(L.Callback):
    """Writes each epoch's scalars to all loggers, to ``metrics.csv`` and, as a line, to the screen.

    Step 0 is the network before training: the usual validation, and the training loss on as many
    training images as there are validation images, each class in proportion, unaugmented and in
    evaluation mode. Lightning's own logging is not used, because it counts optimiser steps; only
    ``train_step/loss`` uses these.

    ``convlens.callbacks.Looks`` calls ``begin``, ``end_epoch`` and ``end_training`` after the
    looks, when their scores and cost are known.

    Args:
        file: ``metrics.csv``.
        ledger: the scores and the cost of explanations.

    Attributes:
        history: one dictionary of scalars per epoch, from epoch 0.
        pictures_seen: training images so far, over all processes.
        failure: why ``metrics.csv`` lacks its last rows, in one line; empty if it does not.
    """

    def __init__(self, file: Path, ledger: Ledger):
        self.file, self.ledger = file, ledger
        self.history: list[dict[str, float]] = []
        self.pictures_seen = 0
        self.failure = ""
        self._epoch_began = self._before = 0.0
        self._validating = contextlib.ExitStack()
        self._looked_before = 0.0
        self._open = False  # whether an epoch is under way
        self._unread: list[tuple[int, HostCopy]] = []  # optimiser steps, and their losses

    # --- the network before training

    def begin(self, trainer: L.Trainer, module: ClassifierModule) -> None:
        """Write the row of the network before training, or continue a stopped run."""
        _lay_out_charts(trainer)
        if trainer.current_epoch > 0 or trainer.global_step > 0:
            if trainer.is_global_zero and self.history:
                self._write_table()  # a full disk may have left rows out
        else:
            with count_seconds("validation"), progress_bar("evaluating the untrained network"):
                self._measure_untrained(trainer, module)
        get_stopwatch().switch_to("training")

    def _measure_untrained(self, trainer: L.Trainer, module: ClassifierModule) -> None:
        data = cast(PictureData, getattr(trainer, "datamodule", None))
        count = len(data.dataset.splits["validation"])
        if getattr(trainer, "fast_dev_run", False):
            count = min(count, data.eval_batch_size * trainer.world_size)
        values: dict[str, float] = {}
        for stage, split in (("val", "validation"), ("train", "train")):
            results = module.evaluate(data.evaluation_loader(split, count), data.finish)
            scalars = results if stage == "val" else {k: results[k] for k in ("loss", "accuracy")}
            values |= {f"{stage}/{name}": value for name, value in scalars.items()}
        module.set_rates(trainer.optimizers[0], 0.0)
        self._write(trainer, values, 0)

    # --- epochs

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # an interrupted epoch has used some of its seconds already
        self._epoch_began = time.perf_counter() - self._before
        self._open, self._before = True, 0.0
        self._looked_before = self.ledger.total

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.pictures_seen += len(batch["label"]) * trainer.world_size
        # several batches may accumulate into one step, of which the last one is logged
        number = batch_idx + 1
        is_step = (
            number == trainer.num_training_batches or not number % trainer.accumulate_grad_batches
        )
        if is_step and trainer.global_step % trainer.log_every_n_steps == 0:
            self._unread.append((trainer.global_step, HostCopy(outputs["mean"])))
            # another device is still computing this loss: it is written with the next one
            self._write_losses(trainer, leave=int(pl_module.device.type != "cpu"))

    def _write_losses(self, trainer: L.Trainer, *, leave: int = 0) -> None:
        """Write the losses of steps, but for the ``leave`` latest."""
        while len(self._unread) > leave:
            step, loss = self._unread.pop(0)
            write_numbers(trainer, {"train_step/loss": float(loss.read())}, step)

    def on_save_checkpoint(self, trainer, pl_module, checkpoint: dict) -> None:
        self._write_losses(trainer)  # a run that is resumed from it does not repeat these steps

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._validating.enter_context(count_seconds("validation"))

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._validating.close()

    def end_epoch(self, trainer: L.Trainer, module: ClassifierModule) -> None:
        """Write the row of an epoch that ends."""
        self._write_losses(trainer)
        module.publish("train", module.train_metrics)
        self._open = False
        looking = self.ledger.total - self._looked_before
        seconds = time.perf_counter() - self._epoch_began
        clock = trainer.current_epoch + 1
        values = {k: v for k, v in module.results.items() if k.startswith(("train/", "val/"))}
        values |= {"explain/seconds": looking}
        self._write(trainer, values, clock)
        if trainer.is_global_zero:
            log.info(
                "epoch %d/%s  loss %.4f val %.4f  accuracy %.4f val %.4f  %.1f s",
                clock, trainer.max_epochs, values["train/loss"], values["val/loss"],
                values["train/accuracy"], values["val/accuracy"], seconds,
            )  # fmt: skip
            log.debug("epoch %d: looking took %.1f s of it", clock, looking)

    def end_training(self, trainer: L.Trainer) -> None:
        """Add the scores of the looks at the end to the last row."""
        if not self.history:
            return
        row = self.history[-1]
        scores = self.ledger.scores.get(int(row["epoch"]), {})
        if scores.items() <= row.items():
            return
        self.history = [*self.history[:-1], {**row, **scores}]
        if trainer.is_global_zero and not getattr(trainer, "fast_dev_run", False):
            self._write_table()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        get_stopwatch().switch_to("closing")

    # --- the tested network

    def log_test(self, trainer: L.Trainer, results: dict[str, float], clock: int) -> None:
        """Write the ``test/…`` scalars at the epoch whose network was tested."""
        tested = {k: v for k, v in results.items() if k.startswith("test/")}
        write_numbers(trainer, tested, clock)
        for logger in trainer.loggers:
            logger.save()

    # --- writing

    def _write(self, trainer: L.Trainer, values: dict[str, float], clock: int) -> None:
        for optimizer in trainer.optimizers:
            for group in optimizer.param_groups:
                values[f"lr/{group.get('name', 'model')}"] = group["lr"]
        # the scores have already been sent to the loggers
        row = {"epoch": clock, **values, **self.ledger.scores.get(clock, {})}
        self.history = [*self.history[:clock], row]
        write_numbers(trainer, values, clock)
        if trainer.is_global_zero and not getattr(trainer, "fast_dev_run", False):
            self._write_table()

    def _write_table(self) -> None:
        """Replace the table as a whole: a kill leaves the old one or the new one.

        Checkpoints hold the rows too, so after a full disk a later epoch, or a resumed run, writes
        what is missing.
        """
        columns = list(dict.fromkeys(key for row in self.history for key in row))
        columns.sort(key="explain/seconds".__eq__)  # last: the one number that no run repeats
        rows = ([str(row.get(key, "")) for key in columns] for row in self.history)
        before = self.failure
        try:
            with open_atomic(self.file, newline="") as table:
                table.writelines(format_csv_line(row) for row in (columns, *rows))
            self.failure = ""
        except OSError as error:
            self.failure = f"{self.file} lacks its last rows ({error.strerror}): free disk space"
            if not before:
                log.warning("%s; training continues", self.failure)

    def state_dict(self) -> dict:
        return {
            "history": self.history,
            "seconds": get_stopwatch().seconds(),
            "pictures_seen": self.pictures_seen,
            "into_epoch": time.perf_counter() - self._epoch_began if self._open else 0.0,
        }

    def load_state_dict(self, state_dict: dict) -> None:
        self.history = state_dict["history"]
        get_stopwatch().add(state_dict["seconds"])  # those of all parts of a resumed run
        self.pictures_seen = state_dict["pictures_seen"]
        self._before = state_dict.get("into_epoch", 0.0)


def _lay_out_charts(trainer: L.Trainer) -> None:
    """Show training and validation in one chart (TensorBoard's custom scalars)."""
    layout = {
        "training against validation": {
            name: ["Multiline", [f"train/{name}$", f"val/{name}$"]] for name in ("loss", "accuracy")
        }
    }
    for logger in find_event_loggers(trainer) if trainer.is_global_zero else ():
        logger.experiment.add_custom_scalars(layout)
