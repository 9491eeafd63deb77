"""Many runs: finding them, reading them and sorting them."""

from __future__ import annotations

import logging
import math
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from convlens.core.errors import UserError, nearest
from convlens.rundir.paths import OUTPUTS, find_run_folders, holds_run
from convlens.rundir.read import StoredRun, read_run

log = logging.getLogger("convlens")
# columns one can sort by that hold no numbers
TEXTS = {
    "run": lambda run: str(run.home),
    "date": lambda run: run.started,
    "experiment": lambda run: str(run.config.experiment),
    "state": lambda run: run.state,
}
_HIGHER = re.compile(r"(^|/)(accuracy|balanced_accuracy|f1)(/|$)|^images_per_second$")
_LOWER = re.compile(r"(^|/)loss$|^seconds(/|$)|^(alarms|failures)$")


@dataclass(frozen=True)
class UnreadableRun:
    """A folder that holds a run which cannot be read, and the reason in one line."""

    home: Path
    reason: str


def read_all_runs(parent: Path) -> list[StoredRun | UnreadableRun]:
    """Every run below a folder, by path; what cannot be read is among them.

    Raises:
        UserError: there is no such folder.
    """
    if not parent.is_dir():
        raise UserError(f"there is no folder {parent}; `make train` writes runs into outputs/")
    found: list[StoredRun | UnreadableRun] = []
    for home in find_run_folders(parent):
        try:
            found.append(read_run(home))
        except UserError as error:
            found.append(UnreadableRun(home, str(error)))
    return found


def find_run(word: str) -> Path:
    """The run folder that a word means: ``last``, a path, or a path below outputs/.

    Raises:
        UserError: none.
    """
    if word == "last":
        return find_newest_run("metrics.csv")
    for path in (Path(word).expanduser(), OUTPUTS / word):
        if path.is_dir():
            return path
    known = [str(home) for home in find_run_folders(OUTPUTS)]
    start = f"{OUTPUTS}/"
    if not word.startswith(start):
        known = [name.removeprefix(start) for name in known]
    if not known:
        raise UserError(f"there is no run folder {word}, and no run in {start} either")
    raise UserError(f"there is no run folder {word}; {nearest(word, [*known, 'last'])}")


def find_runs(text: str) -> list[Path]:
    """The run folders that ``runs=`` speaks of: paths between blanks, quoted where they hold any.

    A pattern such as ``outputs/scratch/*`` means all runs that it matches.

    Raises:
        UserError: a word that means no run folder.
    """
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UserError(f"runs={text}: {error}; check the quotes") from error
    homes: list[Path] = []
    for word in words:
        if "*" not in word:
            homes.append(find_run(word))
            continue
        path = Path(word).expanduser()
        below = Path(path.anchor)
        found = sorted(below.glob(str(path.relative_to(below))))
        matched = [home for home in found if holds_run(home)]
        if not matched:
            raise UserError(f"runs={word}: matches no run folder; `make runs` lists them")
        homes += matched
    return homes


def find_newest_run(having: str = "config.yaml") -> Path:
    """The run that was started last, for ``run=last`` and ``ckpt=last``.

    Args:
        having: a file that the command needs; runs that do not have it yet are passed over, with
            a line.

    Raises:
        UserError: there is none.
    """
    runs = [home for home in find_run_folders(OUTPUTS) if holds_run(home)]
    if not runs:
        raise UserError(f"there is no run in {OUTPUTS}/ yet; `make train` makes one")
    runs.sort(key=lambda home: (home / "config.yaml").stat().st_mtime_ns, reverse=True)
    ready = next((home for home in runs if (home / having).exists()), None)
    if ready is None:
        raise UserError(f"no run in {OUTPUTS}/ has {having} yet; the newest is {runs[0]}")
    if ready != runs[0]:
        log.info("last is %s: the newer %s has no %s yet", ready, runs[0], having)
    return ready


def sort_runs(
    runs: list[StoredRun | UnreadableRun], asked: str, columns: Sequence[str] = ()
) -> list[StoredRun | UnreadableRun]:
    """The runs sorted by a column or by any number of their summaries.

    Args:
        asked: the key; with ``-`` before it descending, with ``+`` ascending. Otherwise accuracies
            and dates descend, all else ascends. Runs that lack the value, or that cannot be read,
            come last.
        columns: numbers one can sort by although no run has them yet.

    Raises:
        UserError: a key that no run has.
    """
    key = asked.removeprefix("-").removeprefix("+")
    read = [run for run in runs if isinstance(run, StoredRun)]
    known = {*TEXTS, *columns}
    known.update(*(run.numbers for run in read))
    if key not in known:
        raise UserError(f"sort={asked}: no run has such a column; {nearest(key, known)}")
    descending = asked[0] == "-" or (
        asked[0] != "+" and (key == "date" or preferred_direction(key) > 0)
    )
    values = {run.home: _value(run, key) for run in read}
    having = [run for run in read if values[run.home] is not None]
    having.sort(key=lambda run: values[run.home], reverse=descending)
    lacking = [run for run in read if values[run.home] is None]
    return having + lacking + [run for run in runs if isinstance(run, UnreadableRun)]


def _value(run: StoredRun, key: str):
    """What a run is sorted by; None where it has none, NaN included."""
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
