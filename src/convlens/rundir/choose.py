"""Which runs a person means, and in which order they are shown."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from pathlib import Path

from convlens.core.errors import UserError, nearest
from convlens.rundir.paths import holds_run
from convlens.rundir.runs import KeptRun, UnreadRun, better, find_run

TEXTS = ("run", "date", "experiment", "state")  # columns one can sort by that hold no numbers


def named_runs(text: str) -> list[Path]:
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


def in_order(
    runs: list[KeptRun | UnreadRun], asked: str, columns: Sequence[str] = ()
) -> list[KeptRun | UnreadRun]:
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
    read = [run for run in runs if isinstance(run, KeptRun)]
    known = {*TEXTS, *columns}
    known.update(*(run.numbers for run in read))
    if key not in known:
        raise UserError(f"sort={asked}: no run has such a column; {nearest(key, known)}")
    values = [(_value(run, key), run) for run in read]
    having = [pair for pair in values if pair[0] is not None]
    descending = asked[0] == "-" or (asked[0] != "+" and (key == "date" or better(key) > 0))
    having.sort(key=lambda pair: pair[0], reverse=descending)
    lacking = [run for value, run in values if value is None]
    return [run for _, run in having] + lacking + [r for r in runs if isinstance(r, UnreadRun)]


def _value(run: KeptRun, key: str):
    """What a run is sorted by; None where it has none, NaN included."""
    if key == "run":
        return str(run.home)
    if key == "date":
        return run.started
    if key == "experiment":
        return str(run.config["experiment"])
    if key == "state":
        return run.state
    value = run.numbers.get(key)
    return None if value is None or math.isnan(value) else value
