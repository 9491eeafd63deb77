"""``make train multirun=true key=a,b …``: one run for each combination, one after another."""

from __future__ import annotations

from rich.table import Table

from convlens.cli.results import screen
from convlens.cli.words import extract
from convlens.core.errors import Interrupted, UserError
from convlens.core.processes import started_outside
from convlens.experiment.multirun import FAILED, TRAINED, Job, combinations, train_job

FLAGS = ("-m", "--multirun")


def asked_for(words: list[str]) -> tuple[bool, list[str]]:
    """Whether several runs are wanted, and the other words.

    Raises:
        UserError: ``multirun`` with another value than true or false.
    """
    value, rest = extract([word for word in words if word not in FLAGS], "multirun")
    if value not in (None, "true", "false"):
        raise UserError(f"multirun={value}: true or false is expected")
    flagged = any(word in FLAGS for word in words)
    return flagged or value == "true", rest


def run_all(words: list[str]) -> int:
    """Train every combination in processes of its own; 1 if any failed.

    Raises:
        UserError: a combination that does not compose, or whose folder is taken; none is started.
        Interrupted: Ctrl-C, which ends the run that trains and starts no other.
    """
    if started_outside():
        raise UserError("multirun=true starts its runs itself, without torchrun or srun before it")
    jobs = combinations(words)
    stopped = False
    for number, job in enumerate(jobs, 1):
        print(f"run {number} of {len(jobs)}: {job.told}", flush=True)
        stopped = train_job(job)
        if stopped:
            break
    _print(jobs)
    if stopped:
        raise Interrupted(f"interrupted in run {number} of {len(jobs)}")
    return int(any(job.state != TRAINED for job in jobs))


def _print(jobs: list[Job]) -> None:
    failed = sum(job.state.startswith(FAILED) for job in jobs)
    print(f"{len(jobs)} runs, {failed} failed; accuracy at the lowest validation loss of each")
    table = Table()
    table.add_column("run")
    for name in ("validation", "test"):
        table.add_column(name, justify="right")
    table.add_column("run folder", overflow="fold")
    for job in jobs:
        cells = [f"{value:.4f}" for value in job.accuracies.values()] or [job.state, ""]
        table.add_row(job.told, *cells, str(job.home or ""))
    screen().print(table)
