"""What may change when a run is resumed; what would give it another end is refused in a line."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convlens.config.checks import replace_values, restore_config
from convlens.config.compose import apply_overrides
from convlens.config.schema import Config, Slice
from convlens.core.errors import UserError
from convlens.data.unchanged import PLACES

if TYPE_CHECKING:
    from convlens.training.finetune.schedule import Schedule

log = logging.getLogger("convlens")
# what the trained weights do not depend on; and the length, see `check_length`
FREE = ("training.epochs", "trainer.", "looking.", "alarms.", "callbacks.budget", *PLACES)
# what a hand may have changed in config.yaml, and the checkpoint knows better
FIXED = ("seed", "training", "optimizer", "scheduler", "finetune")


@dataclass(frozen=True)
class Start:
    """Where a resumed run goes on.

    Attributes:
        file: the checkpoint.
        content: what :func:`convlens.training.survival.checkpoint.read_checkpoint` gives of it.
    """

    file: Path
    content: dict[str, Any]

    @property
    def epochs(self) -> int:
        """Completed ones."""
        return self.content["epoch"] + (not self.is_within_epoch)

    @property
    def is_within_epoch(self) -> bool:
        """Whether it was saved before its epoch was complete."""
        return "convlens_amid_epoch" in self.content

    @property
    def config(self) -> Config:
        """What was trained so far, to be compared with."""
        return restore_config(self.content["hyper_parameters"]["config"], "the checkpoint", None)


def build_resumed_config(config: Config, words: list[str]) -> Config:
    """The config of a run with what was typed behind ``resume``.

    Args:
        config: as the run folder holds it.
        words: ``key=value``, or ``trainer=NAME``.

    Raises:
        UserError: a word that fits no key, or that would make another run of it.
    """
    asked = apply_overrides(config, words)
    if asked.trainer.fast_dev_run:
        raise UserError("trainer.fast_dev_run: not possible on resume; train a new run with it")
    last = _last_phase(config)
    for key in _differences(apply_overrides(config, []), asked):
        if key != last and not key.startswith(FREE):
            raise UserError(
                f"{key}: a run goes on as it began, and this key cannot change on resume; "
                f"training.epochs=, trainer=, data.dir= and looking.…= may change; start a new run "
                f"with another {key}"
            )
    typed = {word.partition("=")[0] for word in words}
    if last in typed and "training.epochs" not in typed:
        asked = replace_values(asked, {"training.epochs": None})  # all that the phases have
    return asked


def has_work_left(config: Config, asked: Config, start: Start) -> bool:
    """Whether a finished run has anything left to do; that its images moved is nothing to do.

    Args:
        config: as the run folder holds it, perhaps edited by hand; ``asked``: with what was typed.
        start: at the run's last checkpoint.
    """
    trained = start.config
    if any(_differences(getattr(trained, group), getattr(asked, group)) for group in FIXED):
        return True
    return any(key not in PLACES for key in _differences(apply_overrides(config, []), asked))


def _differences(one: object, other: object, prefix: str = "") -> list[str]:
    """The keys, with dots, whose values differ."""
    one, other = (each.plain() if isinstance(each, Slice) else each for each in (one, other))
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        one, other = dict(enumerate(one)), dict(enumerate(other))
    if not isinstance(one, Mapping) or not isinstance(other, Mapping):
        return [prefix.rstrip(".")] if one != other else []
    found = []
    for key in {**one, **other}:
        found += _differences(one.get(key), other.get(key), f"{prefix}{key}.")
    return found


def check_resumed(start: Start, config: Config, schedule: Schedule, home: Path) -> None:
    """Hold a config against the checkpoint that it is to go on from.

    Args:
        start: of the resumed run.
        config: settled.
        schedule: of that config.
        home: the run folder, for messages.

    Raises:
        UserError: what was trained so far is not what this config would have trained.
    """
    theirs = start.config
    for group in FIXED:
        for key in _differences(getattr(theirs, group), getattr(config, group), f"{group}."):
            if key not in ("training.epochs", "training.eval_batch_size", _last_phase(config)):
                raise UserError(
                    f"{home / 'config.yaml'}: the checkpoint is of another schedule or training, "
                    f"with another {key}; put it back, or start a new run with it"
                )
    _check_length(start, theirs, config, schedule, home)


def _check_length(
    start: Start, theirs: Config, config: Config, schedule: Schedule, home: Path
) -> None:
    """Whether a run may become longer or shorter, having come as far as a checkpoint.

    Raises:
        UserError: the learning rates so far depend on the length, or the length is no matter.
    """
    before, after = theirs.training.epochs, config.training.epochs
    # within phases the rates know the phase's length, not that of the run
    phases = config.finetune.phases
    old, new = (c.finetune.phases[-1].epochs if phases else c.training.epochs
                for c in (theirs, config))  # fmt: skip
    if (before, old) == (after, new):
        return
    record = start.content.get("convlens_record", {})
    concerned = not phases or schedule.phase_at(start.epochs, record)[0] is schedule.phases[-1]
    if old != new and concerned and schedule.depends_on_length:
        raise UserError(
            f"{_last_phase(config) if phases else 'training.epochs'}={new}: "
            f"scheduler={schedule.scheduler_name} spreads the learning rates over all {old} "
            f"epochs, so a run of {new} would have had other rates from its start; train a new run "
            f"of that length, or one with scheduler=constant, step or exponential, which can be "
            f"made longer"
        )
    if after < start.epochs:
        raise UserError(
            f"training.epochs={after}: {home} has trained {start.epochs} epochs already"
        )
    if after > before and (ended := _ended_by(start, schedule, record)):
        raise UserError(
            f"training.epochs={after}: {home} was ended by {ended} after {start.epochs} epochs, "
            f"and more epochs do not change that; start a new run"
        )


def _last_phase(config: Config) -> str:
    """The key of its length; of a config without phases one that there is not."""
    return f"finetune.phases.{len(config.finetune.phases or []) - 1}.epochs"


def _ended_by(start: Start, schedule: Schedule, record: dict) -> str:
    """The rule that ended a run before its last epoch, or nothing."""
    states = start.content.get("callbacks", {}).items()
    stops = [each for name, each in states if str(name).startswith("EarlyStop")]
    if any(each.get("stopped_epoch") for each in stops):
        return "training.early_stopping"
    last = schedule.phases[-1]
    if last.until and schedule.is_finished(start.epochs, record):
        return f"finetune.phases.{last.number}.until"
    return ""


def check_processes(start: Start, processes: int, home: Path) -> None:
    """Hold the number of processes to that which has trained so far; an old checkpoint says none.

    Raises:
        UserError: there are more or fewer.
    """
    trained = start.content.get("convlens_processes")
    if trained is None:
        log.warning(
            f"the checkpoint is an older one, which does not say how many processes trained it; "
            f"going on with {processes}"
        )
    elif trained != processes:
        raise UserError(
            f"{home} was trained by {trained} processes, but here it would be {processes}: resume "
            f"with as many devices (trainer.devices={trained}), or start a new run"
        )
