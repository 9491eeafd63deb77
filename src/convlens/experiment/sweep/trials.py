"""One trial: its run, in processes of its own, until it ends however it ends."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from convlens.core import system
from convlens.core.errors import UserError, nearest
from convlens.experiment.multirun import is_finished
from convlens.experiment.sweep.leases import Lease
from convlens.experiment.sweep.plan import Plan
from convlens.experiment.sweep.pruning import SWEEP, TRIAL
from convlens.rundir.lock import find_holder
from convlens.rundir.paths import holds_run
from convlens.rundir.read import read_run

FOLDER = "trials"
MOST_KILLS = 3  # in the same epoch, after which a trial has failed


def trial_folder(home: Path, number: int) -> Path:
    """Return the run folder of a trial."""
    return home / FOLDER / f"{number:04d}"


@dataclass
class RunningTrial:
    """A trial that this worker works on.

    Attributes:
        home: folder of the sweep.
        number: of the trial.
        words: all of its words, without ``run_dir``.
        label: those in which trials differ.
        lease: the right to work on it.
        slot: its place among the trials that run at the same time.
        environment: variables of its processes, beside those of this one.
        child: its first process; None while that of an earlier worker still runs.
    """

    home: Path
    number: int
    words: list[str]
    label: str
    lease: Lease
    slot: int
    environment: Mapping[str, str]
    child: subprocess.Popen | None = None
    _kills: dict[int, int] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Its run folder."""
        return trial_folder(self.home, self.number)

    @property
    def output(self) -> Path:
        """The file of what its processes print."""
        return self.folder.with_suffix(".log")

    @property
    def is_orphan(self) -> bool:
        """Whether a process that an earlier worker started still trains it."""
        return self.child is None and find_holder(self.folder).is_alive

    @property
    def is_finished(self) -> bool:
        """Whether its run is complete, with all its files."""
        return is_finished(self.folder)

    def start(self) -> None:
        """Start its run, or continue it."""
        command = ["train", *self.words, f"run_dir={self.folder}"]
        if holds_run(self.folder):
            own = [word for word in self.words if word.startswith("config_dir=")]
            command = ["resume", f"run={self.folder}", *own]
        self.output.parent.mkdir(exist_ok=True)
        names = {SWEEP: str(self.home), TRIAL: str(self.number)}
        with open(self.output, "ab") as output:
            self.child = system.start_group(
                [sys.executable, "-m", "convlens", *command],
                output=output, environment={**names, **self.environment},
            )  # fmt: skip

    def is_killed_too_often(self) -> bool:
        """Count that its process was killed; return whether it is no use to go on."""
        epoch = read_run(self.folder).last_epoch if holds_run(self.folder) else 0
        self._kills[epoch] = self._kills.get(epoch, 0) + 1
        return self._kills[epoch] >= MOST_KILLS

    def find_reason(self, status: int) -> str:
        """Return why its process failed, in one line."""
        if status < 0:
            return f"killed by {signal.Signals(-status).name} {MOST_KILLS} times in one epoch"
        text = self.output.read_text(encoding="utf-8", errors="replace")
        lines = [line for line in text.splitlines() if line.strip()]
        return lines[-1].removeprefix("convlens: ") if lines else f"exit status {status}"


def read_values(folder: Path, plan: Plan) -> list[float]:
    """Return the metrics of a finished run.

    Raises:
        UserError: it has no such number.
    """
    numbers = read_run(folder).numbers
    for metric in plan.metrics:
        if metric not in numbers:
            known = [name for name in numbers if not name.startswith("test")]
            raise UserError(
                f"metric={metric}: {folder} has no such number; {nearest(metric, known)}"
            )
    return [numbers[metric] for metric in plan.metrics]


def remove_checkpoints(folder: Path) -> bool:
    """Remove the checkpoints of a run; return whether there were any."""
    found = (folder / "checkpoints").is_dir()
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return found
