"""Train one run for each combination of values, each in its own processes."""

from __future__ import annotations

import contextlib
import itertools
import json
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from convlens.config.checks import replace_values
from convlens.config.compose import compose, split_values
from convlens.config.schema import Config
from convlens.core import system
from convlens.core.errors import UserError
from convlens.core.files import write_atomic
from convlens.experiment.prepare import build_claim
from convlens.rundir.paths import OUTPUTS, holds_run, make_folder, make_fresh_folder

RECORD = "multirun.json"
NOT_STARTED, TRAINED, INTERRUPTED, FAILED = "not started", "trained", "interrupted", "failed"


@dataclass
class Job:
    """One combination of values.

    Attributes:
        words: all overrides, with one value each, except ``run_dir``.
        label: the overrides in which this combination differs from others.
        config: the composed config.
        home: its run folder; None until it is known.
        state: whether it was started, and how it ended.
    """

    words: list[str]
    label: str
    config: Config
    home: Path | None
    state: str = NOT_STARTED

    @property
    def accuracies(self) -> dict[str, float]:
        """By stage (``val``, ``test``), at the lowest validation loss; empty if not trained."""
        # fast_dev_run leaves no summary; a failed run may have the folder of an older one
        if self.state != TRAINED or not (self.home / "summary.json").exists():
            return {}
        summary = json.loads((self.home / "summary.json").read_text(encoding="utf-8"))
        return {stage: summary[stage]["accuracy"] for stage in ("val", "test")}


def build_jobs(words: list[str], *, resumed: bool = False) -> list[Job]:
    """Return a job for each combination of values; the values of the last override change fastest.

    Args:
        words: overrides; several values of a key are separated by commas.
        resumed: whether the run folders may contain runs of these combinations; those that are
            finished are not trained again.

    Raises:
        UserError: a combination does not compose, or its run folder is in use.
    """
    choices = {}
    for word in words:
        values = split_values(word)
        choices[values[0].partition("=")[0]] = values  # the last override of a key wins, as always
    run_dir = choices.pop("run_dir", [])
    varied = {values[0].partition("=")[0] for values in choices.values() if len(values) > 1}
    jobs = []
    for number, chosen in enumerate(itertools.product(*choices.values())):
        config = compose([*chosen, *run_dir])
        home = None
        if config.run_dir:
            home = Path(config.run_dir) / str(number)
            config = replace_values(config, {"run_dir": str(home)})
        if not (resumed and home and holds_run(home)):
            build_claim(config).check()
        label = " ".join(word for word in chosen if word.partition("=")[0] in varied)
        state = TRAINED if resumed and home and is_finished(home) else NOT_STARTED
        jobs.append(Job(list(chosen), label or config.experiment, config, home, state))
    return jobs


def is_finished(home: Path) -> bool:
    """Return whether a run folder contains all that a run writes."""
    return (home / "summary.json").exists() and (home / "report.html").exists()


def record_jobs(jobs: list[Job], *, resumed: bool) -> None:
    """Write the words of all runs beside them, so that they can be continued.

    Raises:
        UserError: ``resumed``, and there is no such record, or it has other words.
    """
    if jobs[0].home is None:
        return
    file, runs = jobs[0].home.parent / RECORD, [job.words for job in jobs]
    if not resumed:
        make_folder(file.parent)
        write_atomic(file, json.dumps(runs, indent=1, ensure_ascii=False) + "\n")
        return
    try:
        before = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read ({error}); leave resume=true out") from error
    if before != runs:
        raise UserError(
            f"{file.parent} contains the runs of other words; type the same ones as before, or "
            "choose another run_dir"
        )


def train_job(job: Job) -> bool:
    """Train in new processes, so that no state of a run leaks into the next.

    Args:
        job: the combination; its folder and state are updated.

    Returns:
        Whether it was interrupted, so that no other job may start.
    """
    if job.home is None:
        job.home = make_fresh_folder(OUTPUTS / job.config.experiment)
    words = ["train", *job.words, f"run_dir={job.home}"]
    if holds_run(job.home) and not job.config.overwrite:
        own = [word for word in job.words if word.startswith("config_dir=")]
        words = ["resume", f"run={job.home}", *own]
    status, is_stopped = run_apart(words)
    job.state = TRAINED if status == 0 else INTERRUPTED if is_stopped else f"{FAILED} ({status})"
    with contextlib.suppress(OSError):
        job.home.rmdir()  # a run that failed before its first file leaves no empty folder
    return is_stopped


def run_apart(words: list[str]) -> tuple[int, bool]:
    """Run a command of convlens in processes of its own.

    Args:
        words: the command and its words.

    Returns:
        Its exit status, and whether it was interrupted.
    """
    # Ctrl-C must reach it only once, through the line below
    child = system.start_group([sys.executable, "-m", "convlens", *words])
    is_stopped = False
    with convert_signals_to_ctrl_c():
        while True:
            try:
                return system.wait_for(child), is_stopped
            except KeyboardInterrupt:
                is_stopped = True
                system.interrupt_group(child)


@contextlib.contextmanager
def convert_signals_to_ctrl_c() -> Iterator[None]:
    """Treat SIGTERM and a closed terminal like Ctrl-C, so that no run continues on its own."""

    def interrupt(*_):
        raise KeyboardInterrupt

    # only signals that would end this process: nohup, for one, makes it ignore SIGHUP
    numbers = [n for n in system.CLOSINGS if signal.getsignal(n) == signal.SIG_DFL]
    for number in numbers:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)
