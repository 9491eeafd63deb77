"""``make report run=RUN_DIR``: the whole run on one page."""

from __future__ import annotations

from pathlib import Path

from convlens.cli.words import take
from convlens.rundir.runs import find_newest_run


def run(words: list[str]) -> int:
    asked = take(words, "report", {"run": None})["run"]
    home = find_newest_run("metrics.csv") if asked == "last" else Path(asked).expanduser()
    # the libraries behind a page are needed only now that there is a run
    from convlens.pages.report import report

    file = report(home)
    print(f"{file}  ({file.stat().st_size / 1e6:.1f} MB)")
    return 0
