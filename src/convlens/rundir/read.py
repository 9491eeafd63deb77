"""One run, read back from its folder, finished or not; no torch is needed for it."""

from __future__ import annotations

import csv
import datetime
import json
import math
import re
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import yaml

from convlens.config.checks import check_shape
from convlens.config.stored import StoredConfig
from convlens.core.errors import UserError, convert_errors
from convlens.rundir.lock import find_holder
from convlens.rundir.paths import OUTPUTS

Row = dict[str, float]
_MOST_LETTERS = 1_000_000  # of a config.yaml; ours have some thousand
_MOST_VALUES = 2_000_000  # of a summary, which holds some for each epoch
_STAMP = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d")
_ALARM = re.compile(r" WARNING convlens: (alarm after epoch \d+: .*)")
_LOOK = re.compile(r"epoch_(\d+)")


@dataclass(frozen=True)
class StoredRun:
    """What a run folder tells.

    Attributes:
        home: the run folder.
        config: resolved.
        rows: of ``metrics.csv``, one an epoch from epoch 0; scalars that an epoch lacks are left
            out.
        summary: of ``summary.json``; None while the run has not come to its end.
    """

    home: Path
    config: StoredConfig
    rows: list[Row]
    summary: dict | None

    @property
    def epochs(self) -> int:
        """Completed epochs."""
        told = (self.summary or {}).get("epochs")
        return told if isinstance(told, int) else self.measured

    @property
    def measured(self) -> int:
        """The last epoch that has a row."""
        return int(self.rows[-1]["epoch"]) if self.rows else 0

    @property
    def best(self) -> int | None:
        """The trained epoch of the lowest validation loss; None before the first is complete."""
        found = find_best_row(self.rows)
        return None if found is None else int(found["epoch"])

    @property
    def state(self) -> str:
        """``running`` while a process holds the folder, ``finished`` behind its summary."""
        holder = find_holder(self.home)
        if holder.alive:
            return f"running, epoch {self.epochs} done"
        if self.summary is not None:
            return "finished"
        if holder.elsewhere:  # where its lock need not be seen from here
            return f"stopped at epoch {self.epochs}, or running on {holder.elsewhere}"
        if self.epochs and self.epochs == self.config.epochs:
            return "trained, not tested"
        return f"stopped at epoch {self.epochs}"

    @property
    def started(self) -> datetime.datetime:
        """When the run was started or resumed last, in local time."""
        return datetime.datetime.fromtimestamp((self.home / "config.yaml").stat().st_mtime)

    @property
    def began(self) -> datetime.datetime:
        """When the run was started first, as its log tells; without a log, :attr:`started`."""
        stamp = next((found[0] for line in self._log if (found := _STAMP.match(line))), None)
        return self.started if stamp is None else datetime.datetime.fromisoformat(stamp)

    @property
    def alarms(self) -> list[str]:
        """What the log tells of alarms, one line each: before its end a run has no summary."""
        return [found[1] for line in self._log if (found := _ALARM.search(line))]

    @cached_property
    def _log(self) -> list[str]:
        file = self.home / "train.log"
        return _lines_of(file) if file.is_file() else []

    @cached_property
    def pictures(self) -> dict[str, dict[int, Path]]:
        """Tag to picture file by completed epochs, both rising."""
        found: dict[str, dict[int, Path]] = {}
        for look in (self.home / "explanations").glob("epoch_*"):
            if not (number := _LOOK.fullmatch(look.name)):
                continue
            for file in look.rglob("*.jpg"):
                tag = file.relative_to(look).as_posix().removesuffix(".jpg")
                found.setdefault(tag, {})[int(number[1])] = file
        return {tag: dict(sorted(files.items())) for tag, files in sorted(found.items())}

    @property
    def grad_cam(self) -> dict[str, dict[int, Path]]:
        """Probe to its Grad-CAM pictures by completed epochs, both rising."""
        start = "grad_cam/"
        found = {t.removeprefix(start): f for t, f in self.pictures.items() if t.startswith(start)}
        return {probe: files for probe, files in found.items() if "/" not in probe}

    @cached_property
    def probes(self) -> dict[str, str]:
        """Name to where the picture comes from."""
        file = self.home / "probes" / "probes.tsv"
        if not file.is_file():  # a folder from which only the explanations were kept
            return dict.fromkeys(self.grad_cam, "")
        lines = _lines_of(file)[1:]
        return {name: source for name, _, source in (line.partition("\t") for line in lines)}

    @property
    def numbers(self) -> Row:
        """Every number of the summary by its path, such as ``test/accuracy``, ``seconds/total``.

        ``alarms`` and ``failures`` are counted, ``seconds`` is the total. Of an unfinished run:
        what ``metrics.csv`` tells so far, by the same names.
        """
        if self.summary is None:
            return self._numbers_so_far()
        found = _flat_numbers(self.summary)
        lists = {key: self.summary.get(key) for key in ("alarms", "failures")}
        found |= {key: len(lines) for key, lines in lists.items() if isinstance(lines, list)}
        if "seconds/total" in found:
            found["seconds"] = found["seconds/total"]
        return found

    def _numbers_so_far(self) -> Row:
        found: Row = {"epochs": self.epochs}
        if isinstance(self.config.seed, int):
            found["seed"] = self.config.seed
        best = find_best_row(self.rows)
        if best is not None:
            last, found["best_epoch"] = self.rows[-1], int(best["epoch"])
            stages = {"val": select_stage(best, "val"), "train": select_stage(last, "train")}
            found |= _flat_numbers({**stages, "val_last": select_stage(last, "val")})
        return found

    def curve(self, tag: str) -> dict[int, float]:
        """One scalar by epoch, where it was measured."""
        return {int(row["epoch"]): row[tag] for row in self.rows if tag in row}

    def results(self, stage: str, epoch: int) -> Row:
        """The scalars ``<stage>/…`` of an epoch, without the stage."""
        return select_stage(next((row for row in self.rows if row["epoch"] == epoch), {}), stage)


def find_best_row(rows: list[Row]) -> Row | None:
    """The epoch of the lowest validation loss among the trained ones, the first of equals.

    None where no trained epoch has one that is a finite number.
    """
    judged = [row for row in rows[1:] if math.isfinite(row.get("val/loss", math.nan))]
    return min(judged, key=lambda row: row["val/loss"], default=None)


def select_stage(row: Row, stage: str) -> Row:
    """The scalars ``<stage>/…`` of a row, without the stage."""
    start = f"{stage}/"
    return {key.removeprefix(start): value for key, value in row.items() if key.startswith(start)}


def convert_run_errors(home: object) -> AbstractContextManager[None]:
    """Around what is made of a run's files, which may have been edited, or come from anybody.

    Raises:
        UserError: anything was raised meanwhile; the traceback goes to the log.
    """
    return convert_errors(f"the files in {home} are not as a run leaves them", "were they changed?")


def read_run(home: Path) -> StoredRun:
    """The run in a folder.

    Raises:
        UserError: there is none, or one of its files is damaged.
    """
    config, rows = read_config(home), _read_rows(home / "metrics.csv")
    return StoredRun(home, config, rows, _read_summary(home / "summary.json"))


def read_config(folder: Path) -> StoredConfig:
    """The resolved config of a run, as its file has it.

    Raises:
        UserError: the folder holds no run.
    """
    file = folder / "config.yaml"
    if not folder.is_dir():
        raise UserError(f"there is no run folder {folder}; runs lie in {OUTPUTS}/")
    if not file.exists():
        raise UserError(f"{folder} holds no run: it has no config.yaml")
    try:
        with open(file, encoding="utf-8") as text:
            content = text.read(_MOST_LETTERS + 1)
        if len(content) > _MOST_LETTERS:
            raise UserError(f"{file} is no config: it has more than {_MOST_LETTERS:,} letters")
        config = yaml.safe_load(content)
    # ValueError: dates and numbers that are none
    except (OSError, yaml.YAMLError, ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{file} is no readable config ({reason})") from error
    if not isinstance(config, dict) or "experiment" not in config:
        raise UserError(f"{file} is not the config of a run")
    check_shape(config, str(file))
    return StoredConfig(config)


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


def _read_summary(file: Path) -> dict | None:
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


def _lines_of(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8", errors="replace").splitlines()


def _flat_numbers(values: Mapping, prefix: str = "") -> Row:
    found: Row = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= _flat_numbers(value, f"{prefix}{key}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[f"{prefix}{key}"] = value
    return found
