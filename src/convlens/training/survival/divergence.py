"""End the run at once if the loss is NaN or infinite, before a checkpoint stores bad weights."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytorch_lightning as L
import torch
from torch import Tensor

from convlens.core.errors import SharedError
from convlens.core.host_copy import HostCopy

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
    wait for each step, so the losses of ``log_every_n_steps`` steps are checked together; and
    devices only when as many further steps are under way, or at the end of the epoch. The
    validation loss of every epoch is checked before its checkpoint is written: the last step may
    ruin the weights although its loss is finite. It must come before the callbacks that log and
    save.

    Raises:
        SharedError: in every process; names epoch, step, images and learning rates.
    """

    def __init__(self):
        self._steps: list[Step] = []
        self._unread: list[tuple[list[Step], HostCopy]] = []

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._steps, self._unread = [], []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        step = Step(batch_idx, batch["row"], outputs["loss"].detach())
        on_cpu = pl_module.device.type == "cpu"
        if on_cpu and trainer.world_size == 1:
            if not math.isfinite(step.loss):
                self._stop(trainer, step)
            return
        self._steps.append(step)
        last = batch_idx + 1 == trainer.num_training_batches
        if last or not (batch_idx + 1) % trainer.log_every_n_steps:
            self._read(trainer)
            self._unread.append((self._steps, self._begin_check(trainer)))
            self._steps = []
            if last or on_cpu:
                self._read(trainer)

    def _begin_check(self, trainer: L.Trainer) -> HostCopy:
        """Return whether any process has a bad loss, followed by which steps of this one have."""
        bad = ~torch.stack([step.loss for step in self._steps]).isfinite()
        flag = bad.any().int().reshape(1)
        if trainer.world_size > 1:
            torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX)
        return HostCopy(torch.cat([flag, bad.int()]))

    def _read(self, trainer: L.Trainer) -> None:
        """End the run if a check that has begun finds a bad loss."""
        unread, self._unread = self._unread, []
        for steps, check in unread:
            flag, *bad = check.read().tolist()
            if flag:
                self._stop(trainer, steps[bad.index(1)] if any(bad) else None)

    def _stop(self, trainer: L.Trainer, step: Step | None) -> None:
        line = "" if step is None else _describe_step(trainer, step)
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
    groups = trainer.optimizers[0].param_groups
    each = [f"{group.get('name', 'model')} {group['lr']:g}" for group in groups]
    rates = ", ".join(dict.fromkeys(each))  # a group may be two: decayed, and not
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
