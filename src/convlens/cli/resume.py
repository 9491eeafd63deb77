"""``make resume run=RUN_DIR [data.dir=DIR]``: go on, wherever the same pictures lie by now."""

from __future__ import annotations

from pathlib import Path

from convlens import folder, logs
from convlens.cli.results import closing
from convlens.cli.words import take
from convlens.config import changed
from convlens.config_checks import check_stored
from convlens.data.unchanged import PLACES
from convlens.stopwatch import timed


@timed
def run(words: list[str]) -> int:
    logs.speak()
    moved = [word for word in words if word.partition("=")[0] in PLACES]
    asked = take([word for word in words if word not in moved], "resume", {"run": None})["run"]
    home = folder.newest_run() if asked == "last" else Path(asked).expanduser()
    config = folder.read_config(home)
    check_stored(config, str(home / "config.yaml"))
    config = changed(config, moved)
    from convlens.run import train

    home, summary = train(config, resume=home)
    if folder.first_process():
        closing(home, summary, kept=True)
    return 0
