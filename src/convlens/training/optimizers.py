"""Optimizers by name and the learning rate as a pure function of time."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch

from convlens.config.schema import (
    OptimizerConfig,
    OwnOptimizerConfig,
    OwnSchedulerConfig,
    SchedulerConfig,
)
from convlens.config.targets import call, instantiate
from convlens.core.errors import UserError, check_name

OPTIMIZERS = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
    "rmsprop": torch.optim.RMSprop,
}


# keys that a scheduler cannot do without
_NEEDS = {
    "constant": (), "cosine": ("floor",), "linear": ("floor",), "step": ("every", "factor"),
    "exponential": ("factor",),
}  # fmt: skip
RateFactor = Callable[[float, int], float]  # of the time and the length of the run, in epochs


def build_optimizer(
    chosen: OptimizerConfig | OwnOptimizerConfig, groups: list[dict]
) -> torch.optim.Optimizer:
    """The optimizer of the config group ``optimizer`` over named parameter groups.

    Raises:
        UserError: an unknown name, or a value the optimizer refuses.
    """
    if isinstance(chosen, OwnOptimizerConfig):
        made = instantiate("optimizer", chosen, groups, lr=chosen.lr)
        if not isinstance(made, torch.optim.Optimizer):
            raise UserError(
                f"optimizer._target_={chosen.class_path}: it makes no torch.optim.Optimizer"
            )
        return made
    name = chosen.name
    check_name("optimizer.name", name, OPTIMIZERS)
    options = {key: value for key, value in chosen.plain().items() if key != "name"}
    try:
        return OPTIMIZERS[name](groups, **options)
    except (ValueError, TypeError) as error:
        raise UserError(f"optimizer={name}: {error}") from error


def build_rate_factor(chosen: SchedulerConfig | OwnSchedulerConfig) -> RateFactor:
    """What the learning rate is multiplied by, as a function of ``(time, epochs)``.

    Raises:
        UserError: the keys of another scheduler, or a class of a person's own that refuses.
    """
    if isinstance(chosen, OwnSchedulerConfig):
        own, warmup = instantiate("scheduler", chosen), chosen.warmup_epochs or 0.0

        def factor(time: float, epochs: int) -> float:
            return time / warmup if time < warmup else float(own(time, epochs))

        return partial(call, "scheduler", chosen.class_path, factor)
    lacking = [key for key in _NEEDS[chosen.name] if getattr(chosen, key) is None]
    if lacking:
        raise UserError(
            f"scheduler.name={chosen.name}: say scheduler={chosen.name}, which has the key "
            f"{lacking[0]} that it needs"
        )
    return partial(compute_rate_factor, chosen)


def compute_rate_factor(chosen: SchedulerConfig, time: float, epochs: int) -> float:
    """What the learning rate is multiplied by at ``time``.

    Args:
        chosen: the config group ``scheduler``: ``name``, ``warmup_epochs`` (the factor rises in a
            straight line from 0 at the start), and by name: ``cosine`` and ``linear``: ``floor``,
            the factor at the end; ``step``: ``every`` epochs times ``factor``; ``exponential``:
            ``factor`` an epoch.
        time: epochs since the start, with fractions within an epoch.
        epochs: of the whole run.

    Returns:
        A factor of at least 0.
    """
    warmup = chosen.warmup_epochs
    if time < warmup:
        return time / warmup
    share = min(1.0, (time - warmup) / max(epochs - warmup, 1e-9))
    match chosen.name:
        case "cosine":
            return chosen.floor + (1 - chosen.floor) * (1 + math.cos(math.pi * share)) / 2
        case "linear":
            return 1 + (chosen.floor - 1) * share
        case "step":
            return chosen.factor ** math.floor((time - warmup) / chosen.every)
        case "exponential":
            return chosen.factor ** (time - warmup)
    return 1.0  # constant


def depends_on_length(chosen: SchedulerConfig | OwnSchedulerConfig) -> bool:
    """Whether the rates of a phase would be others if it had another number of epochs."""
    if isinstance(chosen, OwnSchedulerConfig):
        return True  # nobody knows
    # a floor of 1 is no fall at all
    return chosen.name in ("cosine", "linear") and chosen.floor != 1
