"""Lightning's trainer for a run, and the lines for one that does not come to its own end."""

from __future__ import annotations

import contextlib
import logging
import signal
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytorch_lightning as L
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import Logger

from convlens.callbacks import (
    Alarms,
    EpochLog,
    EventLogger,
    HParams,
    Ledger,
    Looks,
    ProgressBar,
)
from convlens.callbacks.answers import AnswerBook
from convlens.callbacks.logging.hparams import Settings
from convlens.config.schema import Config, TrainerConfig
from convlens.core.errors import Interrupted, UserError
from convlens.core.processes import first_process
from convlens.experiment.assemble import Run
from convlens.experiment.callback import loggers_of
from convlens.experiment.devices import check_devices, devices_here, lightning
from convlens.training.precision import PRECISIONS
from convlens.training.stopping import EarlyStop
from convlens.training.survival.checkpoint import STOPPED, WholeCheckpointIO, read_checkpoint
from convlens.training.survival.companions import Companions, broken_off
from convlens.training.survival.divergence import Divergence
from convlens.training.survival.interruption import Interruption, Reopening

log = logging.getLogger("convlens")


def trainer_of(
    run: Run, home: Path, resumed: bool
) -> tuple[L.Trainer, EpochLog, ModelCheckpoint | None]:
    """The trainer with loggers and callbacks; one of them lets the explanations look."""
    config = run.config
    devices, precision = config.trainer, str(config.precision)
    if resumed:
        devices, precision, line = devices_here(devices, precision)
        if line:
            log.warning(line)
    else:
        check_devices(devices)
    training = config.training
    ledger, answers = ledger_of(config), AnswerBook()
    epoch_log = EpochLog(home / "metrics.csv", ledger)
    looks = Looks(run.explanations, ledger=ledger, answers=answers, epoch_log=epoch_log)
    interruption = Interruption(home / "checkpoints" / STOPPED)
    callbacks: list[L.Callback] = [
        Companions(f"`make resume run={home}` goes on"), interruption, Divergence(), run.phases,
        looks, *run.explanations, epoch_log, *run.others,
    ]  # fmt: skip
    keeper = None
    if training.early_stopping:
        callbacks.append(
            EarlyStop("val/loss", patience=training.early_stopping, check_on_train_epoch_end=True)
        )
    if not devices.fast_dev_run:
        looks.alarms = Alarms(config.alarms, run.data.class_names, ledger, answers)
        callbacks += [looks.alarms, HParams(settings_of(config))]
        where = {"dirpath": home / "checkpoints", "enable_version_counter": False}
        keeper = ModelCheckpoint(
            filename="best", monitor="val/loss", mode="min", save_on_train_epoch_end=True, **where
        )
        # a callback of its own, and after the best: Lightning's `save_last` writes last.ckpt only
        # in epochs that were the best so far (2.6), and a kill between the two files shall leave
        # an older last, from which the best is found again
        last = ModelCheckpoint(filename="last", save_on_train_epoch_end=True, **where)
        callbacks += [keeper, last]
    if sys.stdout.isatty():
        callbacks.append(ProgressBar())
    callbacks.append(Reopening(interruption))
    loggers: list[Logger] = []
    if config.logger.tensorboard:
        # events of an epoch that a killed run did not finish must not show twice
        purge = {"purge_step": completed_epochs(home) + 1} if resumed else {}
        loggers.append(
            EventLogger(home, name="", version="tensorboard", default_hp_metric=False, **purge)
        )
    loggers += loggers_of(config.logger)
    trainer = lightning(
        **devices.plain(),
        max_epochs=training.epochs,
        precision=PRECISIONS[precision],
        gradient_clip_val=training.gradient_clip,
        accumulate_grad_batches=training.accumulate,
        val_check_interval=1.0 / training.validations,
        logger=loggers or False,
        callbacks=callbacks,
        plugins=[WholeCheckpointIO()],
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        enable_progress_bar=sys.stdout.isatty(),
        enable_model_summary=False,
        enable_checkpointing=keeper is not None,
    )
    return trainer, epoch_log, keeper


def settings_of(config: Config) -> Settings:
    """What a config says of a run to those who tell runs apart by it."""
    return Settings(**{each.name: getattr(config, each.name) for each in fields(Settings)})


def ledger_of(config: Config) -> Ledger:
    """What looking may cost; a dry run has no time of its own before and after training."""
    looking = config.looking
    free = (looking.first_seconds, looking.last_seconds)
    if config.trainer.fast_dev_run:
        free = (looking.seconds, looking.seconds)
    return Ledger(config.callbacks.budget, looking.seconds, *free)


def local_processes(asked: TrainerConfig) -> int:
    """How many processes the config group ``trainer`` starts on a machine such as this one.

    1 where Lightning finds its devices missing: a run elsewhere may be planned here.
    """
    named = asked.plain() | {"fast_dev_run": False}
    try:
        return lightning(**named, logger=False, enable_checkpointing=False).num_devices
    except UserError:
        return 1


def completed_epochs(home: Path) -> int:
    """Epochs that the last checkpoint of a run holds."""
    last = home / "checkpoints" / "last.ckpt"
    if not last.exists():
        return 0
    return read_checkpoint(last)["epoch"] + 1


@contextlib.contextmanager
def ending(trainer: L.Trainer, home: Path) -> Iterator[None]:
    """The lines for a run that does not come to its own end.

    Raises:
        Interrupted: a signal ended it.
        UserError: one of several processes died.
    """
    companions = next(c for c in trainer.callbacks if isinstance(c, Companions))
    interruption = next(c for c in trainer.callbacks if isinstance(c, Interruption))
    number = 0
    try:
        yield
    except SystemExit as error:
        # Lightning's way out after a signal; what it was raised for comes with it
        if not trainer.interrupted:
            raise
        number = getattr(error.__context__, "status", 128 + signal.SIGINT) - 128
    except RuntimeError as error:
        line = companions.fallen()
        if line:
            companions.end()
            raise UserError(line) from error
        if not first_process() and broken_off(error):
            raise SystemExit(1) from error  # another one fell, and the first one says so
        raise
    number = interruption.came or number
    if number:
        stopped = f"stopped by {signal.Signals(number).name} "
        if trainer.fast_dev_run:
            raise Interrupted(f"{stopped}in a dry run, of which nothing is kept", 128 + number)
        raise Interrupted(
            f"{stopped}{_how_far(trainer, interruption.file)}; `make resume run={home}` goes on "
            f"from there",
            128 + number,
        )


def _how_far(trainer: L.Trainer, stopped: Path) -> str:
    epochs = f"after {trainer.current_epoch} of {trainer.max_epochs} epochs"
    if not stopped.exists():
        return epochs
    done = trainer.fit_loop.epoch_loop.batch_progress.current.completed
    return f"{epochs} and {done} of {trainer.num_training_batches} batches"
