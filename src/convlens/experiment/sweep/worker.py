"""Work on the trials of a sweep until there are as many as planned."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

from convlens.core import system
from convlens.core.errors import Interrupted
from convlens.core.processes import share_device
from convlens.experiment.multirun import convert_signals_to_ctrl_c
from convlens.experiment.sweep.leases import hold_sweep, take_lease
from convlens.experiment.sweep.plan import Plan
from convlens.experiment.sweep.results import collect_results
from convlens.experiment.sweep.study import (
    PRUNED_AFTER,
    find_words,
    list_running,
    list_trials,
    open_study,
    rank_trials,
    start_trial,
    tell,
    tell_failure,
)
from convlens.experiment.sweep.trials import (
    RunningTrial,
    read_values,
    remove_checkpoints,
    trial_folder,
)
from convlens.pages.sweep import SweepResults

_POLL = 0.2  # seconds between two looks at the trials that run
_RETRY = 5.0  # seconds after which a free place asks again for a trial that others left


class Worker:
    """One of the processes that work on a sweep.

    Args:
        plan: of the sweep.
        home: its folder.
        jobs: trials that run at the same time, each on a device of its own.
        say: prints a line.
    """

    def __init__(self, plan: Plan, home: Path, jobs: int, say: Callable[[str], None]) -> None:
        self.plan, self.home, self.jobs, self.say = plan, home, jobs, say
        with hold_sweep(home):
            self.study = open_study(plan, home)
        self.running: list[RunningTrial] = []
        self._asks_at = 0.0  # when a free place asks for a trial, in seconds of the clock

    def work(self) -> None:
        """Run trials until all are finished, or other workers have the last ones.

        Raises:
            UserError: a trial has no such metric.
            Interrupted: Ctrl-C; the trials that ran have stopped, and can be continued.
        """
        with convert_signals_to_ctrl_c():
            try:
                while True:
                    before = len(self.running)
                    self.running = [trial for trial in self.running if not self._is_over(trial)]
                    is_due = len(self.running) < before or time.monotonic() >= self._asks_at
                    if len(self.running) < self.jobs and is_due:
                        if self._start_one():
                            continue
                        self._asks_at = time.monotonic() + _RETRY
                    if not self.running:
                        return
                    time.sleep(_POLL)
            except KeyboardInterrupt:
                self._stop()
                count = len(self.running)
                raise Interrupted(f"interrupted with {count} unfinished trials") from None
            finally:
                for trial in self.running:
                    trial.lease.release()

    def collect_results(self) -> SweepResults:
        """Return what the sweep has found so far."""
        return collect_results(self.study, self.plan, self.home)

    def _start_one(self) -> bool:
        """Continue a trial that nobody works on, or start a new one; return whether any is left."""
        with hold_sweep(self.home):
            for trial in list_running(self.study):
                lease = take_lease(self.home, trial.number)
                if lease is not None:
                    number, words = trial.number, find_words(self.study, self.plan, trial)
                    break
            else:
                if len(list_trials(self.study)) >= self.plan.trials:
                    return False
                number, words = start_trial(self.study, self.plan)
                if (lease := take_lease(self.home, number)) is None:
                    raise RuntimeError(f"the lease of the new trial {number} is taken")
        slot = min(set(range(self.jobs)) - {each.slot for each in self.running})
        trial = RunningTrial(
            self.home, number, [*self.plan.words, *words], " ".join(words), lease, slot,
            {} if self.jobs == 1 else share_device(slot, self.jobs),
        )  # fmt: skip
        self.running.append(trial)
        if trial.is_orphan:
            self.say(f"trial {number} is still training, without its sweep: waiting for it")
        elif not trial.is_finished:
            verb = "continues" if trial.folder.exists() else "starts"
            self.say(f"trial {number} {verb}: {trial.label}")
            trial.start()
        return True

    def _is_over(self, trial: RunningTrial) -> bool:
        """Return whether a trial has ended; then it is recorded, and its lease is given back."""
        if trial.is_orphan:
            return False
        if trial.child is None:  # an earlier worker's
            if not trial.is_finished:
                self.say(f"trial {trial.number} continues: {trial.label}")
                trial.start()
                return False
            status = 0
        elif (status := trial.child.poll()) is None:
            return False
        if status < 0 and not trial.is_killed_too_often():
            self.say(f"trial {trial.number} was killed by signal {-status}; it continues")
            trial.start()
            return False
        with hold_sweep(self.home):
            self._record(trial, status)
        trial.lease.release()
        return True

    def _record(self, trial: RunningTrial, status: int) -> None:
        if status:
            reason = trial.find_reason(status)
            tell_failure(self.study, trial.number, reason)
            self.say(f"trial {trial.number} failed: {reason}")
            return
        values = read_values(trial.folder, self.plan)
        if not all(map(math.isfinite, values)):
            reason = f"{', '.join(self.plan.metrics)} is not finite"
            tell_failure(self.study, trial.number, reason)
            self.say(f"trial {trial.number} failed: {reason}")
            return
        tell(self.study, trial.number, values)
        self.say(self._describe(trial, values))
        if self.plan.keep is not None:
            self._clean()

    def _describe(self, trial: RunningTrial, values: list[float]) -> str:
        pairs = zip(self.plan.metrics, values, strict=True)
        results = ", ".join(f"{metric} {value:.4f}" for metric, value in pairs)
        after = list_trials(self.study)[trial.number].user_attrs.get(PRUNED_AFTER)
        line = f"trial {trial.number}: {results}" + (
            f", stopped after epoch {after}" if after else ""
        )
        ranked = rank_trials(self.study)
        if not ranked or len(self.plan.metrics) > 1:
            return line
        return f"{line}; the best is trial {ranked[0].number} with {ranked[0].values[0]:.4f}"

    def _clean(self) -> None:
        """Remove the checkpoints of all ended trials but the best ones."""
        kept = {trial.number for trial in rank_trials(self.study)[: self.plan.keep]}
        for trial in list_trials(self.study):
            if trial.state.is_finished() and trial.number not in kept:
                remove_checkpoints(trial_folder(self.home, trial.number))

    def _stop(self) -> None:
        children = [trial.child for trial in self.running if trial.child]
        for child in children:
            system.interrupt_group(child)
        for child in children:
            child.wait()
