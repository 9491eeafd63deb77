"""Runs read back from their folders, finished or not; no torch is needed for it."""

from __future__ import annotations

import csv
import datetime
import json
import logging
import math
import re
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from convlens.config.checks import check_shape
from convlens.core.errors import UserError, blaming, nearest
from convlens.rundir.lock import holder_of
from convlens.rundir.paths import OUTPUTS, newest_run, run_folders
from convlens.rundir.read import read_config

Row = dict[str, float]
log = logging.getLogger("convlens")
_MOST_VALUES = 2_000_000  # of a summary, which holds some for each epoch
_COUNTED = ("alarms", "failures")  # lists of lines in summary.json
_HIGHER = re.compile(r"(^|/)(accuracy|balanced_accuracy|f1)(/|$)|^images_per_second$")
_LOWER = re.compile(r"(^|/)loss$|^seconds(/|$)|^(alarms|failures)$")


@dataclass(frozen=True)
class KeptRun:
    """What a run folder tells.

    Attributes:
        home: the run folder.
        config: resolved.
        rows: of ``metrics.csv``, one an epoch from epoch 0; scalars that an epoch lacks are left
            out.
        summary: of ``summary.json``; None while the run has not come to its end.
    """

    home: Path
    config: dict
    rows: list[Row]
    summary: dict | None

    @property
    def epochs(self) -> int:
        """Completed epochs."""
        told = (self.summary or {}).get("epochs")
        if isinstance(told, int):
            return told
        return int(self.rows[-1]["epoch"]) if self.rows else 0

    @property
    def state(self) -> str:
        """``running`` while a process holds the folder, ``finished`` behind its summary."""
        holder = holder_of(self.home)
        if holder.alive:
            return f"running, epoch {self.epochs} done"
        if self.summary is not None:
            return "finished"
        if holder.elsewhere:  # where its lock need not be seen from here
            return f"stopped at epoch {self.epochs}, or running on {holder.elsewhere}"
        if self.epochs and self.epochs == self.config.get("training", {}).get("epochs"):
            return "trained, not tested"
        return f"stopped at epoch {self.epochs}"

    @property
    def started(self) -> datetime.datetime:
        """When the run was started or resumed last, in local time."""
        return datetime.datetime.fromtimestamp((self.home / "config.yaml").stat().st_mtime)

    @property
    def numbers(self) -> Row:
        """Every number of the summary by its path, such as ``test/accuracy``, ``seconds/total``.

        ``alarms`` and ``failures`` are counted, ``seconds`` is the total. Of an unfinished run:
        what ``metrics.csv`` tells so far, by the same names.
        """
        if self.summary is None:
            return self._numbers_so_far()
        found = _flat_numbers(self.summary)
        for key in _COUNTED:
            if isinstance(self.summary.get(key), list):
                found[key] = len(self.summary[key])
        if "seconds/total" in found:
            found["seconds"] = found["seconds/total"]
        return found

    def _numbers_so_far(self) -> Row:
        found: Row = {"epochs": self.epochs}
        if isinstance(self.config.get("seed"), int):
            found["seed"] = self.config["seed"]
        best = best_of(self.rows)
        if best is not None:
            found["best_epoch"] = int(best["epoch"])
            found |= _of_stages(best, {"val": "val"})
            found |= _of_stages(self.rows[-1], {"train": "train", "val": "val_last"})
        return found


@dataclass(frozen=True)
class UnreadRun:
    """A folder that holds a run which cannot be read, and the reason in one line."""

    home: Path
    reason: str


def readable(home: object) -> AbstractContextManager[None]:
    """Around what is made of a run's files, which may have been edited, or come from anybody.

    Raises:
        UserError: anything was raised meanwhile; the traceback goes to the log.
    """
    return blaming(f"the files in {home} are not as a run leaves them", "were they changed?")


def best_of(rows: list[Row]) -> Row | None:
    """The epoch of the lowest validation loss among the trained ones, the first of equals."""
    judged = [row for row in rows[1:] if math.isfinite(row.get("val/loss", math.nan))]
    return min(judged, key=lambda row: row["val/loss"], default=None)


def better(key: str) -> int:
    """1 for a number that is better the higher, -1 the lower, 0 for one that is neither.

    >>> better("test/accuracy"), better("val/loss"), better("epochs")
    (1, -1, 0)
    """
    return 1 if _HIGHER.search(key) else -1 if _LOWER.search(key) else 0


def read_run(home: Path) -> KeptRun:
    """The run in a folder.

    Raises:
        UserError: there is none, or one of its files is damaged.
    """
    try:
        config = read_config(home)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{home / 'config.yaml'} cannot be read ({error})") from error
    return KeptRun(home, config, _read_rows(home / "metrics.csv"), _read_summary(home))


def all_runs(parent: Path) -> list[KeptRun | UnreadRun]:
    """Every run below a folder, by path; what cannot be read is among them.

    Raises:
        UserError: there is no such folder.
    """
    if not parent.is_dir():
        raise UserError(f"there is no folder {parent}; `make train` writes runs into outputs/")
    found: list[KeptRun | UnreadRun] = []
    for home in run_folders(parent):
        try:
            found.append(read_run(home))
        except UserError as error:
            found.append(UnreadRun(home, str(error)))
    return found


def find_run(word: str) -> Path:
    """The run folder that a word means: ``last``, a path, or a path below outputs/.

    Raises:
        UserError: none.
    """
    if word == "last":
        return newest_run("metrics.csv")
    for path in (Path(word).expanduser(), OUTPUTS / word):
        if path.is_dir():
            return path
    known = [str(home) for home in run_folders(OUTPUTS)]
    start = f"{OUTPUTS}/"
    if not word.startswith(start):
        known = [name.removeprefix(start) for name in known]
    if not known:
        raise UserError(f"there is no run folder {word}, and no run in {start} either")
    raise UserError(f"there is no run folder {word}; {nearest(word, [*known, 'last'])}")


def _read_rows(file: Path) -> list[Row]:
    if not file.exists():
        return []
    rows: list[Row] = []
    try:
        with open(file, newline="", encoding="utf-8") as lines:
            for found in csv.DictReader(lines):
                rows.append({key: float(value) for key, value in found.items() if value})
    except (OSError, TypeError, ValueError, csv.Error) as error:
        raise UserError(f"{file}, epoch {len(rows)}: not a table of numbers ({error})") from error
    if not all(math.isfinite(row.get("epoch", math.nan)) for row in rows):
        raise UserError(f"{file} does not number its epochs: it is not the metrics of a run")
    return rows


def _read_summary(home: Path) -> dict | None:
    file = home / "summary.json"
    if not file.exists():
        return None
    try:
        summary = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file} is no readable summary ({error})") from error
    if not isinstance(summary, dict):
        raise UserError(f"{file} is not the summary of a run")
    check_shape(summary, str(file), _MOST_VALUES)
    return summary


def _flat_numbers(values: Mapping, prefix: str = "") -> Row:
    found: Row = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= _flat_numbers(value, f"{prefix}{key}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[f"{prefix}{key}"] = value
    return found


def _of_stages(row: Row, names: Mapping[str, str]) -> Row:
    """The scalars ``<stage>/…`` of a row, the stage under another name."""
    parts = ((key.partition("/"), value) for key, value in row.items())
    return {f"{names[stage]}/{rest}": v for (stage, _, rest), v in parts if stage in names}
