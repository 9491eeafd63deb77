"""``summary.json``: a run in one dictionary; DESIGN's contract names the keys."""

from __future__ import annotations

import importlib.metadata
import math
import platform
from collections.abc import Mapping

from convlens import __version__
from convlens.callbacks import EpochLog, Ledger
from convlens.training.alarms import no_better_than_untrained, overfitting

Row = dict[str, float]
SECONDS = (
    "setup", "decoding", "features", "training", "validation", "checkpoints", "explaining", "test",
    "closing", "report",
)  # fmt: skip
LIBRARIES = ("torch", "torchvision", "pytorch-lightning", "hydra-core", "numpy")


def best_row(history: list[Row]) -> Row:
    """The epoch of the lowest validation loss among the trained ones."""
    trained = history[1:] or history
    return min(trained, key=lambda row: row.get("val/loss", math.inf))


def of_stage(row: Row, stage: str) -> Row:
    """The scalars ``<stage>/…`` of a row, without the stage."""
    start = f"{stage}/"
    return {key.removeprefix(start): value for key, value in row.items() if key.startswith(start)}


def summarise(
    config: dict,
    epoch_log: EpochLog,
    ledger: Ledger,
    test: Row,
    seconds: dict[str, float],
    alarms: list[str],
    *,
    processes: int,
) -> dict:
    """The summary of a finished run.

    Args:
        config: resolved.
        epoch_log: with the history and the pictures seen.
        ledger: what looking cost.
        test: the ``test/…`` results of the best epoch.
        seconds: by name, of all parts of the run, see :mod:`convlens.core.stopwatch`.
        alarms: that the explanations raise at the end.
        processes: how many trained.
    """
    history, thresholds = epoch_log.history, config["alarms"]
    best, last = best_row(history), history[-1]
    notice = overfitting(
        [row["train/loss"] for row in history[1:]],
        [row["val/loss"] for row in history[1:]],
        epochs=thresholds["overfitting_epochs"],
        rise=thresholds["overfitting_rise"],
    )
    losses = [row["val/loss"] for row in history if "val/loss" in row]
    notices = [line for line in (notice, no_better_than_untrained(losses)) if line]
    return {
        "experiment": config["experiment"],
        "seed": config["seed"],
        "epochs": last["epoch"],
        "best_epoch": best["epoch"],
        "train": of_stage(last, "train"),
        "val": of_stage(best, "val"),
        "val_last": of_stage(last, "val"),
        "test": of_stage(test, "test"),
        "images_per_second": epoch_log.pictures_seen / max(seconds.get("training", 0.0), 1e-9),
        "seconds": seconds_by_name(seconds),
        "explaining": {name: round(value, 3) for name, value in ledger.spent.items()},
        "looking": {
            "share_of_epochs": round(ledger.share_of_epochs, 4),
            "in_epochs": round(sum(looked for _, looked in ledger.epochs.values()), 3),
            "by_epoch": [
                {"epoch": clock, "seconds": round(own, 3), "looking": round(looked, 3)}
                for clock, (own, looked) in sorted(ledger.epochs.items())
            ],
        },
        "precision": str(config["precision"]),
        "processes": processes,
        "versions": versions(),
        "alarms": notices + alarms,
        "failures": list(ledger.failures.values()),
        "left_out": dict(ledger.left_out),
        "scores": _latest_scores(ledger),
    }


def seconds_by_name(seconds: Mapping[str, float]) -> dict[str, float]:
    """``total`` and what it is made of, in the order in which a run spends it; ``other`` last."""
    named = {name: seconds.get(name, 0.0) for name in SECONDS}
    named["other"] = sum(seconds.values()) - sum(named.values())
    rounded = {name: round(value, 3) for name, value in named.items()}
    return {"total": round(sum(rounded.values()), 3), **rounded}


def _latest_scores(ledger: Ledger) -> Row:
    """Each score's latest value, by its name without ``explain/``."""
    latest: Row = {}
    for _, row in sorted(ledger.scores.items()):
        latest |= row
    return of_stage(latest, "explain")


def versions() -> dict[str, str]:
    """Versions of convlens, Python and the libraries whose change may change a result."""
    found = {name: importlib.metadata.version(name) for name in LIBRARIES}
    return {"convlens": __version__, "python": platform.python_version(), **found}
