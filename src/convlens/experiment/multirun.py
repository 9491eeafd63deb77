"""One run for each combination of values, each in processes of its own."""

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

from convlens.config.checks import replace_values
from convlens.config.compose import compose, split_values
from convlens.config.schema import Config
from convlens.experiment.prepare import build_claim
from convlens.rundir.paths import OUTPUTS, make_fresh_folder

NOT_STARTED, TRAINED, INTERRUPTED, FAILED = "not started", "trained", "interrupted", "failed"


@dataclass
class Job:
    """One combination.

    Attributes:
        words: everything that was typed, with one value each; ``run_dir`` is apart.
        told: the words that tell this combination from the others.
        config: what they compose to.
        home: its run folder; None until it is known.
        state: what came of it so far.
    """

    words: list[str]
    told: str
    config: Config
    home: Path | None
    state: str = NOT_STARTED

    @property
    def accuracies(self) -> dict[str, float]:
        """Of ``val`` and ``test`` at the lowest validation loss; empty where there are none."""
        # fast_dev_run leaves no summary; a failed run may lie in the folder of an older one
        if self.state != TRAINED or not (self.home / "summary.json").exists():
            return {}
        summary = json.loads((self.home / "summary.json").read_text())
        return {stage: summary[stage]["accuracy"] for stage in ("val", "test")}


def build_jobs(words: list[str]) -> list[Job]:
    """A job for each combination of values; the last word's change fastest.

    Raises:
        UserError: a combination that does not compose, or whose folder is taken.
    """
    choices = {}
    for word in words:
        values = split_values(word)
        choices[values[0].partition("=")[0]] = values  # a key's last word wins, as it does always
    given = choices.pop("run_dir", [])
    varied = {values[0].partition("=")[0] for values in choices.values() if len(values) > 1}
    jobs = []
    for number, chosen in enumerate(itertools.product(*choices.values())):
        config = compose([*chosen, *given])
        home = None
        if config.run_dir:
            home = Path(config.run_dir) / str(number)
            config = replace_values(config, {"run_dir": str(home)})
        build_claim(config).check()
        told = " ".join(word for word in chosen if word.partition("=")[0] in varied)
        jobs.append(Job(list(chosen), told or config.experiment, config, home))
    return jobs


def train_job(job: Job) -> bool:
    """Train in new processes, so that nothing of a run leaks into the next.

    Returns:
        Whether the whole is to stop.
    """
    if job.home is None:
        job.home = make_fresh_folder(OUTPUTS / job.config.experiment)
    words = [*job.words, f"run_dir={job.home}"]
    # a group of its own: Ctrl-C reaches it once, from here, and so does the end of this process
    child = subprocess.Popen(
        [sys.executable, "-m", "convlens", "train", *words],
        stdin=subprocess.DEVNULL,
        process_group=0,
    )
    stopped = False
    with _signals_as_ctrl_c():
        while True:
            try:
                status = child.wait()
                break
            except KeyboardInterrupt:
                stopped = True
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGINT)
    job.state = TRAINED if status == 0 else INTERRUPTED if stopped else f"{FAILED} ({status})"
    with contextlib.suppress(OSError):
        job.home.rmdir()  # what failed before its first file leaves no empty folder
    return stopped


@contextlib.contextmanager
def _signals_as_ctrl_c() -> Iterator[None]:
    """A closed terminal and a polite kill are Ctrl-C too: they must not leave a run behind."""

    def interrupt(*_):
        raise KeyboardInterrupt

    # those that would end this process; under nohup, say, one would not
    numbers = [n for n in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) == signal.SIG_DFL]
    for number in numbers:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)
