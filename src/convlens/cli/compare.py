"""``make compare runs="A B …" [run_dir=DIR]``: runs side by side on one page."""

from __future__ import annotations

from rich.table import Table

from convlens.cli.results import folded, right, screen
from convlens.cli.words import Word, Words, parse_words
from convlens.core.progress import progress_bar
from convlens.pages import compare as comparison
from convlens.rundir.paths import check_free, write_into
from convlens.rundir.read import StoredRun
from convlens.rundir.runs import find_runs

WORDS: Words = {
    "runs": Word(
        "two run folders or more, or a pattern such as outputs/scratch/*; last is the newest run",
        form='"A B …"', required=True,
    ),
    "run_dir": Word("the folder for the page; default: a new one in outputs/compare/", form="DIR"),
}  # fmt: skip


def run(words: list[str]) -> int:
    values = parse_words(words, "compare", WORDS)
    check_free(values["run_dir"], comparison.PAGE)
    # unlike any other word, it may be typed several times
    texts = [word.removeprefix("runs=") for word in words if word.startswith("runs=")]
    homes = [home for text in texts for home in find_runs(text)]
    with progress_bar(f"comparing {len(homes)} runs"):
        runs = comparison.read_runs(homes)
        page = comparison.compare(homes).encode()
    _print_runs(runs, comparison.shorten_names(homes))
    print(f"page  {write_into(values['run_dir'], 'compare', comparison.PAGE, page)}")
    return 0


def _print_runs(runs: list[StoredRun], names: list[str]) -> None:
    """Print the results of each run, and the settings that differ."""
    table = Table(folded("run"), *(right(heading) for heading, _, _ in comparison.COLUMNS))
    for name, cells in zip(names, comparison.result_rows(runs), strict=True):
        table.add_row(name, *(cell.text + (" *" if cell.best else "") for cell in cells))
    screen().print(table)
    print("* best of its column; validation at each run's best epoch")
    for each, name in zip(runs, names, strict=True):
        if each.summary is None:
            print(f"! {name}: {each.state}; compared by its epochs so far")
    differences = comparison.find_differences([each.config for each in runs])
    if not differences:
        print("the runs have equal settings")
        return
    table = Table(*map(folded, ("key", *names)))
    for key, values in differences:
        table.add_row(key, *values)
    screen().print(table)
