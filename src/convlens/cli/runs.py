"""``make runs [sort=test/accuracy] [dir=outputs]``: every run in one table."""

from __future__ import annotations

import math
from pathlib import Path

from rich.table import Table

from convlens.cli.results import screen
from convlens.cli.words import take
from convlens.core.errors import UserError, nearest
from convlens.rundir.runs import KeptRun, UnreadRun, all_runs, better

# of the columns that hold numbers: heading, key among a run's numbers, format
NUMBERS = {
    "epochs": ("epochs", ".0f"),
    "val loss": ("val/loss", ".4f"),
    "val accuracy": ("val/accuracy", ".4f"),
    "test accuracy": ("test/accuracy", ".4f"),
    "seconds": ("seconds", ".0f"),
    "alarms": ("alarms", ".0f"),
}
WIDEST = 10_000  # letters, of a table that no terminal bounds
TEXTS = ("run", "date", "experiment", "state")  # the other columns one can sort by


def run(words: list[str]) -> int:
    asked = take(words, "runs", {"sort": "date", "dir": "outputs"})
    parent = Path(asked["dir"]).expanduser()
    found = all_runs(parent)
    if not found:
        raise UserError(f"there is no run in {parent}/ yet; `make train` makes one")
    found = in_order(found, asked["sort"])
    table, console = _table(found, parent, asked["sort"].lstrip("+-")), screen()
    if not console.is_terminal:  # one line a run, for grep and for files
        console.width = console.measure(table, options=console.options.update(width=WIDEST)).maximum
    console.print(table)
    for each in found:
        if isinstance(each, UnreadRun):
            print(f"! {each.reason}")
    return 0


def in_order(runs: list[KeptRun | UnreadRun], asked: str) -> list[KeptRun | UnreadRun]:
    """The runs sorted by a column or by any number of their summaries.

    Args:
        asked: the key; with ``-`` before it descending, with ``+`` ascending. Otherwise accuracies
            and dates descend, all else ascends. Runs that lack the value, or that cannot be read,
            come last.

    Raises:
        UserError: a key that no run has.
    """
    key = asked.removeprefix("-").removeprefix("+")
    read = [run for run in runs if isinstance(run, KeptRun)]
    known = {*TEXTS, *(key for key, _ in NUMBERS.values())}
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


def _table(runs: list[KeptRun | UnreadRun], parent: Path, sort: str) -> Table:
    """Columns as ``NUMBERS`` says, and one more if the table is sorted by another number."""
    shown = dict(NUMBERS)
    if sort not in (*TEXTS, "seed", *(key for key, _ in NUMBERS.values())):
        shown[sort] = (sort, ".4g")
    table = Table()
    table.add_column("run", overflow="fold")
    for name in ("date", "experiment"):
        table.add_column(name, overflow="fold")
    for name in ("seed", *shown):
        table.add_column(name, justify="right")
    table.add_column("state", overflow="fold")
    for each in runs:
        name = str(each.home.relative_to(parent))
        if isinstance(each, UnreadRun):
            table.add_row(name, *[""] * (3 + len(shown)), "failed to read")
            continue
        numbers = each.numbers
        cells = [f"{numbers[key]:{how}}" if key in numbers else "" for key, how in shown.values()]
        table.add_row(
            name, f"{each.started:%Y-%m-%d %H:%M}", str(each.config["experiment"]),
            str(each.config.get("seed", "")), *cells, each.state,
        )  # fmt: skip
    return table
