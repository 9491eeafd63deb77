"""Find the epochs of each phase of a schedule, from a run's config and metrics."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from convlens.config.schema import PlateauConfig
from convlens.config.stored import StoredConfig


@dataclass(frozen=True)
class PhaseSpan:
    """The epochs of a phase, as trained, or as planned if the run has not reached its end.

    Attributes:
        number: counted from 1.
        start: completed epochs when the phase begins.
        end: completed epochs when it ends; the planned end if it has not ended yet. A phase that
            begins before ``training.epochs`` ends there at the latest.
        rates: group to learning rate, before warm-up and scheduler.
        warmup_epochs: epochs over which the rates of newly trained groups rise.
        augment: whether training images are augmented.
        until: the condition that may end it early, in words; empty without one.
        ended_early: whether the condition has ended it.
    """

    number: int
    start: int
    end: int
    rates: Mapping[str, float]
    warmup_epochs: float
    augment: bool
    until: str
    ended_early: bool


def read_phases(config: StoredConfig, rows: Sequence[Mapping[str, float]]) -> list[PhaseSpan]:
    """Return the phases of a run; an empty list if everything is trained throughout.

    Args:
        config: the config of the run.
        rows: the rows of its ``metrics.csv``.
    """
    spans: list[PhaseSpan] = []
    values = {row["epoch"]: row for row in rows}
    epochs = config.epochs or math.inf
    start = 0
    for number, phase in enumerate(config.phases, start=1):
        until, planned = phase.until, start + phase.epochs
        trained = [values.get(epoch, {}) for epoch in range(start + 1, planned + 1)]
        end = start + ((until and _count_until_plateau(until, trained)) or phase.epochs)
        rates = phase.lr if isinstance(phase.lr, dict) else dict.fromkeys(phase.train, phase.lr)
        spans.append(
            PhaseSpan(
                number, start, min(end, epochs) if start < epochs else end, rates,
                phase.warmup_epochs, config.augments and phase.augment,
                f"{until.metric} has not improved for {until.patience} epochs" if until else "",
                end < planned,
            )
        )  # fmt: skip
        start = end
    return spans


def _count_until_plateau(until: PlateauConfig, rows: Sequence[Mapping[str, float]]) -> int | None:
    """Return the number of epochs after which a plateau ended a phase; None if it did not.

    As in ``convlens.training.finetune.schedule``, the best value is then ``patience`` epochs old.
    A loss improves when it falls, any other metric when it rises.
    """
    sign = 1 if until.metric.endswith("loss") else -1
    signed: list[float] = []
    for row in rows:
        if until.metric not in row:
            return None
        signed.append(sign * row[until.metric])
        if len(signed) - 1 - signed.index(min(signed)) >= until.patience:
            return len(signed)
    return None
