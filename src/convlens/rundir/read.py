"""Read one run, finished or not, from its folder; torch is not needed."""

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
from convlens.core.errors import UserError, convert_errors, nearest
from convlens.rundir.lock import find_holder
from convlens.rundir.maps import FILE, OF_NO_CLASS, Maps, read_maps
from convlens.rundir.paths import OUTPUTS
from convlens.rundir.probes import StoredProbe, read_probes
from convlens.rundir.tags import SUFFIX, read_tag

Row = dict[str, float]
_MOST_CHARACTERS = 1_000_000  # in a config.yaml; ours have a few thousand
_MOST_VALUES = 2_000_000  # in a summary, which contains several values per epoch
_STAMP = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d")
_ALARM = re.compile(r" WARNING convlens: (alarm after epoch \d+: .*)")
_LOOK = re.compile(r"epoch_(\d+)")
# prefixes of tags in earlier runs -> the current ones
_RENAMED = {
    "activations": "layers/activations",
    "filters": "layers/filters",
    "augmentation": "training/augmentation",
    "confusion_matrix": "predictions/confusion_matrix",
    "class_means": "grad_cam_means",
    "depth": "layers/depth",
}


@dataclass(frozen=True)
class StoredRun:
    """The content of a run folder.

    Attributes:
        home: the run folder.
        config: the resolved config.
        rows: the rows of ``metrics.csv``, one per epoch from epoch 0, each without the scalars that
            were not measured in that epoch.
        summary: the content of ``summary.json``; None if the run has not ended.
    """

    home: Path
    config: StoredConfig
    rows: list[Row]
    summary: dict | None

    @property
    def epochs(self) -> int:
        """The number of completed epochs."""
        count = (self.summary or {}).get("epochs")
        return count if isinstance(count, int) else self.last_epoch

    @property
    def last_epoch(self) -> int:
        """The last epoch in ``metrics.csv``."""
        return int(self.rows[-1]["epoch"]) if self.rows else 0

    @property
    def best_epoch(self) -> int | None:
        """The epoch with the lowest validation loss; None before the first one is complete."""
        row = find_best_row(self.rows)
        return None if row is None else int(row["epoch"])

    @property
    def state(self) -> str:
        """The state in words, such as ``running, epoch 3 done`` or ``finished``."""
        holder = find_holder(self.home)
        if holder.is_alive:
            return f"running, epoch {self.epochs} done"
        if self.summary is not None:
            return "finished"
        if holder.unseen_host:
            return f"stopped at epoch {self.epochs}, or running on {holder.unseen_host}"
        if self.epochs and self.epochs == self.config.epochs:
            return "trained, not tested"
        return f"stopped at epoch {self.epochs}"

    @property
    def started(self) -> datetime.datetime:
        """The local time at which the run was last started or resumed."""
        return datetime.datetime.fromtimestamp((self.home / "config.yaml").stat().st_mtime)

    @property
    def first_started(self) -> datetime.datetime:
        """The local time of the first line in the log; without a log, the same as ``started``."""
        stamp = next((match[0] for line in self._log if (match := _STAMP.match(line))), None)
        return self.started if stamp is None else datetime.datetime.fromisoformat(stamp)

    @property
    def alarms(self) -> list[str]:
        """The alarms in the log, one line each; a run that has not ended has no summary."""
        return [match[1] for line in self._log if (match := _ALARM.search(line))]

    @cached_property
    def _log(self) -> list[str]:
        file = self.home / "train.log"
        return _read_lines(file) if file.is_file() else []

    @cached_property
    def pictures(self) -> dict[str, dict[int, Path]]:
        """The picture files by tag and by completed epochs, both in ascending order.

        The tags of earlier runs are given as the current ones.
        """
        pictures: dict[str, dict[int, Path]] = {}
        for look in (self.home / "explanations").glob("epoch_*"):
            if not (number := _LOOK.fullmatch(look.name)):
                continue
            for file in look.rglob(f"*{SUFFIX}"):
                prefix, slash, rest = read_tag(look, file).partition("/")
                tag = f"{_RENAMED.get(prefix, prefix)}{slash}{rest}"
                pictures.setdefault(tag, {})[int(number[1])] = file
        return {tag: dict(sorted(files.items())) for tag, files in sorted(pictures.items())}

    @cached_property
    def _map_files(self) -> dict[int, Path]:
        """The files of maps by completed epochs, ascending."""
        looks = (self.home / "explanations").glob(f"epoch_*/{FILE}")
        numbers = ((_LOOK.fullmatch(file.parent.name), file) for file in looks)
        return dict(sorted((int(number[1]), file) for number, file in numbers if number))

    @cached_property
    def all_maps(self) -> dict[str, dict[int, Maps]]:
        """The maps of all looks, by method and by completed epochs.

        Raises:
            UserError: a file of maps cannot be read.
        """
        found: dict[str, dict[int, Maps]] = {}
        for epoch, file in self._map_files.items():
            for method, maps in read_maps(file).items():
                found.setdefault(method, {})[epoch] = maps
        return found

    @property
    def class_maps(self) -> dict[str, dict[int, Maps]]:
        """``all_maps`` without attention and rollout, which are the same for every class."""
        return {method: by for method, by in self.all_maps.items() if method not in OF_NO_CLASS}

    def maps(self, method: str = "grad_cam", epoch: int | None = None) -> Maps:
        """Return the maps of a method after an epoch.

        Args:
            method: such as ``grad_cam``, ``occlusion`` or ``attention``.
            epoch: completed epochs; None for the latest look with maps of the method.

        Raises:
            UserError: the run has no such maps, or their file cannot be read.
        """
        by_epoch = self.all_maps.get(method)
        if by_epoch is None:
            way_out = nearest(method, self.all_maps) if self.all_maps else "it has no maps at all"
            raise UserError(f"{self.home} has no maps of {method}: {way_out}")
        epoch = max(by_epoch) if epoch is None else epoch
        if epoch not in by_epoch:
            known = ", ".join(map(str, by_epoch))
            raise UserError(
                f"{self.home} has no maps of {method} after epoch {epoch}: it has those of epochs "
                f"{known}"
            )
        return by_epoch[epoch]

    @property
    def grad_cam(self) -> dict[str, dict[int, Path]]:
        """The Grad-CAM pictures by probe and by completed epochs, both in ascending order."""
        start = "grad_cam/"
        files = {t.removeprefix(start): f for t, f in self.pictures.items() if t.startswith(start)}
        return {probe: by_epoch for probe, by_epoch in files.items() if "/" not in probe}

    @cached_property
    def probes(self) -> dict[str, StoredProbe]:
        """The probes by name."""
        found = read_probes(self.home / "probes")
        # someone may have kept only the explanations of the folder
        return found or {name: StoredProbe(name) for name in self.grad_cam}

    @cached_property
    def data_facts(self) -> dict | None:
        """The content of ``data.json``; None if the run was made before it was written."""
        return _read_json(self.home / "data.json", "record of the run's data")

    @property
    def numbers(self) -> Row:
        """Every number in the summary by its path, such as ``test/accuracy``, ``seconds/total``.

        ``alarms`` and ``failures`` are their counts, ``seconds`` is the total. For an unfinished
        run, the numbers come from ``metrics.csv`` and have the same names.
        """
        if self.summary is None:
            return self._compute_preliminary_numbers()
        numbers = _flatten_numbers(self.summary)
        lists = {key: self.summary.get(key) for key in ("alarms", "failures")}
        numbers |= {key: len(lines) for key, lines in lists.items() if isinstance(lines, list)}
        if "seconds/total" in numbers:
            numbers["seconds"] = numbers["seconds/total"]
        return numbers

    def _compute_preliminary_numbers(self) -> Row:
        numbers: Row = {"epochs": self.epochs}
        if isinstance(self.config.seed, int):
            numbers["seed"] = self.config.seed
        best = find_best_row(self.rows)
        if best is not None:
            last, numbers["best_epoch"] = self.rows[-1], int(best["epoch"])
            stages = {"val": select_stage(best, "val"), "train": select_stage(last, "train")}
            numbers |= _flatten_numbers({**stages, "val_last": select_stage(last, "val")})
        return numbers

    def curve(self, tag: str) -> dict[int, float]:
        """Return one scalar by epoch, for the epochs in which it was measured."""
        return {int(row["epoch"]): row[tag] for row in self.rows if tag in row}

    def results(self, stage: str, epoch: int) -> Row:
        """Return the scalars ``<stage>/…`` of an epoch, by their names without the stage."""
        return select_stage(next((row for row in self.rows if row["epoch"] == epoch), {}), stage)


def find_best_row(rows: list[Row]) -> Row | None:
    """Return the row with the lowest validation loss, the first of equal ones.

    Epoch 0, before training, does not count. Return None if no other epoch has a finite loss.
    """
    finite = [row for row in rows[1:] if math.isfinite(row.get("val/loss", math.nan))]
    return min(finite, key=lambda row: row["val/loss"], default=None)


def select_stage(row: Row, stage: str) -> Row:
    """Return the scalars ``<stage>/…`` of a row, by their names without the stage."""
    start = f"{stage}/"
    return {key.removeprefix(start): value for key, value in row.items() if key.startswith(start)}


def convert_run_errors(home: object) -> AbstractContextManager[None]:
    """Convert any exception into a UserError that names the run folder.

    For code that works with a run's files: they may have been edited, or come from elsewhere.

    Args:
        home: the run folder, or several of them as text.

    Raises:
        UserError: the code inside raised an exception; its traceback goes to the log.
    """
    return convert_errors(f"the files in {home} are not what a run writes", "were they changed?")


def read_run(home: Path) -> StoredRun:
    """Read the run in a folder.

    Raises:
        UserError: the folder contains no run, or one of its files is damaged.
    """
    config, rows = read_config(home), _read_rows(home / "metrics.csv")
    return StoredRun(home, config, rows, _read_json(home / "summary.json", "summary"))


def read_config(folder: Path) -> StoredConfig:
    """Read the resolved config of a run, without checking its values.

    Raises:
        UserError: the folder contains no run, or its config cannot be read.
    """
    file = folder / "config.yaml"
    if not folder.is_dir():
        raise UserError(f"there is no run folder {folder}; runs are in {OUTPUTS}/")
    if not file.exists():
        raise UserError(f"{folder} contains no run: it has no config.yaml")
    try:
        with open(file, encoding="utf-8") as text:
            content = text.read(_MOST_CHARACTERS + 1)
        if len(content) > _MOST_CHARACTERS:
            raise UserError(
                f"{file} is not a config: it has more than {_MOST_CHARACTERS:,} characters"
            )
        config = yaml.safe_load(content)
    # ValueError: invalid dates and numbers
    except (OSError, yaml.YAMLError, ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{file} is not a readable config ({reason})") from error
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
            for line in csv.DictReader(lines):
                rows.append({key: float(value) for key, value in line.items() if value})
    except (OSError, TypeError, ValueError, csv.Error) as error:
        raise UserError(f"{file}, epoch {len(rows)}: not a table of numbers ({error})") from error
    if not all(math.isfinite(row.get("epoch", math.nan)) for row in rows):
        raise UserError(f"{file} is not the metrics of a run: a row has no epoch")
    return rows


def _read_json(file: Path, what: str) -> dict | None:
    """Return a table of plain values; None if there is no such file."""
    if not file.exists():
        return None
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file} is not a readable {what} ({error})") from error
    check_shape(content, str(file), _MOST_VALUES)
    return content


def _read_lines(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8", errors="replace").splitlines()


def _flatten_numbers(values: Mapping, prefix: str = "") -> Row:
    numbers: Row = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            numbers |= _flatten_numbers(value, f"{prefix}{key}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            numbers[f"{prefix}{key}"] = value
    return numbers
