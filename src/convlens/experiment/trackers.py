"""Open the trackers that a config names, and close them when the run ends."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytorch_lightning as L

from convlens.callbacks import EpochLog
from convlens.callbacks.logging.journal import Journal
from convlens.callbacks.logging.to_mlflow import MlflowTracker
from convlens.callbacks.logging.to_trackio import TrackioTracker
from convlens.callbacks.logging.to_wandb import WandbTracker
from convlens.callbacks.logging.tracker import Tracker
from convlens.callbacks.logging.trackers import KEY, JournalMark, Trackers
from convlens.config.schema import Config, LoggerConfig
from convlens.core.errors import UserError, check_name, convert_errors
from convlens.core.files import write_atomic
from convlens.core.processes import is_first_process
from convlens.experiment.resume import Start

log = logging.getLogger("convlens")
FOLDER = "trackers"  # in a run folder: the journal, and what trackers keep locally
MODES = {"offline": "offline", "dryrun": "offline", "online": "online", "run": "online"}
QUESTIONS = {
    "wandb": "did you run `wandb login`? to log offline: logger.wandb.mode=offline",
    "mlflow": "is the server or database of logger.mlflow.uri or $MLFLOW_TRACKING_URI available?",
    "trackio": "is the folder of logger.trackio.dir or $TRACKIO_DIR writable?",
}


def check_trackers(config: LoggerConfig) -> None:
    """Check before any work that the packages of all trackers are installed.

    Raises:
        UserError: one is missing; the message says how to install it.
    """
    for name in config.trackers:
        if importlib.util.find_spec(name) is None:
            raise UserError(
                f"logger={name}: the package {name} is not installed: "
                f"pip install 'convlens[{name}]'"
            )


def _open_trackers(
    config: Config, home: Path, *, resumed: bool, start: Start | None
) -> Trackers | None:  # fmt: skip
    """Return the logger of a config's trackers, or None without trackers.

    Args:
        config: the config of the run.
        home: the run folder.
        resumed: whether the run continues in this folder.
        start: the checkpoint of a resumed run; None if there is none yet.

    Raises:
        UserError: a tracker cannot be opened.
    """
    names = config.logger.trackers
    if not names or not is_first_process() or config.trainer.fast_dev_run:
        return None
    folder = home / FOLDER
    folder.mkdir(exist_ok=True)
    record, size = folder / "runs.json", start.content.get(KEY, 0) if start else 0
    with convert_errors(f"{folder} is damaged", "remove it to start new runs in the trackers"):
        runs = _read_runs(record) if resumed else {}
        journal = Journal(folder / "journal.jsonl", size)
    trackers: list[Tracker] = []
    for name in names:
        run = runs.setdefault(name, {"run_id": None, "place": _find_place(name, config.logger)})
        if run["place"] == "disabled":  # by $WANDB_MODE
            continue
        try:
            with convert_errors(f"logger={name} cannot be opened", QUESTIONS[name]):
                trackers.append(OPENERS[name](config, home, run))
        except UserError:
            for each in (*trackers, journal):
                each.close()
            raise
        run["run_id"] = trackers[-1].run_id
        write_atomic(record, json.dumps(runs, indent=2) + "\n")
    return Trackers(home, journal, trackers)


def _read_runs(record: Path) -> dict[str, dict[str, Any]]:
    """Return the place and the ID of the run in each tracker, by tracker."""
    if not record.exists():
        return {}
    runs = json.loads(record.read_text(encoding="utf-8"))
    return {name: {key: each[key] for key in ("run_id", "place")} for name, each in runs.items()}


def _find_place(name: str, config: LoggerConfig) -> str | None:
    """Return where a new run is kept, by the config or else the environment.

    Returns:
        For wandb the mode; for others a place, or None for the run folder.
    """
    if config.wandb and name == "wandb":
        mode = config.wandb.mode or os.environ.get("WANDB_MODE") or "offline"
        check_name("WANDB_MODE", mode, (*MODES, "disabled"))
        return MODES.get(mode, mode)
    if config.mlflow and name == "mlflow":
        return config.mlflow.uri or os.environ.get("MLFLOW_TRACKING_URI")
    assert config.trackio
    return config.trackio.dir or os.environ.get("TRACKIO_DIR")


def _open_wandb(config: Config, home: Path, run: dict[str, Any]) -> Tracker:
    chosen = config.logger.wandb
    assert chosen
    return WandbTracker(
        home / FOLDER, mode=run["place"], project=chosen.project, entity=chosen.entity,
        title=home.name, config=config.plain(), run_id=run["run_id"],
    )  # fmt: skip


def _open_mlflow(config: Config, home: Path, run: dict[str, Any]) -> Tracker:
    assert config.logger.mlflow
    folder, uri, artifacts = (home / FOLDER / "mlflow").absolute(), run["place"], None
    if uri is None:
        folder.mkdir(exist_ok=True)
        uri, artifacts = f"sqlite:///{folder / 'mlflow.db'}", (folder / "artifacts").as_uri()
    elif uri.startswith("sqlite"):
        from sqlalchemy.engine import make_url  # MLflow's own; slow to import

        if database := make_url(uri).database:  # MLflow would use mlruns/ in the current folder
            artifacts = (Path(database).absolute().parent / "mlartifacts").as_uri()
    return MlflowTracker(
        uri, artifacts=artifacts, experiment=config.logger.mlflow.experiment, title=home.name,
        config=config.plain(), run_id=run["run_id"],
    )  # fmt: skip


def _open_trackio(config: Config, home: Path, run: dict[str, Any]) -> Tracker:
    assert config.logger.trackio
    folder = Path(run["place"] or home / FOLDER / "trackio")
    return TrackioTracker(
        folder, project=config.logger.trackio.project, title=home.name, config=config.plain(),
        run_id=run["run_id"],
    )  # fmt: skip


OPENERS: dict[str, Callable[[Config, Path, dict[str, Any]], Tracker]] = {
    "wandb": _open_wandb, "mlflow": _open_mlflow, "trackio": _open_trackio,
}  # fmt: skip


@contextlib.contextmanager
def following(
    trainer: L.Trainer, config: Config, home: Path, *, resumed: bool, start: Start | None
) -> Iterator[None]:
    """Log a run to the trackers of its config; at its end, log the report and the checkpoint.

    Only the first process has trackers, and a dry run has none.

    Args:
        trainer: the trainer of the run; it gets another logger.
        config: the config of the run.
        home: the run folder.
        resumed: whether the run continues in this folder.
        start: the checkpoint of a resumed run; None if there is none yet.

    Raises:
        UserError: a tracker cannot be opened.
    """
    trackers = _open_trackers(config, home, resumed=resumed, start=start)
    if trackers is None:
        yield
        return
    trainer.loggers = [*trainer.loggers, trackers]
    place = next(n for n, each in enumerate(trainer.callbacks) if isinstance(each, EpochLog))
    trainer.callbacks.insert(place + 1, JournalMark(trackers))
    for each in trackers.trackers:
        log.info("%-10s %s", each.name, each.place)
    finished = False
    try:
        yield
        trackers.log_file("report", home / "report.html")
        trackers.log_file("model", home / "checkpoints" / "best.ckpt")
        finished = True
    finally:
        trackers.close(finished=finished)
