"""``make train [exp=NAME] [key=value …]``; ``multirun=true`` with ``key=a,b`` for several.

Several runs are trained one after another, one for each combination of values.
"""

from __future__ import annotations

from rich.table import Table

from convlens.cli.results import closing, folded, right, screen
from convlens.cli.words import extract
from convlens.config.compose import compose
from convlens.core.errors import Interrupted, UserError
from convlens.core.processes import is_first_process, is_launched_externally
from convlens.core.stopwatch import Stopwatch
from convlens.experiment.multirun import FAILED, TRAINED, Job, combinations, train_job

FLAGS = ("-m", "--multirun")


def run(words: list[str]) -> int:
    several, words = asked_for(words)
    if several:
        return _run_all(words)
    with Stopwatch("setup").running():
        config = compose(words)
        from convlens.experiment.train import train

        home, summary = train(config)
    if not is_first_process():
        return 0
    if config.trainer.fast_dev_run:
        print("dry run: one batch of training, validation and test went through; nothing is kept")
    else:
        closing(home, summary)
    return 0


def asked_for(words: list[str]) -> tuple[bool, list[str]]:
    """Whether several runs are wanted, and the other words.

    Raises:
        UserError: ``multirun`` with another value than true or false.
    """
    plain = [word for word in words if word not in FLAGS]
    asked, rest = extract(plain, "multirun")
    value = asked["multirun"]
    if value not in (None, "true", "false"):
        raise UserError(f"multirun={value}: true or false is expected")
    return plain != words or value == "true", rest


def _run_all(words: list[str]) -> int:
    """Train every combination in processes of its own; 1 if any failed.

    Raises:
        UserError: a combination that does not compose, or whose folder is taken; none is started.
        Interrupted: Ctrl-C, which ends the run that trains and starts no other.
    """
    if is_launched_externally():
        raise UserError("multirun=true starts its runs itself, without torchrun or srun before it")
    jobs = combinations(words)
    stopped = False
    for number, job in enumerate(jobs, 1):
        print(f"run {number} of {len(jobs)}: {job.told}", flush=True)
        if stopped := train_job(job):
            break
    _print(jobs)
    if stopped:
        raise Interrupted(f"interrupted in run {number} of {len(jobs)}")
    return int(any(job.state != TRAINED for job in jobs))


def _print(jobs: list[Job]) -> None:
    failed = sum(job.state.startswith(FAILED) for job in jobs)
    print(f"{len(jobs)} runs, {failed} failed; accuracy at the lowest validation loss of each")
    table = Table("run", right("validation"), right("test"), folded("run folder"))
    for job in jobs:
        cells = [f"{value:.4f}" for value in job.accuracies.values()] or [job.state, ""]
        table.add_row(job.told, *cells, str(job.home or ""))
    screen().print(table)
