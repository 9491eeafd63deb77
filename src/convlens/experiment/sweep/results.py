"""What a sweep has found so far, for its page."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from convlens.experiment.sweep.plan import Plan
from convlens.experiment.sweep.space import Range
from convlens.experiment.sweep.study import PRUNED_AFTER, REASON, list_trials, rank_trials
from convlens.experiment.sweep.trials import trial_folder
from convlens.pages.sweep import SweepResults, TrialRow

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial

# Optuna's name of a state -> ours
STATES = {
    "RUNNING": "unfinished", "WAITING": "unfinished", "COMPLETE": "complete",
    "PRUNED": "stopped early", "FAIL": "failed",
}  # fmt: skip
ENOUGH = 8  # completed trials before anything is said about what decides


def collect_results(study: Study, plan: Plan, home: Path) -> SweepResults:
    """Return trials, their order, and the share of each key in what decides."""
    ranked = rank_trials(study)
    front = {trial.number for trial in study.best_trials} if len(plan.metrics) == 2 else set()
    domains = plan.domains.items()
    return SweepResults(
        home=home, planned=plan.trials, metrics=plan.metrics, directions=plan.directions,
        logarithmic=frozenset(key for key, d in domains if isinstance(d, Range) and d.log),
        trials=[_describe(trial, home) for trial in list_trials(study)],
        ranked=[trial.number for trial in ranked], front=frozenset(front),
        importances=_weigh(study, len(ranked)),
    )  # fmt: skip


def _describe(trial: FrozenTrial, home: Path) -> TrialRow:
    after = trial.user_attrs.get(PRUNED_AFTER)
    note = trial.user_attrs.get(REASON, "" if after is None else f"after epoch {after}")
    return TrialRow(
        number=trial.number, state=STATES[trial.state.name], note=note, values=trial.params,
        results=trial.values, folder=trial_folder(home, trial.number),
    )  # fmt: skip


def _weigh(study: Study, count: int) -> dict[str, float]:
    """Return the importance of each key, the largest first; their sum is 1."""
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    if count < ENOUGH:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the evaluator is called experimental
        return dict(get_param_importances(study, evaluator=PedAnovaImportanceEvaluator()))
