"""``make train multirun=true key=a,b …``: one run for each combination, one after another."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from convlens.cli.results import screen
from convlens.cli.words import extract
from convlens.config.compose import compose, values_of
from convlens.core.errors import Interrupted, UserError
from convlens.core.processes import started_outside
from convlens.rundir.claim import check_run_dir
from convlens.rundir.paths import OUTPUTS, make_fresh_folder

FLAGS = ("-m", "--multirun")


@dataclass
class Job:
    """One combination.

    Attributes:
        words: everything that was typed, with one value each; ``run_dir`` is apart.
        told: the words that tell this combination from the others.
        config: what they compose to.
        home: its run folder; None until it is known.
        state: what the table says where no accuracy is to be had.
    """

    words: list[str]
    told: str
    config: dict
    home: Path | None
    state: str = "not started"


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
        stopped = _train(job)
        if stopped:
            break
    _print(jobs)
    if stopped:
        raise Interrupted(f"interrupted in run {number} of {len(jobs)}")
    return int(any(job.state != "trained" for job in jobs))


def combinations(words: list[str]) -> list[Job]:
    """A job for each combination of values; the last word's change fastest.

    Raises:
        UserError: as :func:`run_all` says.
    """
    choices = {}
    for word in words:
        values = values_of(word)
        choices[values[0].partition("=")[0]] = values  # a key's last word wins, as it does always
    given = choices.pop("run_dir", [])
    varied = {values[0].partition("=")[0] for values in choices.values() if len(values) > 1}
    jobs = []
    for number, chosen in enumerate(itertools.product(*choices.values())):
        config = compose([*chosen, *given])
        home = None
        if config["run_dir"]:
            home = Path(config["run_dir"]) / str(number)
            config["run_dir"] = str(home)
        check_run_dir(config)
        told = " ".join(word for word in chosen if word.partition("=")[0] in varied)
        jobs.append(Job(list(chosen), told or config["experiment"], config, home))
    return jobs


def _train(job: Job) -> bool:
    """Train in new processes, so that nothing of a run leaks into the next.

    Returns:
        Whether the whole is to stop.
    """
    if job.home is None:
        job.home = make_fresh_folder(OUTPUTS / job.config["experiment"])
    words = [*job.words, f"run_dir={job.home}"]
    # a group of its own: Ctrl-C reaches it once, from here, and so does the end of this process
    child = subprocess.Popen(
        [sys.executable, "-m", "convlens.cli.main", "train", *words],
        stdin=subprocess.DEVNULL,
        process_group=0,
    )
    stopped = False
    with _ends_as_ctrl_c():
        while True:
            try:
                status = child.wait()
                break
            except KeyboardInterrupt:
                stopped = True
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGINT)
    job.state = "trained" if status == 0 else "interrupted" if stopped else f"failed ({status})"
    with contextlib.suppress(OSError):
        job.home.rmdir()  # what failed before its first file leaves no empty folder
    return stopped


@contextlib.contextmanager
def _ends_as_ctrl_c() -> Iterator[None]:
    """A closed terminal and a polite kill are Ctrl-C too: they must not leave a run behind."""

    def interrupt(*_):
        raise KeyboardInterrupt

    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = {n: signal.signal(n, interrupt) for n in numbers if _by_default(n)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _by_default(number: int) -> bool:
    """Whether a signal would end this process; under nohup, say, it would not."""
    return signal.getsignal(number) == signal.SIG_DFL


def _print(jobs: list[Job]) -> None:
    failed = sum(job.state.startswith("failed") for job in jobs)
    print(f"{len(jobs)} runs, {failed} failed; accuracy at the lowest validation loss of each")
    table = Table()
    table.add_column("run")
    for name in ("validation", "test"):
        table.add_column(name, justify="right")
    table.add_column("run folder", overflow="fold")
    for job in jobs:
        cells = [job.state, ""]
        # fast_dev_run leaves no summary; a failed run may lie in the folder of an older one
        if job.state == "trained" and (job.home / "summary.json").exists():
            summary = json.loads((job.home / "summary.json").read_text())
            cells = [f"{summary[stage]['accuracy']:.4f}" for stage in ("val", "test")]
        table.add_row(job.told, *cells, str(job.home or ""))
    screen().print(table)
