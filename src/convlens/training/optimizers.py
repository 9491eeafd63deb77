"""Optimizers by name and the learning rate as a pure function of time."""

from __future__ import annotations

import math

import torch

from convlens.core.errors import UserError, nearest

OPTIMIZERS = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
    "rmsprop": torch.optim.RMSprop,
}


# whether the rates depend on how many epochs there are in all
DEPENDS_ON_LENGTH = {
    "constant": False, "cosine": True, "linear": True, "step": False, "exponential": False
}  # fmt: skip


def optimizer(spec: dict, groups: list[dict]) -> torch.optim.Optimizer:
    """The optimizer of the config group ``optimizer`` over named parameter groups.

    Raises:
        UserError: an unknown name, or a value the optimizer refuses.
    """
    spec = dict(spec)
    name = spec.pop("name")
    if name not in OPTIMIZERS:
        raise UserError(f"optimizer.name={name}: {nearest(str(name), OPTIMIZERS)}")
    try:
        return OPTIMIZERS[name](groups, **spec)
    except (ValueError, TypeError) as error:
        raise UserError(f"optimizer={name}: {error}") from error


def rate_factor(spec: dict, time: float, epochs: int) -> float:
    """What the learning rate is multiplied by at ``time``.

    Args:
        spec: the config group ``scheduler``: ``name``, ``warmup_epochs`` (the factor rises in a
            straight line from 0 at the start), and by name: ``cosine`` and ``linear``: ``floor``,
            the factor at the end; ``step``: ``every`` epochs times ``factor``; ``exponential``:
            ``factor`` an epoch.
        time: epochs since the start, with fractions within an epoch.
        epochs: of the whole run.

    Returns:
        A factor of at least 0.
    """
    warmup = spec["warmup_epochs"]
    if time < warmup:
        return time / warmup
    share = min(1.0, (time - warmup) / max(epochs - warmup, 1e-9))
    match spec["name"]:
        case "constant":
            return 1.0
        case "cosine":
            return spec["floor"] + (1 - spec["floor"]) * (1 + math.cos(math.pi * share)) / 2
        case "linear":
            return 1 + (spec["floor"] - 1) * share
        case "step":
            return spec["factor"] ** math.floor((time - warmup) / spec["every"])
        case "exponential":
            return spec["factor"] ** (time - warmup)
    known = ("constant", "cosine", "linear", "step", "exponential")
    raise UserError(f"scheduler.name={spec['name']}: {nearest(str(spec['name']), known)}")
