"""``make resume run=RUN_DIR``."""

from __future__ import annotations

from pathlib import Path

from convlens import folder, logs
from convlens.cli.results import closing
from convlens.cli.words import take
from convlens.config_checks import check_stored


def run(words: list[str]) -> int:
    logs.speak()
    asked = take(words, "resume", {"run": None})["run"]
    home = folder.newest_run() if asked == "last" else Path(asked).expanduser()
    config = folder.read_config(home)
    check_stored(config, str(home / "config.yaml"))
    from convlens.run import train

    home, summary = train(config, resume=home)
    if folder.first_process():
        closing(home, summary, kept=True)
    return 0
