"""``make train [exp=NAME] [key=value …]``; ``multirun=true`` with ``key=a,b`` for several."""

from __future__ import annotations

from convlens.cli import multirun
from convlens.cli.results import closing
from convlens.config.compose import compose
from convlens.core.processes import first_process
from convlens.core.stopwatch import Stopwatch
from convlens.rundir import log as logs


def run(words: list[str]) -> int:
    logs.speak()
    several, words = multirun.asked_for(words)
    if several:
        return multirun.run_all(words)
    with Stopwatch("setup").running():
        config = compose(words)
        from convlens.experiment.train import train

        home, summary = train(config)
    if not first_process():
        return 0
    if config.trainer.fast_dev_run:
        print("dry run: one batch of training, validation and test went through; nothing is kept")
    else:
        closing(home, summary)
    return 0
