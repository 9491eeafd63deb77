"""Lightning's trainer for a run: built, at work, and when it does not come to the run's own end."""

from __future__ import annotations

import contextlib
import logging
import signal
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytorch_lightning as L
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import Logger

from convlens import callbacks as ours
from convlens.callbacks import EpochLog, Ledger, Looks
from convlens.callbacks.logging.hparams import Settings
from convlens.callbacks.predictions import PredictionBook
from convlens.config.schema import Config
from convlens.core.errors import Interrupted, UserError
from convlens.core.processes import is_first_process
from convlens.experiment.assemble import Run, instantiate_custom
from convlens.experiment.devices import adapt_devices, check_devices, lightning
from convlens.experiment.resume import Start
from convlens.training.precision import PRECISIONS
from convlens.training.stopping import EarlyStop
from convlens.training.survival.checkpoint import (
    STOPPED,
    WholeCheckpointIO,
    find_checkpoint_to_resume,
    read_checkpoint,
)
from convlens.training.survival.companions import Companions, is_process_lost
from convlens.training.survival.divergence import Divergence
from convlens.training.survival.interruption import Interruption, Reopening

log = logging.getLogger("convlens")


def find_start(home: Path | None) -> Start | None:
    """Where the run in a folder goes on; None for a new run, and for one without a checkpoint."""
    file = find_checkpoint_to_resume(home / "checkpoints") if home else None
    return None if file is None else Start(file, read_checkpoint(file))


def build_trainer(
    run: Run, home: Path, trained: int | None
) -> tuple[L.Trainer, EpochLog, ModelCheckpoint | None]:
    """The trainer with loggers and callbacks; one of them lets the explanations look.

    Args:
        trained: completed epochs of a resumed run; None of a new one.
    """
    config, training = run.config, run.config.training
    devices, precision = config.trainer, str(config.precision)
    if trained is None:
        check_devices(devices)
    else:
        devices, precision, line = adapt_devices(devices, precision)
        if line:
            log.warning(line)
    ledger, answers = _ledger(config), PredictionBook()
    epoch_log = EpochLog(home / "metrics.csv", ledger)
    looks = Looks(run.explanations, ledger=ledger, predictions=answers, epoch_log=epoch_log)
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
        looks.alarms = ours.Alarms(config.alarms, run.data.class_names, ledger, answers)
        where = {
            "dirpath": home / "checkpoints", "enable_version_counter": False,
            "save_on_train_epoch_end": True,
        }  # fmt: skip
        keeper = ModelCheckpoint(filename="best", monitor="val/loss", **where)
        # a callback of its own, and after the best: Lightning's `save_last` writes last.ckpt only
        # in epochs that were the best so far (2.6), and a kill between the two files shall leave
        # an older last, from which the best is found again
        last = ModelCheckpoint(filename="last", **where)
        callbacks += [looks.alarms, ours.HParams(collect_settings(config)), keeper, last]
    if sys.stdout.isatty():
        callbacks.append(ours.ProgressBar())
    callbacks.append(Reopening(interruption))
    trainer = lightning(
        **devices.plain(),
        max_epochs=training.epochs,
        precision=PRECISIONS[precision],
        gradient_clip_val=training.gradient_clip,
        accumulate_grad_batches=training.accumulate,
        val_check_interval=1.0 / training.validations,
        logger=_loggers(config, home, trained) or False,
        callbacks=callbacks,
        plugins=[WholeCheckpointIO()],
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        enable_progress_bar=sys.stdout.isatty(),
        enable_model_summary=False,
        enable_checkpointing=keeper is not None,
    )
    return trainer, epoch_log, keeper


def collect_settings(config: Config) -> Settings:
    """What runs are told apart by in TensorBoard's HParams tab."""
    return Settings(**{each.name: getattr(config, each.name) for each in fields(Settings)})


def _ledger(config: Config) -> Ledger:
    """What looking may cost; a dry run has no time of its own before and after training."""
    looking = config.looking
    free = (looking.first_seconds, looking.last_seconds)
    if config.trainer.fast_dev_run:
        free = (looking.seconds, looking.seconds)
    return Ledger(config.callbacks.budget, looking.seconds, *free)


def _loggers(config: Config, home: Path, trained: int | None) -> list[Logger]:
    """TensorBoard's, and a person's own."""
    own = [
        instantiate_custom(f"logger.{name}", node, Logger)
        for name, node in config.logger.own.items()
    ]
    if not config.logger.tensorboard:
        return own
    # events of an epoch that a killed run did not finish must not show twice
    purge = {} if trained is None else {"purge_step": trained + 1}
    return [
        ours.EventLogger(home, name="", version="tensorboard", default_hp_metric=False, **purge),
        *own,
    ]


def fit(trainer: L.Trainer, run: Run, start: Start | None) -> None:
    """Train, with kernels that give the same bits every time."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    # the flag above also fills every new tensor; nothing of ours reads what it did not write
    torch.utils.deterministic.fill_uninitialized_memory = False
    trainer.fit(run.module, datamodule=run.data, ckpt_path=start and start.file, weights_only=True)


def run_test(trainer: L.Trainer, run: Run, checkpoint: str | None) -> dict[str, float]:
    """Test results, ``test/…``, of a checkpoint of the run, or of the network as it is.

    Only the weights are loaded: with ``ckpt_path`` Lightning would also put the callbacks back to
    the best epoch, and the history behind it would be lost.
    """
    if checkpoint:
        run.module.load_state_dict(read_checkpoint(checkpoint)["state_dict"])
    trainer.test(run.module, datamodule=run.data, verbose=False)
    return {k: v for k, v in run.module.results.items() if k.startswith("test/")}


@contextlib.contextmanager
def handle_endings(trainer: L.Trainer, home: Path) -> Iterator[None]:
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
        if line := companions.describe_failure():
            companions.end()
            raise UserError(line) from error
        if not is_first_process() and is_process_lost(error):
            raise SystemExit(1) from error  # another one fell, and the first one says so
        raise
    if number := interruption.signal_number or number:
        how_far = "in a dry run, of which nothing is kept"
        if not trainer.fast_dev_run:
            how_far = _how_far(trainer, interruption.file)
            how_far += f"; `make resume run={home}` goes on from there"
        raise Interrupted(f"stopped by {signal.Signals(number).name} {how_far}", 128 + number)


def _how_far(trainer: L.Trainer, stopped: Path) -> str:
    epochs = f"after {trainer.current_epoch} of {trainer.max_epochs} epochs"
    if not stopped.exists():
        return epochs
    done = trainer.fit_loop.epoch_loop.batch_progress.current.completed
    return f"{epochs} and {done} of {trainer.num_training_batches} batches"
