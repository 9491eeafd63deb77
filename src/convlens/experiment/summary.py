"""Build ``summary.json``, which describes a run in one dictionary, and finish the run folder."""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
import platform
from pathlib import Path

import pytorch_lightning as L

from convlens.callbacks import Alarms, EpochLog, EventLogger, Ledger
from convlens.callbacks.logging.writing import find_trackers
from convlens.callbacks.predictions import PredictionBook
from convlens.config.schema import AlarmsConfig
from convlens.core.command_lines import command_line
from convlens.core.errors import UserError
from convlens.core.processes import is_first_process
from convlens.core.progress import progress_bar
from convlens.core.stopwatch import count_seconds, get_stopwatch
from convlens.experiment.assemble import Run
from convlens.pages.report import report
from convlens.rundir import log as logs
from convlens.rundir.read import Row, find_best_row, select_stage
from convlens.rundir.write import write_summary
from convlens.training import ClassifierModule
from convlens.training.alarms import check_against_untrained, check_overfitting
from convlens.training.calibration import describe_calibration
from convlens.training.details import Details, describe_answers, describe_several
from convlens.training.diary.held_out_keeper import HeldOutKeeper
from convlens.training.diary.keeper import DiaryKeeper
from convlens.training.kernels import describe_kernels

log = logging.getLogger("convlens")
SECONDS = (
    "setup", "decoding", "features", "training", "validation", "diary", "checkpoints", "explaining",
    "test", "closing", "report",
)  # fmt: skip
LIBRARIES = ("convlens", "torch", "torchvision", "pytorch-lightning", "hydra-core", "numpy")


def select_best_row(history: list[Row]) -> Row:
    """Return the row of the best epoch; the first row if no validation loss is a number."""
    return find_best_row(history) or (history[1:] or history)[0]


def describe_test(book: PredictionBook, module: ClassifierModule) -> Details:
    """Return the details of the test, from its predictions; empty in all processes but the first.

    Args:
        book: has collected the test with all probabilities.
        module: the tested module.
    """
    predictions = book.latest.get("test")
    if predictions is None or predictions.probabilities is None or not is_first_process():
        return {}
    shares, names = predictions.probabilities, module.class_names
    with progress_bar("computing confidence intervals"):
        if predictions.present is None or module.thresholds is None:
            details = describe_answers(shares, predictions.labels, names)
            return details | _describe_calibration(module)
        thresholds = module.thresholds.cpu().numpy()
        return describe_several(shares, predictions.present, thresholds, names)


def _describe_calibration(module: ClassifierModule) -> Details:
    """Return the calibration by validation, and how it fits the test images; empty without."""
    validation, test = module.calibrator.validation, module.calibrator.test
    if validation is None or test is None:
        return {}
    return {"calibration": describe_calibration(validation, test)}


def summarise(
    run: Run, trainer: L.Trainer, epoch_log: EpochLog, ledger: Ledger, test: Row, details: Details
) -> dict:
    """Return the summary of a run that has been trained and tested.

    Args:
        run: the run.
        trainer: its trainer.
        epoch_log: the history, and the number of training images processed.
        ledger: how much time the explanations took.
        test: the results ``test/…`` of the best epoch.
        details: the details of the test.
    """
    config, history = run.config, epoch_log.history
    best, last = select_best_row(history), history[-1]
    latest: Row = {}  # the last value of each score
    for _, row in sorted(ledger.scores.items()):
        latest |= row
    training = get_stopwatch().seconds().get("training", 0.0)
    return {
        "experiment": config.experiment,
        "seed": config.seed,
        "epochs": last["epoch"],
        "best_epoch": best["epoch"],
        "train": select_stage(last, "train"),
        "val": select_stage(best, "val"),
        "val_last": select_stage(last, "val"),
        "test": select_stage(test, "test"),
        "test_details": details,
        "images_per_second": epoch_log.pictures_seen / max(training, 1e-9),
        "seconds": seconds_by_name(),
        **_looking(ledger),
        "precision": str(config.precision),
        "kernels": {
            "compile": config.training.compile,
            **describe_kernels(trainer.strategy.root_device),
        },
        "processes": trainer.world_size,
        "versions": versions(),
        "alarms": _alarms(history, config.alarms, trainer),
        "failures": _failures(ledger, epoch_log, trainer),
        "left_out": dict(ledger.left_out),
        "scores": select_stage(latest, "explain"),
        "skipped": [f"{file} ({reason})" for file, reason in run.data.dataset.skipped],
        "features": run.phases.fetches,
    }


def _looking(ledger: Ledger) -> dict:
    """Return the seconds that explanations took: by callback, by epoch and by look."""
    return {
        "explaining": {name: round(value, 3) for name, value in ledger.spent.items()},
        "looking": {
            "share_of_epochs": round(ledger.share_of_epochs, 4),
            "in_epochs": round(sum(looked for _, looked in ledger.epochs.values()), 3),
            "by_epoch": [
                {"epoch": clock, "seconds": round(own, 3), "looking": round(looked, 3)}
                for clock, (own, looked) in sorted(ledger.epochs.items())
            ],
            "looks": [_round_look(look) for look in ledger.looks],
        },
    }


def _round_look(look: dict) -> dict:
    seconds = {what: round(look[what], 4) for what in ("allowed", "spent", "pass")}
    by_callback = {name: round(value, 4) for name, value in look["by_callback"].items()}
    return {**look, **seconds, "by_callback": by_callback}


def _alarms(history: list[Row], thresholds: AlarmsConfig, trainer: L.Trainer) -> list[str]:
    """Return the alarms of the loss curves and those of the explanations at the end."""
    train, validation = (
        [row[f"{stage}/loss"] for row in history[1:]] for stage in ("train", "val")
    )
    notices = (
        check_overfitting(
            train, validation, epochs=thresholds.overfitting_epochs,
            rise=thresholds.overfitting_rise,
        ),
        check_against_untrained([row["val/loss"] for row in history if "val/loss" in row]),
    )  # fmt: skip
    alarms = next(each for each in trainer.callbacks if isinstance(each, Alarms))
    return [line for line in notices if line] + alarms.current


def _failures(ledger: Ledger, epoch_log: EpochLog, trainer: L.Trainer) -> list[str]:
    """Return a line for each explanation that failed and each file that lacks lines."""
    lost = [each.failure for each in trainer.loggers if isinstance(each, EventLogger)]
    lost += [line for each in find_trackers(trainer) for line in each.failures]
    kept = (DiaryKeeper, HeldOutKeeper)
    lost += [each.failure for each in trainer.callbacks if isinstance(each, kept)]
    lines = (*ledger.failures.values(), *lost, epoch_log.failure, logs.find_write_failure())
    return [line for line in lines if line]


def seconds_by_name() -> dict[str, float]:
    """Return the ``total`` so far and its parts, in the order in which a run spends them.

    The last part, ``other``, contains all remaining seconds.
    """
    seconds = get_stopwatch().seconds()
    named = {name: seconds.get(name, 0.0) for name in SECONDS}
    named["other"] = sum(seconds.values()) - sum(named.values())
    rounded = {name: round(value, 3) for name, value in named.items()}
    return {"total": round(sum(rounded.values()), 3), **rounded}


def versions() -> dict[str, str]:
    """Return the versions of convlens, Python and the libraries that results depend on."""
    ours, *theirs = ((name, importlib.metadata.version(name)) for name in LIBRARIES)
    return dict([ours, ("python", platform.python_version()), *theirs])


def finish(home: Path, summary: dict) -> dict:
    """Write the summary and the page of a run; return the summary with the seconds of the page.

    Args:
        home: the run folder.
        summary: the summary.

    Raises:
        UserError: the summary cannot be written.
    """
    if not is_first_process():
        return summary
    try:
        write_summary(home, summary)
    except OSError as error:
        raise UserError(
            f"summary.json was not written ({error.strerror}): free disk space; "
            f"`{command_line('resume', run=home)}` writes it without training again"
        ) from error
    with count_seconds("report"), progress_bar("writing the report"):
        try:
            report(home)
        except Exception as error:  # a damaged picture or a full disk must not fail the run
            log.warning(
                "report.html was not written: %s; `%s` tries again",
                error,
                command_line("report", run=home),
            )
            log.debug("traceback", exc_info=True)
    summary = {**summary, "seconds": seconds_by_name()}
    with contextlib.suppress(OSError):  # the file written above lacks only the page's seconds
        write_summary(home, summary)
    return summary
