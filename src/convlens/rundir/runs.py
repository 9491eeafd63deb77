"""Find, read and sort runs."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convlens.core.command_lines import command_line
from convlens.core.errors import UserError, nearest
from convlens.core.system import split_words
from convlens.rundir.paths import OUTPUTS, find_run_folders, holds_run
from convlens.rundir.read import StoredRun, read_run

log = logging.getLogger("convlens")
# columns that runs can be sorted by, and that contain no numbers
TEXTS = {
    "run": lambda run: str(run.home),
    "date": lambda run: run.started,
    "experiment": lambda run: str(run.config.experiment),
    "state": lambda run: run.state,
}
_HIGHER = re.compile(
    r"(^|/)(accuracy|balanced_accuracy|(macro_)?f1|auroc|average_precision|cohen_kappa|mean_ap|ap"
    r"|top\d+_accuracy|pointing_game|energy_inside)(/|$)|^images_per_second$"
)
_LOWER = re.compile(r"(^|/)(loss|ece)$|^seconds(/|$)|^(alarms|failures)$")


@dataclass(frozen=True)
class UnreadableRun:
    """A run that cannot be read.

    Attributes:
        home: the run folder.
        reason: why it cannot be read, in one line.
    """

    home: Path
    reason: str


def read_all_runs(parent: Path) -> list[StoredRun | UnreadableRun]:
    """Read all runs below a folder, in the order of their paths.

    Raises:
        UserError: there is no such folder.
    """
    if not parent.is_dir():
        raise UserError(
            f"there is no folder {parent}; `{command_line('train')}` writes runs into outputs/"
        )
    runs: list[StoredRun | UnreadableRun] = []
    for home in find_run_folders(parent):
        try:
            runs.append(read_run(home))
        except UserError as error:
            runs.append(UnreadableRun(home, str(error)))
    return runs


def find_run(word: str) -> Path:
    """Return the run folder that a word names: ``last``, a path, or a path below ``outputs/``.

    Raises:
        UserError: there is no such folder.
    """
    if word == "last":
        return find_newest_run("metrics.csv")
    for path in (Path(word).expanduser(), OUTPUTS / word):
        if path.is_dir():
            return path
    known = [home.as_posix() for home in find_run_folders(OUTPUTS)]
    start = f"{OUTPUTS}/"
    if not word.startswith(start):
        known = [name.removeprefix(start) for name in known]
    if not known:
        raise UserError(f"there is no run folder {word}, and {start} contains no run either")
    raise UserError(f"there is no run folder {word}; {nearest(word, [*known, 'last'])}")


def open_run(run: str | Path) -> StoredRun:
    """Return a run, finished or not, for reading; nothing in its folder is changed.

    Args:
        run: its folder, a path below ``outputs/``, or ``last`` for the newest run.

    Raises:
        UserError: there is no such run, or one of its files is damaged.
    """
    return read_run(find_run(str(run)))


def find_runs(text: str) -> list[Path]:
    """Return the run folders that ``runs=…`` lists.

    Args:
        text: words for ``find_run``, and patterns such as ``outputs/scratch/*`` for all runs that
            they match. Spaces separate them; one that contains a space is quoted.

    Raises:
        UserError: a word names no run folder.
    """
    try:
        words = split_words(text)
    except ValueError as error:
        raise UserError(f"runs={text}: {error}; check the quotes") from error
    homes: list[Path] = []
    for word in words:
        if "*" not in word:
            homes.append(find_run(word))
            continue
        path = Path(word).expanduser()
        root = Path(path.anchor)
        matches = [home for home in root.glob(str(path.relative_to(root))) if holds_run(home)]
        if not matches:
            raise UserError(
                f"runs={word}: matches no run folder; `{command_line('runs')}` lists them"
            )
        homes += sorted(matches)
    return homes


def find_newest_run(
    required_file: str = "config.yaml", check: Callable[[Path], object] | None = None
) -> Path:
    """Return the run that was started last, for ``run=last`` and ``ckpt=last``.

    If the newest run lacks what the command needs, a log line says which run is used instead.

    Args:
        required_file: a file that the command needs.
        check: raises UserError for a run that has the file but cannot serve the command.

    Raises:
        UserError: there is no such run.
    """
    runs = [home for home in find_run_folders(OUTPUTS) if holds_run(home)]
    if not runs:
        raise UserError(f"there is no run in {OUTPUTS}/ yet; `{command_line('train')}` starts one")
    runs.sort(key=lambda home: (home / "config.yaml").stat().st_mtime_ns, reverse=True)
    reason = ""  # why the newest run does not serve
    for home in runs:
        try:
            if not (home / required_file).exists():
                raise UserError(f"{home} has no {required_file} yet")
            if check is not None:
                check(home)
        except UserError as error:
            reason = reason or str(error)
            continue
        if reason:
            log.info("last is %s: the newer %s", home, reason)
        return home
    if not any((home / required_file).exists() for home in runs):
        raise UserError(f"no run in {OUTPUTS}/ has {required_file} yet; the newest is {runs[0]}")
    raise UserError(f"no run in {OUTPUTS}/ can be used; the newest: {reason}")


def sort_runs(
    runs: list[StoredRun | UnreadableRun], sort_key: str, columns: Sequence[str] = ()
) -> list[StoredRun | UnreadableRun]:
    """Return runs sorted by a column or by any number in their summaries.

    Runs that lack the value, and runs that cannot be read, come last.

    Args:
        runs: the runs to sort.
        sort_key: what to sort by; ``-`` before it means descending, ``+`` ascending. Without a
            sign, dates and accuracies descend and everything else ascends.
        columns: numbers that are allowed even if no run has them yet.

    Raises:
        UserError: no run has such a value.
    """
    key = sort_key.removeprefix("-").removeprefix("+")
    readable = [run for run in runs if isinstance(run, StoredRun)]
    known = {*TEXTS, *columns}
    known.update(*(run.numbers for run in readable))
    if key not in known:
        raise UserError(f"sort={sort_key}: no run has such a column; {nearest(key, known)}")
    is_descending = sort_key[0] == "-" or (
        sort_key[0] != "+" and (key == "date" or preferred_direction(key) > 0)
    )
    values = {run.home: _sort_value(run, key) for run in readable}
    with_value = [run for run in readable if values[run.home] is not None]
    with_value.sort(key=lambda run: values[run.home], reverse=is_descending)
    without_value = [run for run in readable if values[run.home] is None]
    return with_value + without_value + [run for run in runs if isinstance(run, UnreadableRun)]


def _sort_value(run: StoredRun, key: str) -> Any:
    """Return the value that a run is sorted by; None if the run lacks it or it is NaN."""
    if key in TEXTS:
        return TEXTS[key](run)
    value = run.numbers.get(key)
    return None if value is None or math.isnan(value) else value


def preferred_direction(key: str) -> int:
    """Return 1 if higher values are better, -1 if lower ones are, 0 if neither.

    >>> [preferred_direction(key) for key in ("test/accuracy", "val/loss", "epochs")]
    [1, -1, 0]
    """
    return 1 if _HIGHER.search(key) else -1 if _LOWER.search(key) else 0
