"""``make train [exp=NAME] [key=value …]``; ``multirun=true`` with ``key=a,b`` for several."""

from __future__ import annotations

from convlens import logs
from convlens.cli import multirun
from convlens.cli.results import closing
from convlens.config import compose
from convlens.folder import first_process
from convlens.stopwatch import Stopwatch


def run(words: list[str]) -> int:
    logs.speak()
    several, words = multirun.asked_for(words)
    if several:
        return multirun.run_all(words)
    with Stopwatch("setup").running():
        config = compose(words)
        from convlens.run import train  # after the words are known to be right: it takes seconds

        home, summary = train(config)
    if not first_process():
        return 0
    if config["trainer"]["fast_dev_run"]:
        print("dry run: one batch of training, validation and test went through; nothing is kept")
    else:
        closing(home, summary)
    return 0
