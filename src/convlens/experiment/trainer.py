"""Build the trainer of a run, train and test with it, and report why a run ended early."""

from __future__ import annotations

import contextlib
import logging
import signal
import sys
from collections.abc import Iterable, Iterator
from dataclasses import fields
from pathlib import Path

import pytorch_lightning as L
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import Logger

from convlens import callbacks as ours
from convlens.callbacks import EpochLog, Ledger, Looks
from convlens.callbacks.logging.hparams import Settings
from convlens.callbacks.predictions import PredictionBook
from convlens.config.schema import Config
from convlens.core.command_lines import command_line
from convlens.core.errors import Interrupted, UserError
from convlens.core.processes import is_first_process
from convlens.core.progress import progress_bar
from convlens.experiment.assemble import Run, instantiate_custom
from convlens.experiment.devices import (
    adapt_devices,
    check_devices,
    choose_device,
    lightning,
    share_batch,
)
from convlens.experiment.resume import Start
from convlens.experiment.sweep.pruning import build_pruning
from convlens.training.compiling import GRAPHS
from convlens.training.diary.held_out_keeper import HeldOutKeeper
from convlens.training.diary.keeper import DiaryKeeper
from convlens.training.kernels import choose_kernels
from convlens.training.precision import PRECISIONS
from convlens.training.stopping import EarlyStop
from convlens.training.survival.checkpoint import (
    STOPPED,
    WholeCheckpointIO,
    find_checkpoint_to_resume,
    read_checkpoint,
)
from convlens.training.survival.companions import GRACE, Companions, is_process_lost
from convlens.training.survival.divergence import Divergence
from convlens.training.survival.interruption import Interruption, Reopening

log = logging.getLogger("convlens")
BATCH_HOOKS = (
    "on_train_batch_start", "on_before_zero_grad", "on_before_backward", "on_after_backward",
    "on_before_optimizer_step", "on_train_batch_end", "on_validation_batch_start",
    "on_validation_batch_end", "on_test_batch_start", "on_test_batch_end",
)  # fmt: skip


def find_start(home: Path | None) -> Start | None:
    """Return the checkpoint to resume from; None for a new run, or if there is none yet."""
    file = find_checkpoint_to_resume(home / "checkpoints") if home else None
    return None if file is None else Start(file, read_checkpoint(file))


def build_trainer(
    run: Run, home: Path, trained: int | None
) -> tuple[L.Trainer, EpochLog, ModelCheckpoint | None]:
    """Return the trainer, with its epoch log and its callback for the best checkpoint.

    Args:
        run: the assembled run.
        home: the run folder.
        trained: completed epochs of a resumed run; None for a new run.

    Returns:
        The trainer, the epoch log, and the callback that keeps the best checkpoint; None in its
        place for a dry run.
    """
    config, training = run.config, run.config.training
    devices, precision = config.trainer, str(config.precision)
    if trained is None:
        check_devices(devices)
    else:
        devices, precision, line = adapt_devices(devices, precision)
        if line:
            log.warning(line)
    ledger, answers = build_ledger(config), PredictionBook(several=run.module.multi_label)
    epoch_log = EpochLog(home / "metrics.csv", ledger)
    looks = Looks(run.explanations, ledger=ledger, predictions=answers, epoch_log=epoch_log)
    interruption = Interruption(home / "checkpoints" / STOPPED)
    again = command_line("resume", run=home)
    diary: list[L.Callback] = []
    if config.diary:
        diary = [DiaryKeeper(config.diary, home), HeldOutKeeper(home)]
    callbacks: list[L.Callback] = [
        Companions(f"continue with `{again}`"), interruption, Divergence(),
        run.phases, *diary, looks, *run.explanations, epoch_log, *run.others,
    ]  # fmt: skip
    keeper = None
    if training.early_stopping:
        callbacks.append(
            EarlyStop("val/loss", patience=training.early_stopping, check_on_train_epoch_end=True)
        )
    callbacks += build_pruning()
    if not devices.fast_dev_run:
        excess = {"excess": config.diary.excess} if config.diary else {}
        looks.alarms = ours.Alarms(config.alarms, run.data.class_names, ledger, answers, **excess)
        where = {
            "dirpath": home / "checkpoints", "enable_version_counter": False,
            "save_on_train_epoch_end": True,
        }  # fmt: skip
        keeper = ModelCheckpoint(filename="best", monitor="val/loss", **where)
        # a separate callback: Lightning's `save_last` writes last.ckpt only in epochs that are the
        # best so far (2.6). It comes after the best: a kill between the two files must leave an
        # older last.ckpt, from which the resumed run writes the same best.ckpt again
        last = ModelCheckpoint(filename="last", **where)
        callbacks += [looks.alarms, ours.HParams(collect_settings(config)), keeper, last]
        if trained is None:  # a resumed run has written it already
            callbacks.append(ours.ConfigText(home / "config.yaml"))
    if sys.stdout.isatty():
        callbacks.append(ours.ProgressBar(shows_metrics=False))
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
    """Return the settings that TensorBoard's HParams tab compares."""
    return Settings(**{each.name: getattr(config, each.name) for each in fields(Settings)})


def build_ledger(config: Config) -> Ledger:
    """Return the time budget of explanations; a dry run grants no extra time at start and end."""
    looking = config.looking
    # an accelerator explains as much in a tenth of the time, and its epochs are shorter
    floor, around = (1.0, 20.0) if choose_device(config).type == "cpu" else (0.1, 4.0)
    if looking.seconds is not None:
        floor = looking.seconds
    first = around / 4 if looking.first_seconds is None else looking.first_seconds
    last = looking.last_seconds
    if config.trainer.fast_dev_run:
        first = last = floor
    return Ledger(config.callbacks.budget, floor, first, last, around)


def _loggers(config: Config, home: Path, trained: int | None) -> list[Logger]:
    """Return TensorBoard's logger and the user-defined ones."""
    own = [
        instantiate_custom(f"logger.{name}", node, Logger)
        for name, node in config.logger.own.items()
    ]
    if not config.logger.tensorboard:
        return own
    # events of an epoch that a killed run did not finish must not appear twice
    purge = {} if trained is None else {"purge_step": trained + 1}
    return [
        ours.EventLogger(home, name="", version="tensorboard", default_hp_metric=False, **purge),
        *own,
    ]


def skip_empty_hooks(callbacks: Iterable[L.Callback]) -> None:
    """Let Lightning skip the hooks of a batch in which a callback does nothing.

    It would call all of them, and time each call: 150 calls in every step of a run. A hook that
    cannot be called is skipped.
    """
    for callback in callbacks:
        for hook in BATCH_HOOKS:
            if hook not in vars(callback) and _is_empty(callback, hook):
                setattr(callback, hook, None)


def _is_empty(callback: L.Callback, hook: str) -> bool:
    if type(callback) is ModelCheckpoint and not callback._every_n_train_steps:
        return callback._train_time_interval is None  # it saves at the ends of epochs only
    return getattr(type(callback), hook) is getattr(L.Callback, hook)


def fit(trainer: L.Trainer, run: Run, start: Start | None) -> None:
    """Train with the kernels of the config, compiled if the config says so."""
    deterministic, chosen = run.config.training.deterministic, run.config.training.compile
    choose_kernels(deterministic=deterministic)
    if chosen in (True, GRAPHS):
        images = share_batch(run.config, trainer.global_rank, trainer.world_size)
        run.module.compile_network(images, graphs=chosen == GRAPHS, deterministic=deterministic)
    skip_empty_hooks(trainer.callbacks)
    trainer.fit(run.module, datamodule=run.data, ckpt_path=start and start.file, weights_only=True)


def run_test(trainer: L.Trainer, run: Run, checkpoint: str | None) -> dict[str, float]:
    """Return the results ``test/…`` of a checkpoint of the run; None tests the current network.

    Only the weights are loaded: with ``ckpt_path`` Lightning would also reset the callbacks to the
    best epoch, and the history after it would be lost.
    """
    if checkpoint:
        content = read_checkpoint(checkpoint)
        run.module.load_state_dict(content["state_dict"])
        run.module.calibrator.load(content)
        for each in trainer.callbacks:
            if isinstance(each, HeldOutKeeper):
                each.load(content)
    # on a terminal Lightning shows a bar of its own
    with progress_bar("testing", visible=not sys.stdout.isatty()):
        trainer.test(run.module, datamodule=run.data, verbose=False)
    return {k: v for k, v in run.module.results.items() if k.startswith("test/")}


@contextlib.contextmanager
def handle_endings(trainer: L.Trainer, home: Path) -> Iterator[None]:
    """Report in one line why a run ended early.

    Args:
        trainer: the trainer of the run.
        home: the run folder.

    Raises:
        Interrupted: a signal ended the run.
        UserError: one of several processes died.
    """
    companions = next(c for c in trainer.callbacks if isinstance(c, Companions))
    interruption = next(c for c in trainer.callbacks if isinstance(c, Interruption))
    number = 0
    try:
        yield
    except SystemExit as error:
        # Lightning exits this way after a signal; the context holds the original exception
        if not trainer.interrupted:
            raise
        number = getattr(error.__context__, "status", 128 + signal.SIGINT) - 128
    except RuntimeError as error:
        if line := companions.describe_failure(GRACE / 4 if is_process_lost(error) else 0.0):
            companions.end()
            raise UserError(line) from error
        if not is_first_process() and is_process_lost(error):
            raise SystemExit(1) from error  # another process died; the first process reports it
        raise
    if number := interruption.signal_number or number:
        progress = "in a dry run, which keeps nothing"
        if not trainer.fast_dev_run:
            progress = _describe_progress(trainer, interruption.file)
            progress += f"; continue with `{command_line('resume', run=home)}`"
        raise Interrupted(f"stopped by {signal.Signals(number).name} {progress}", 128 + number)


def _describe_progress(trainer: L.Trainer, stopped: Path) -> str:
    epochs = f"after {trainer.current_epoch} of {trainer.max_epochs} epochs"
    if not stopped.exists():
        return epochs
    done = trainer.fit_loop.epoch_loop.batch_progress.current.completed
    return f"{epochs} and {done} of {trainer.num_training_batches} batches"
