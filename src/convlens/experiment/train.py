"""The life of a run: from a config to a finished run folder."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytorch_lightning as L
import torch

from convlens.callbacks import Alarms, EventLogger, Ledger
from convlens.core.errors import UserError
from convlens.core.processes import first_process
from convlens.core.stopwatch import current, spent_on, timed
from convlens.experiment.assemble import Run, assemble, warnings_of
from convlens.experiment.precision import settle_precision
from convlens.experiment.prepare import prepare
from convlens.experiment.resume import check_processes, check_resumed
from convlens.experiment.summary import best_row, seconds_by_name, summarise
from convlens.experiment.trainer import ending, trainer_of
from convlens.pages.report import report
from convlens.rundir import log as logs
from convlens.rundir.claim import check_run_dir, claim_run_dir
from convlens.rundir.lock import Hold
from convlens.rundir.write import write_summary
from convlens.training.statistics import check_batches
from convlens.training.survival.checkpoint import checkpoint_to_resume, read_checkpoint

log = logging.getLogger("convlens")


@timed
def train(config: dict, *, resume: Path | None = None) -> tuple[Path, dict]:
    """Train what ``config`` describes, test the best checkpoint, write the run folder.

    Args:
        config: resolved; of a resumed run the one in its folder.
        resume: the folder of the run to go on with, or None for a new one.

    Returns:
        The run folder and the summary; an empty one of a dry run (``trainer.fast_dev_run``), whose
        folder is gone.
    """
    if config["trainer"]["fast_dev_run"]:
        # nothing is kept, and no run that lies in run_dir is touched
        with tempfile.TemporaryDirectory(prefix="convlens-") as scratch:
            return _trained(config, None, lambda: Path(scratch))
    if resume is None:
        check_run_dir(config)
    with Hold() as hold:
        if resume:
            hold.take(resume)
        return _trained(config, resume, lambda: claim_run_dir(config, hold))


def _trained(config: dict, resume: Path | None, claim: Callable[[], Path]) -> tuple[Path, dict]:
    start = checkpoint_to_resume(resume / "checkpoints") if resume else None
    kept = read_checkpoint(start) if start else None
    run = assemble(config, pretrained=start is None, start=start)
    if kept:
        check_resumed(kept, config, run.module.schedule, resume)
    dry = bool(config["trainer"]["fast_dev_run"])
    with spent_on("decoding"):
        notes = dict.fromkeys([*run.data.index.notes, *run.data.dataset.notes])
    home = resume or claim()
    if first_process() and not dry:
        logs.keep(home / "train.log")
    else:
        logs.hush()
    for line in notes:
        log.warning(line)
    if resume is None and run.module.model.weights:
        log.debug(run.module.model.weights.note)  # the screen has had it
    settle_precision(run)
    trainer, epoch_log, keeper = trainer_of(run, home, resume is not None)
    check_batches(run.module, run.data, trainer.world_size)
    if kept and (line := check_processes(kept, trainer.world_size, home)):
        log.warning(line)
    if resume and first_process():
        (home / "summary.json").unlink(missing_ok=True)  # before the config says another length
    prepare(run, home, resume is not None)
    looking = config["looking"]
    ledger = Ledger(
        config["callbacks"]["budget"], looking["seconds"],
        *(looking["seconds" if dry else key] for key in ("first_seconds", "last_seconds")),
    )  # fmt: skip
    trainer.convlens_ledger = ledger
    for line in warnings_of(config, run.module):
        log.warning(line)
    where = "without keeping anything" if dry else f"in {home}"
    log.info("training %s %s, precision %s", config["experiment"], where, config["precision"])
    with ending(trainer, home):
        fit(trainer, run, start)
    best = keeper.best_model_path if keeper else None
    clock = best_row(epoch_log.history)["epoch"]
    run.phases.tested_epoch = int(clock) if best else trainer.current_epoch
    trainer.convlens_tested = run.phases.tested_epoch
    with ending(trainer, home), spent_on("test"):
        test = tested(trainer, run, best or None)
    if dry:
        return home, {}
    epoch_log.log_test(trainer, test, clock)
    alarms = next(c for c in trainer.callbacks if isinstance(c, Alarms))
    summary = summarise(
        config,
        epoch_log,
        ledger,
        test,
        current().seconds(),
        alarms.current,
        processes=trainer.world_size,
    )
    summary["skipped"] = run.data.dataset.skipped
    summary["features"] = run.phases.fetched
    lost = [each.failure for each in trainer.loggers if isinstance(each, EventLogger)]
    summary["failures"] += [line for line in (*lost, epoch_log.failure, logs.failure()) if line]
    if first_process():
        try:
            write_summary(home, summary)
        except OSError as error:
            raise UserError(
                f"summary.json was not written ({error.strerror}): make room; `make resume "
                f"run={home}` writes it, nothing is trained again"
            ) from error
        with spent_on("report"):
            _write_report(home)
        summary["seconds"] = seconds_by_name(current().seconds())
        with contextlib.suppress(OSError):  # the page alone is not in the one that is there
            write_summary(home, summary)
    return home, summary


def _write_report(home: Path) -> None:
    """The run's page; a run whose page fails is a good run still."""
    try:
        report(home)
    except Exception as error:  # whatever is wrong with a picture or the disk
        log.warning(
            "report.html was not written: %s; `make report run=%s` tries again", error, home
        )
        log.debug("traceback", exc_info=True)


def fit(trainer: L.Trainer, run: Run, start: Path | None) -> None:
    """Train, with kernels that give the same bits every time."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    # the flag above also fills every new tensor; nothing of ours reads what it did not write
    torch.utils.deterministic.fill_uninitialized_memory = False
    trainer.fit(run.module, datamodule=run.data, ckpt_path=start, weights_only=True)


def tested(trainer: L.Trainer, run: Run, best: str | None) -> dict[str, float]:
    """Test results of the best checkpoint, or of the network as it is.

    Only the weights are loaded: with ``ckpt_path`` Lightning would also put the callbacks back to
    the best epoch, and the history behind it would be lost.
    """
    if best:
        run.module.load_state_dict(read_checkpoint(best)["state_dict"])
    trainer.test(run.module, datamodule=run.data, verbose=False)
    return {k: v for k, v in run.module.results.items() if k.startswith("test/")}
