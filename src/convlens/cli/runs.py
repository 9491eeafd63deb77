"""``make runs [sort=test/accuracy] [dir=outputs]``: every run in one table."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table

from convlens.cli.results import folded, right, screen
from convlens.cli.words import take
from convlens.core.errors import UserError
from convlens.rundir.read import StoredRun
from convlens.rundir.runs import TEXTS, UnreadableRun, read_all_runs, sort_runs

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


def run(words: list[str]) -> int:
    asked = take(words, "runs", {"sort": "date", "dir": "outputs"})
    parent = Path(asked["dir"]).expanduser()
    found = read_all_runs(parent)
    if not found:
        raise UserError(f"there is no run in {parent}/ yet; `make train` makes one")
    found = sort_runs(found, asked["sort"], [key for key, _ in NUMBERS.values()])
    table, console = _table(found, parent, asked["sort"].lstrip("+-")), screen()
    if not console.is_terminal:  # one line a run, for grep and for files
        console.width = console.measure(table, options=console.options.update(width=WIDEST)).maximum
    console.print(table)
    for each in found:
        if isinstance(each, UnreadableRun):
            print(f"! {each.reason}")
    return 0


def _table(runs: list[StoredRun | UnreadableRun], parent: Path, sort: str) -> Table:
    """Columns as ``NUMBERS`` says, and one more if the table is sorted by another number."""
    shown = dict(NUMBERS)
    if sort not in (*TEXTS, "seed", *(key for key, _ in NUMBERS.values())):
        shown[sort] = (sort, ".4g")
    texts = map(folded, ("run", "date", "experiment"))
    table = Table(*texts, *map(right, ("seed", *shown)), folded("state"))
    for each in runs:
        name = str(each.home.relative_to(parent))
        if isinstance(each, UnreadableRun):
            table.add_row(name, *[""] * (3 + len(shown)), "failed to read")
            continue
        numbers = each.numbers
        cells = [f"{numbers[key]:{how}}" if key in numbers else "" for key, how in shown.values()]
        seed = "" if each.config.seed is None else str(each.config.seed)
        experiment = str(each.config.experiment)
        table.add_row(name, f"{each.started:%Y-%m-%d %H:%M}", experiment, seed, *cells, each.state)
    return table
