"""Optuna's side of a sweep: its storage, the values it proposes, and what it is told."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from convlens.core.optional import import_optional
from convlens.experiment.sweep.plan import Plan

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler
    from optuna.storages import BaseStorage
    from optuna.study import Study
    from optuna.trial import FrozenTrial, Trial

NAME = "sweep"
PRUNED_AFTER = "pruned_after"  # attribute of a trial: the epoch after which it was stopped
REASON = "reason"  # attribute of a trial: why it failed
_DATABASE, _JOURNAL = "study.db", "study.log"
_PATIENCE = 120.0  # seconds to wait for another process that writes
_BEFORE_PRUNING = 4  # finished trials before the first is stopped, and epochs of each


def open_study(plan: Plan, home: Path) -> Study:
    """Open the study of a sweep; create it if there is none.

    Raises:
        UserError: Optuna is not installed.
    """
    optuna = import_optional("optuna", "sweep", "convlens sweep")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna.create_study(
        study_name=NAME, storage=_open_storage(plan, home), directions=plan.directions,
        pruner=_build_pruner(plan), load_if_exists=True,
    )  # fmt: skip


def _open_storage(plan: Plan, home: Path) -> BaseStorage:
    from optuna import storages
    from optuna.storages import journal

    if plan.storage == "sqlite":
        patience = {"connect_args": {"timeout": _PATIENCE}}
        return storages.RDBStorage(f"sqlite:///{home / _DATABASE}", engine_kwargs=patience)
    file = home / _JOURNAL
    lock = journal.JournalFileSymlinkLock(str(file))
    lock.acquire()
    try:
        _repair_journal(file)
    finally:
        lock.release()
    return storages.JournalStorage(journal.JournalFileBackend(str(file), lock_obj=lock))


def _repair_journal(file: Path) -> None:
    """Remove the unfinished last line of a killed process: the next one would be joined to it."""
    if file.exists() and (content := file.read_bytes()) and not content.endswith(b"\n"):
        with open(file, "r+b") as journal:
            journal.truncate(content.rfind(b"\n") + 1)


def _build_pruner(plan: Plan) -> Any:
    from optuna import pruners

    if plan.pruner == "median":
        return pruners.MedianPruner(n_startup_trials=_BEFORE_PRUNING, n_warmup_steps=1)
    if plan.pruner == "halving":
        return pruners.SuccessiveHalvingPruner()
    return pruners.NopPruner()


def _build_sampler(plan: Plan, number: int, place: int) -> BaseSampler:
    """Return the sampler of one value: the same for the same results so far, whoever asks when."""
    from optuna import samplers

    seed = int(np.random.SeedSequence([plan.seed, number, place]).generate_state(1)[0])
    if plan.sampler == "random":
        return samplers.RandomSampler(seed=seed)
    # trials that others are running count as bad ones, so that workers do not all try the same
    return samplers.TPESampler(seed=seed, constant_liar=len(plan.metrics) == 1)


def start_trial(study: Study, plan: Plan) -> tuple[int, list[str]]:
    """Create a trial; return its number and its words."""
    trial = study.ask()
    return trial.number, _draw(study, plan, trial)


def find_words(study: Study, plan: Plan, trial: FrozenTrial) -> list[str]:
    """Return the words of a trial. Values that a killed process did not draw any more are drawn."""
    from optuna.trial import Trial

    return _draw(study, plan, Trial(study, trial._trial_id))


def _draw(study: Study, plan: Plan, trial: Trial) -> list[str]:
    words = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # constant_liar is called experimental
        study.sampler = _build_sampler(plan, trial.number, 0)
        trial.relative_params  # noqa: B018 - draws the values that depend on each other, once
        for place, (key, domain) in enumerate(plan.domains.items()):
            study.sampler = _build_sampler(plan, trial.number, place)
            words.append(f"{key}={domain.draw(trial, key)}")
    return words


def list_trials(study: Study) -> list[FrozenTrial]:
    """Return all trials by number."""
    return study.get_trials(deepcopy=False)


def list_running(study: Study) -> list[FrozenTrial]:
    """Return the trials that nobody has told the end of."""
    return [trial for trial in list_trials(study) if not trial.state.is_finished()]


def tell(study: Study, number: int, values: Sequence[float]) -> None:
    """Record the end of a trial, unless that was done before."""
    from optuna.trial import TrialState

    trial = list_trials(study)[number]
    if PRUNED_AFTER in trial.user_attrs:
        study.tell(number, state=TrialState.PRUNED, skip_if_finished=True)
    else:
        study.tell(number, list(values), skip_if_finished=True)


def tell_failure(study: Study, number: int, reason: str) -> None:
    """Record that a trial failed, and why."""
    from optuna.trial import TrialState

    trial = list_trials(study)[number]
    study._storage.set_trial_user_attr(trial._trial_id, REASON, reason)
    study.tell(number, state=TrialState.FAIL, skip_if_finished=True)


def rank_trials(study: Study) -> list[FrozenTrial]:
    """Return the completed trials, the best first; of two metrics, those of the Pareto front."""
    from optuna.study import StudyDirection
    from optuna.trial import TrialState

    front = {trial.number for trial in study.best_trials} if _has_complete(study) else set()
    sign = -1 if study.directions[0] == StudyDirection.MAXIMIZE else 1
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    # within the front, and outside, by the first metric
    return sorted(complete, key=lambda t: (t.number not in front, sign * t.values[0], t.number))


def _has_complete(study: Study) -> bool:
    from optuna.trial import TrialState

    return bool(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))
