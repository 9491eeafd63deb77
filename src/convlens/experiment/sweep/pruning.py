"""Report a trial's epochs to its sweep, and stop it between epochs if it is not worth more."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import pytorch_lightning as L

from convlens.experiment.sweep.plan import Plan, read_plan
from convlens.experiment.sweep.study import PRUNED_AFTER, list_trials, open_study

# set by the sweep, for the processes of a trial
SWEEP, TRIAL = "CONVLENS_SWEEP", "CONVLENS_TRIAL"


def build_pruning() -> list[L.Callback]:
    """Return the callback of a run that is a trial of a sweep with a pruner; else an empty list."""
    home = os.environ.get(SWEEP)
    if home is None or (plan := read_plan(Path(home))).pruner == "none":
        return []
    return [Pruning(Path(home), int(os.environ[TRIAL]), plan)]


class Pruning(L.Callback):
    """Reports the metric after each epoch; the first process asks, and all stop together.

    Args:
        home: folder of the sweep.
        number: of the trial.
        plan: of the sweep.
    """

    def __init__(self, home: Path, number: int, plan: Plan) -> None:
        self.home, self.number, self.plan = home, number, plan

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop at once if this trial was stopped before, and killed during its test."""
        after = None
        if trainer.is_global_zero:
            study = open_study(self.plan, self.home)
            after = list_trials(study)[self.number].user_attrs.get(PRUNED_AFTER)
        after = trainer.strategy.broadcast(after)
        if after is not None and trainer.current_epoch >= after:
            trainer.should_stop = True

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Report the epoch, and ask whether to go on."""
        is_over = False
        if trainer.is_global_zero:
            is_over = self._report(trainer)
        if trainer.strategy.broadcast(is_over):
            trainer.should_stop = True

    def _report(self, trainer: L.Trainer) -> bool:
        """Report the metric; return whether to stop, and remember it."""
        from optuna.trial import Trial

        value = float(trainer.callback_metrics[self.plan.metrics[0]])
        epoch = trainer.current_epoch + 1
        study = open_study(self.plan, self.home)
        trial = Trial(study, list_trials(study)[self.number]._trial_id)
        with warnings.catch_warnings():  # a resumed run may report an epoch again, the same value
            warnings.simplefilter("ignore")
            trial.report(value, epoch)
        if epoch == trainer.max_epochs or not trial.should_prune():
            return False
        trial.set_user_attr(PRUNED_AFTER, epoch)
        return True
