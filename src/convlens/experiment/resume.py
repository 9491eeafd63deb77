"""Check what may change when a run is resumed, and refuse what would change its result."""

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
# keys that do not affect the trained weights, and the number of epochs (see `_check_length`)
FREE = ("training.epochs", "trainer.", "looking.", "alarms.", "callbacks.budget", *PLACES)
# groups that must equal those of the checkpoint, although config.yaml may have been edited
FIXED = ("seed", "training", "optimizer", "scheduler", "finetune")


@dataclass(frozen=True)
class Start:
    """The checkpoint that a resumed run starts from.

    Attributes:
        file: the checkpoint.
        content: the result of ``convlens.training.survival.checkpoint.read_checkpoint``.
    """

    file: Path
    content: dict[str, Any]

    @property
    def epochs(self) -> int:
        """The number of completed epochs."""
        return self.content["epoch"] + (not self.is_within_epoch)

    @property
    def is_within_epoch(self) -> bool:
        """Whether it was saved before its epoch was complete."""
        return "convlens_amid_epoch" in self.content

    @property
    def config(self) -> Config:
        """The config of the training so far."""
        return restore_config(self.content["hyper_parameters"]["config"], "the checkpoint", None)


def build_resumed_config(config: Config, words: list[str]) -> Config:
    """Return the config of a run with the overrides of ``resume``.

    Args:
        config: the config in the run folder.
        words: ``key=value``, or ``trainer=NAME``.

    Raises:
        UserError: an override names no key, or a key that cannot change on resume.
    """
    changed = apply_overrides(config, words)
    if changed.trainer.fast_dev_run:
        raise UserError("trainer.fast_dev_run is not possible on resume; start a new run with it")
    last = _last_phase(config)
    for key in _differences(apply_overrides(config, []), changed):
        if key != last and not key.startswith(FREE):
            raise UserError(
                f"{key} cannot change on resume (training.epochs, trainer, data.dir and looking.… "
                f"may); start a new run with another {key}"
            )
    typed = {word.partition("=")[0] for word in words}
    if last in typed and "training.epochs" not in typed:
        changed = replace_values(changed, {"training.epochs": None})  # all epochs of the phases
    return changed


def has_work_left(config: Config, changed: Config, start: Start) -> bool:
    """Return whether a finished run has anything left to do; moved data is not a reason.

    Args:
        config: the config in the run folder, which may have been edited.
        changed: the same with the overrides of ``resume``.
        start: the last checkpoint of the run.
    """
    trained = start.config
    if any(_differences(getattr(trained, group), getattr(changed, group)) for group in FIXED):
        return True
    return any(key not in PLACES for key in _differences(apply_overrides(config, []), changed))


def _differences(one: object, other: object, prefix: str = "") -> list[str]:
    """Return the keys, with dots, whose values differ."""
    one, other = (each.plain() if isinstance(each, Slice) else each for each in (one, other))
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        one, other = dict(enumerate(one)), dict(enumerate(other))
    if not isinstance(one, Mapping) or not isinstance(other, Mapping):
        return [prefix.rstrip(".")] if one != other else []
    keys = []
    for key in {**one, **other}:
        keys += _differences(one.get(key), other.get(key), f"{prefix}{key}.")
    return keys


def check_resumed(start: Start, config: Config, schedule: Schedule, home: Path) -> None:
    """Check that a config continues the training of the checkpoint.

    Args:
        start: the checkpoint of the resumed run.
        config: the completed config.
        schedule: the schedule of that config.
        home: the run folder, for errors.

    Raises:
        UserError: with this config, the training so far would have been different.
    """
    trained = start.config
    for group in FIXED:
        for key in _differences(getattr(trained, group), getattr(config, group), f"{group}."):
            if key not in ("training.epochs", "training.eval_batch_size", _last_phase(config)):
                raise UserError(
                    f"{home / 'config.yaml'}: {key} differs from the checkpoint; restore it, or "
                    f"start a new run with it"
                )
    _check_length(start, trained, config, schedule, home)


def _check_length(
    start: Start, trained: Config, config: Config, schedule: Schedule, home: Path
) -> None:
    """Check that a run may become longer or shorter after it has reached a checkpoint.

    Raises:
        UserError: the learning rates so far depend on the length, or a longer run changes nothing.
    """
    before, after = trained.training.epochs, config.training.epochs
    # with phases, the rates depend on the length of the phase, not on that of the run
    phases = config.finetune.phases
    old, new = (c.finetune.phases[-1].epochs if phases else c.training.epochs
                for c in (trained, config))  # fmt: skip
    if (before, old) == (after, new):
        return
    record = start.content.get("convlens_record", {})
    is_affected = not phases or schedule.phase_at(start.epochs, record)[0] is schedule.phases[-1]
    if old != new and is_affected and schedule.depends_on_length:
        raise UserError(
            f"{_last_phase(config) if phases else 'training.epochs'}={new}: "
            f"scheduler={schedule.scheduler_name} has spread the learning rates over {old} "
            f"epochs; train a new run (scheduler=constant, step and exponential allow more later)"
        )
    if after < start.epochs:
        raise UserError(
            f"training.epochs={after}: {home} has trained {start.epochs} epochs already"
        )
    if after > before and (ended := _ended_by(start, schedule, record)):
        raise UserError(
            f"training.epochs={after}: {ended} ended {home} after {start.epochs} epochs, and more "
            f"epochs do not change that; start a new run"
        )


def _last_phase(config: Config) -> str:
    """Return the key of the last phase's length; without phases, a key that does not exist."""
    return f"finetune.phases.{len(config.finetune.phases or []) - 1}.epochs"


def _ended_by(start: Start, schedule: Schedule, record: dict) -> str:
    """Return the key of the rule that ended a run before its last epoch, or ''."""
    states = start.content.get("callbacks", {}).items()
    stops = [each for name, each in states if str(name).startswith("EarlyStop")]
    if any(each.get("stopped_epoch") for each in stops):
        return "training.early_stopping"
    last = schedule.phases[-1]
    if last.until and schedule.is_finished(start.epochs, record):
        return f"finetune.phases.{last.number}.until"
    return ""


def check_processes(start: Start, processes: int, home: Path) -> None:
    """Check that the processes of a resumed run continue its training; say if they are not as many.

    Raises:
        UserError: there are more or fewer, and batches or rates depend on their number.
    """
    trained, training = start.content.get("convlens_processes"), start.config.training
    if trained is None:
        log.warning(
            f"the checkpoint was written by an earlier version, which did not record the number of "
            f"processes; continuing with {processes}"
        )
    elif trained != processes:
        for key in ("batch_size_is", "lr_is"):
            if getattr(training, key) == "per_device":
                raise UserError(
                    f"{home}: with training.{key}=per_device the number of processes matters: it "
                    f"was {trained}, not {processes}; resume with {trained}, or start a new run"
                )
        log.warning(
            f"number of processes: {processes} instead of {trained}; the batches stay the same, "
            f"but the result is no longer bit-identical to that of a run without a stop"
        )
