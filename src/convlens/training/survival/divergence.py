"""End the run at once if the loss is NaN or infinite, before a checkpoint stores bad weights."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytorch_lightning as L
import torch
from torch import Tensor

from convlens.core.errors import SharedError

NAMED = 3  # images named in the message


@dataclass
class Step:
    """A step whose loss is not checked yet.

    Attributes:
        batch: number of the batch in the epoch, from 0.
        rows: rows of its images in the split.
        loss: its loss, a scalar.
    """

    batch: int
    rows: Tensor
    loss: Tensor


class Divergence(L.Callback):
    """Stops when a loss is NaN or infinite; the checkpoints stay those of the last good epoch.

    On the CPU every step's loss is checked. Other devices, and several processes, would have to
    wait for each step, so the losses of ``log_every_n_steps`` steps are checked together. The
    validation loss of every epoch is checked before its checkpoint is written: the last step may
    ruin the weights although its loss is finite. It must come before the callbacks that log and
    save.

    Raises:
        SharedError: in every process; names epoch, step, images and learning rates.
    """

    def __init__(self):
        self._steps: list[Step] = []

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._steps = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self._steps.append(Step(batch_idx, batch["row"], outputs["loss"].detach()))
        alone = trainer.world_size == 1 and pl_module.device.type == "cpu"
        every = 1 if alone else trainer.log_every_n_steps
        last = batch_idx + 1 == trainer.num_training_batches
        if last or not (batch_idx + 1) % every:
            self._check(trainer)

    def _check(self, trainer: L.Trainer) -> None:
        steps, self._steps = self._steps, []
        bad = ~torch.stack([step.loss for step in steps]).isfinite()
        flag = bad.any().int().reshape(1)
        if trainer.world_size > 1:
            torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX)
        if not flag:
            return
        line = _describe_step(trainer, steps[int(bad.int().argmax())]) if bad.any() else ""
        if trainer.world_size > 1:
            lines = [None] * trainer.world_size
            torch.distributed.all_gather_object(lines, line)
            line = next(filter(None, lines))
        raise SharedError(f"{line}; {_describe_remedies(trainer)}")

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        loss = pl_module.results.get("val/loss", 0.0)
        if not math.isfinite(loss):
            raise SharedError(
                f"the validation loss is {loss} after epoch {trainer.current_epoch + 1}; "
                f"{_describe_remedies(trainer)}"
            )


def _describe_step(trainer: L.Trainer, step: Step) -> str:
    """Describe where the loss stopped being finite."""
    rows = step.rows.cpu().tolist()
    names = trainer.datamodule.dataset.splits["train"].names
    listed = ", ".join(str(names[row]) for row in rows[:NAMED])
    more = f" and {len(rows) - NAMED} more" if len(rows) > NAMED else ""
    number = trainer.current_epoch * trainer.num_training_batches + step.batch + 1
    return (
        f"the training loss is {float(step.loss)} in epoch {trainer.current_epoch + 1}, batch "
        f"{step.batch + 1} of {trainer.num_training_batches} (step {number}; {listed}{more})"
    )


def _describe_remedies(trainer: L.Trainer) -> str:
    """Describe the learning rates, the checkpoints that are kept, and what to try."""
    rates = ", ".join(
        f"{group.get('name', 'model')} {group['lr']:g}"
        for group in trainer.optimizers[0].param_groups
    )
    kept = (
        f"the checkpoints are of epoch {trainer.current_epoch}"
        if trainer.current_epoch
        else "there is no checkpoint yet"
    )
    full_precision = ", precision=32" * trainer.precision.endswith("mixed")
    return (
        f"learning rates: {rates}; {kept}; try a lower learning rate, "
        f"training.gradient_clip=1{full_precision}; check these images"
    )
