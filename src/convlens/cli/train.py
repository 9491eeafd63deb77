"""``make train [exp=NAME] [key=value …]``."""

from __future__ import annotations

from convlens import logs
from convlens.cli.results import closing
from convlens.config import compose
from convlens.folder import first_process


def run(words: list[str]) -> int:
    logs.speak()
    config = compose(words)
    from convlens.run import train  # after the words are known to be right: torch takes seconds

    home, summary = train(config)
    if first_process():
        closing(home, summary, kept=not config["trainer"]["fast_dev_run"])
    return 0
