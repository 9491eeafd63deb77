"""Which epochs each phase of a schedule had, from a run's config and its numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from convlens.config.schema import PlateauConfig
from convlens.config.stored import StoredConfig


@dataclass(frozen=True)
class PhaseSpan:
    """A phase as it went, or as it is planned where the run is not there yet.

    Attributes:
        number: from 1.
        start, end: it trained the epochs ``start + 1`` to ``end``; ``end`` is what was planned
            where the phase is not over, within ``training.epochs`` if the phase begins before.
        rates: group to learning rate, before warm-up and scheduler.
        warmup_epochs: over which rates of newly trained groups rise.
        augment: whether training pictures are augmented.
        until: the plateau that may end it early, in words; empty without one.
        early: whether the plateau did.
    """

    number: int
    start: int
    end: int
    rates: Mapping[str, float]
    warmup_epochs: float
    augment: bool
    until: str
    early: bool


def read_phases(config: StoredConfig, rows: Sequence[Mapping[str, float]]) -> list[PhaseSpan]:
    """The phases of a run; empty where everything is trained throughout.

    Args:
        config: of the run.
        rows: scalars by completed epochs, as ``metrics.csv`` has them.
    """
    found: list[PhaseSpan] = []
    values = {row["epoch"]: row for row in rows}
    epochs = config.epochs or math.inf
    start = 0
    for number, phase in enumerate(config.phases, start=1):
        until, planned = phase.until, start + phase.epochs
        trained = [values.get(epoch, {}) for epoch in range(start + 1, planned + 1)]
        end = start + ((until and _rests(until, trained)) or phase.epochs)
        rates = phase.lr if isinstance(phase.lr, dict) else dict.fromkeys(phase.train, phase.lr)
        found.append(
            PhaseSpan(
                number, start, min(end, epochs) if start < epochs else end, rates,
                phase.warmup_epochs, config.augments and phase.augment,
                f"{until.metric} rests for {until.patience} epochs" if until else "",
                end < planned,
            )
        )  # fmt: skip
        start = end
    return found


def _rests(until: PlateauConfig, rows: Sequence[Mapping[str, float]]) -> int | None:
    """After how many of a phase's epochs its plateau ended it, by the schedule's rule: the best
    value lies ``patience`` epochs back. A loss is better lower, the rest higher."""
    sign = 1 if until.metric.endswith("loss") else -1
    signed: list[float] = []
    for row in rows:
        if until.metric not in row:
            return None
        signed.append(sign * row[until.metric])
        if len(signed) - 1 - signed.index(min(signed)) >= until.patience:
            return len(signed)
    return None
