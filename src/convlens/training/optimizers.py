"""Optimizers by name, and the learning rate as a pure function of time."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytorch_lightning as L
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
# those with one kernel for all parameters (torch has none for RMSprop)
FUSED = ("adam", "adamw", "sgd")
# how torch computes an update, which must fit the device, not the checkpoint
IMPLEMENTATION = ("fused", "foreach", "capturable")
# keys of the config group that are no arguments of an optimizer
NOT_OPTIONS = ("name", "library", "decayed")

# keys that a scheduler requires
_NEEDS = {
    "constant": (), "cosine": ("floor",), "linear": ("floor",), "step": ("every", "factor"),
    "exponential": ("factor",),
}  # fmt: skip
RateFactor = Callable[[float, int], float]  # (time, length of the run), both in epochs, to a factor


def build_optimizer(
    chosen: OptimizerConfig | OwnOptimizerConfig, groups: list[dict], *, fused: bool = False
) -> torch.optim.Optimizer:
    """Build the optimizer that the config group ``optimizer`` describes.

    It loads the state of any implementation and keeps its own, so a checkpoint of a GPU can be
    resumed on a CPU, and the other way round.

    Args:
        chosen: the config group.
        groups: named parameter groups.
        fused: whether to use torch's fused implementation, if the optimizer has one: one kernel
            instead of a dozen, and step counters on the device. A user's own is left alone.

    Raises:
        UserError: the name is unknown, or the optimizer rejects a value.
    """
    if isinstance(chosen, OwnOptimizerConfig):
        own = instantiate("optimizer", chosen, groups, lr=chosen.lr)
        if not isinstance(own, torch.optim.Optimizer):
            raise UserError(
                f"optimizer._target_={chosen.class_path} does not return a torch.optim.Optimizer"
            )
        return own
    name, is_timm = chosen.name, chosen.library == "timm"
    check_name("optimizer.name", name, list_timm_optimizers() if is_timm else OPTIMIZERS)
    options = {k: v for k, v in chosen.plain().items() if k not in NOT_OPTIONS}
    if fused and name in FUSED and not is_timm:
        options |= {"fused": True}
    try:
        if is_timm:
            from timm.optim import create_optimizer_v2  # slow to import

            optimizer = create_optimizer_v2(groups, name, **options)
        else:
            optimizer = OPTIMIZERS[name](groups, **options)
    except (ValueError, TypeError) as error:
        raise UserError(f"optimizer={name}: {error}") from error
    optimizer.register_load_state_dict_pre_hook(_keep_implementation)
    return optimizer


def list_timm_optimizers() -> list[str]:
    """Return the names of timm's optimizers that a run can use.

    Missing are those of other packages (apex, bitsandbytes), those that need second derivatives of
    the loss, and Kron, which does not continue from a checkpoint with the same bits (timm 1.0.31).
    """
    from timm.optim import get_optimizer_info, list_optimizers  # slow to import

    names = list_optimizers(exclude_filters=["fused*", "bnb*", "kron*"])
    return [name for name in names if not get_optimizer_info(name).second_order]


def _keep_implementation(optimizer: torch.optim.Optimizer, state: dict) -> dict:
    """Return ``state`` with the implementation of ``optimizer``, before it is loaded."""
    own = [
        {key: group[key] for key in IMPLEMENTATION if key in group}
        for group in optimizer.param_groups
    ]
    groups = state["param_groups"]
    if len(groups) != len(own):
        return state  # torch reports it
    return {**state, "param_groups": [{**a, **b} for a, b in zip(groups, own, strict=True)]}


def build_rate_factor(chosen: SchedulerConfig | OwnSchedulerConfig) -> RateFactor:
    """Build the function of ``(time, epochs)`` whose value multiplies the learning rate.

    Args:
        chosen: the config group ``scheduler``.

    Raises:
        UserError: a required key is missing, or a user-defined class rejects its arguments.
    """
    if isinstance(chosen, OwnSchedulerConfig):
        own, warmup = instantiate("scheduler", chosen), chosen.warmup_epochs or 0.0

        def factor(time: float, epochs: int) -> float:
            return time / warmup if time < warmup else float(own(time, epochs))

        return partial(call, "scheduler", chosen.class_path, factor)
    missing = [key for key in _NEEDS[chosen.name] if getattr(chosen, key) is None]
    if missing:
        raise UserError(
            f"scheduler.name={chosen.name} needs the key {missing[0]}; "
            f"try scheduler={chosen.name}, which sets it"
        )
    return partial(compute_rate_factor, chosen)


def compute_rate_factor(chosen: SchedulerConfig, time: float, epochs: int) -> float:
    """Compute the factor of the learning rate at ``time``.

    Args:
        chosen: the config group ``scheduler``: ``name``; ``warmup_epochs``, in which the factor
            rises linearly from 0; for ``cosine`` and ``linear``, ``floor``, the factor at the end;
            for ``step``, ``factor``, applied once per ``every`` epochs; for ``exponential``,
            ``factor``, applied once per epoch.
        time: epochs since the start, with fractions within an epoch.
        epochs: length of the whole run.

    Returns:
        A factor of at least 0.
    """
    warmup = chosen.warmup_epochs
    if time < warmup:
        return time / warmup
    progress = min(1.0, (time - warmup) / max(epochs - warmup, 1e-9))
    match chosen.name:
        case "cosine":
            return chosen.floor + (1 - chosen.floor) * (1 + math.cos(math.pi * progress)) / 2
        case "linear":
            return 1 + (chosen.floor - 1) * progress
        case "step":
            return chosen.factor ** math.floor((time - warmup) / chosen.every)
        case "exponential":
            return chosen.factor ** (time - warmup)
    return 1.0  # constant


def depends_on_length(chosen: SchedulerConfig | OwnSchedulerConfig) -> bool:
    """Return whether the rates of a phase depend on its number of epochs."""
    if isinstance(chosen, OwnSchedulerConfig):
        return True  # unknown, so assume the worst
    # with a floor of 1 the rate is constant
    return chosen.name in ("cosine", "linear") and chosen.floor != 1


def may_fuse(device: torch.device, trainer: L.Trainer | None) -> bool:
    """Return whether the optimizer may be fused: on CUDA; the CPU keeps the bits it has.

    A fused optimizer unscales float16's gradients itself, so they cannot be clipped before.

    Args:
        device: of the network.
        trainer: of the run, if there is one.
    """
    scales = getattr(getattr(trainer, "precision_plugin", None), "scaler", None) is not None
    return device.type == "cuda" and not (scales and trainer.gradient_clip_val)
