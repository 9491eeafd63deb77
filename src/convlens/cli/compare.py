"""``make compare runs="A B …" [run_dir=DIR]``: runs side by side on one page."""

from __future__ import annotations

from rich.table import Table

from convlens.cli.results import folded, right, screen
from convlens.cli.words import take
from convlens.core.errors import UserError
from convlens.pages import compare as comparison
from convlens.rundir.paths import check_free, write_into
from convlens.rundir.read import StoredRun
from convlens.rundir.runs import find_runs


def run(words: list[str]) -> int:
    given = [word.removeprefix("runs=") for word in words if word.startswith("runs=")]
    rest = [word for word in words if not word.startswith("runs=")]
    if rest == words:
        raise UserError('compare needs runs="A B": two run folders or more; last is the newest run')
    asked = take(rest, "compare", {"run_dir": ""})
    check_free(asked["run_dir"], comparison.PAGE)
    homes = [home for text in given for home in find_runs(text)]
    runs = comparison.read_runs(homes)
    page = comparison.compare(homes).encode()
    _print(runs, comparison.shorten_names(homes))
    print(f"page  {write_into(asked['run_dir'], 'compare', comparison.PAGE, page)}")
    return 0


def _print(runs: list[StoredRun], names: list[str]) -> None:
    table = Table(folded("run"), *(right(heading) for heading, _, _ in comparison.COLUMNS))
    for name, cells in zip(names, comparison.result_rows(runs), strict=True):
        table.add_row(name, *(cell.text + (" *" if cell.best else "") for cell in cells))
    screen().print(table)
    print("* best of its column; validation at each run's best epoch")
    for each, name in zip(runs, names, strict=True):
        if each.summary is None:
            print(f"! {name}: {each.state}, compared as far as it went")
    found = comparison.find_differences([each.config for each in runs])
    if not found:
        print("the runs have equal settings")
        return
    table = Table(*map(folded, ("key", *names)))
    for key, values in found:
        table.add_row(key, *values)
    screen().print(table)
