"""``make report run=RUN_DIR``: the whole run on one page."""

from __future__ import annotations

from pathlib import Path

from convlens.cli.words import Word, Words, parse_words
from convlens.core.loading import loading_libraries
from convlens.core.progress import progress_bar
from convlens.rundir.runs import find_newest_run

WORDS: Words = {
    "run": Word(
        "the run folder; last is the newest run",
        form="RUN_DIR", required=True, synonyms=("run_dir",),
    ),
}  # fmt: skip


def run(words: list[str]) -> int:
    name = parse_words(words, "report", WORDS)["run"]
    home = find_newest_run("metrics.csv") if name == "last" else Path(name).expanduser()
    with loading_libraries():
        from convlens.pages.report import report

    with progress_bar("writing the report"):
        file = report(home)
    print(f"{file}  ({file.stat().st_size / 1e6:.1f} MB)")
    return 0
