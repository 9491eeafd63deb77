"""What explanations cost, and what they may cost."""

from __future__ import annotations

import time
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, Literal

from convlens.core.errors import UserError

AROUND = 0.1  # fraction of the training that looks before it and at the end may take together
TEST = 0.1  # fraction of ``floor_around`` for the look after the test
OUTSIDE = ("start", "end", "test")  # moments that are no epochs
Moment = Literal["start", "epoch", "end", "test"]
KEPT = (
    "spent", "around", "failures", "left_out", "scores", "looked", "cut", "epochs", "looks"
)  # fmt: skip


@dataclass
class Ledger:
    """The time account of one run, shared by all its explanations.

    After an epoch all explanations together may take the fraction ``share`` of the epoch's own
    seconds, but at least ``floor`` seconds. What they do not take is not kept for later.

    Attributes:
        share: fraction of an epoch.
        floor: minimum allowance of an epoch, in seconds.
        at_start: seconds for the looks before training, all explanations together.
        at_end: seconds for the looks at the end, all explanations together; None for a tenth of the
            training, but at least ``floor_around``, less what the looks before training took.
        floor_around: see ``at_end``.
        spent: seconds of all looks, by callback.
        around: seconds of the looks before training, at the end and after the test.
        failures: the first failure, by callback, one line each.
        left_out: what the budget left out, by callback, one line each.
        scores: numbers that looks have found, by clock and tag.
        looked: the clock of the latest look, by callback.
        cut: the clock of the latest look that the budget ended early, by callback.
        epochs: by clock, the seconds of the epoch itself (training and validation) and those of the
            looks within it; looks before training and at the end are not included.
        looks: one entry per look of all explanations together, in the order of the run: its
            ``moment`` and ``clock``, the seconds ``allowed`` and ``spent``, those of a forward
            ``pass`` of one image (0 if it was not measured), and those spent ``by_callback``.
    """

    share: float = 0.05
    floor: float = 1.0
    at_start: float = float("inf")
    at_end: float | None = float("inf")
    floor_around: float = 20.0
    spent: dict[str, float] = field(default_factory=dict)
    around: dict[str, float] = field(
        default_factory=lambda: {"start": 0.0, "end": 0.0, "test": 0.0}
    )
    failures: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    scores: dict[int, dict[str, float]] = field(default_factory=dict)
    looked: dict[str, int] = field(default_factory=dict)
    cut: dict[str, int] = field(default_factory=dict)
    epochs: dict[int, list[float]] = field(default_factory=dict)
    looks: list[dict[str, Any]] = field(default_factory=list)
    _reasons: dict[str, str] = field(default_factory=dict)  # the first callback that failed so
    _began: float = 0.0
    _granted: float = 0.0  # seconds for the looks of this epoch
    _latest: list[float] = field(default_factory=lambda: [0.0, 0.0])  # last value of ``epochs``

    def begin_epoch(self) -> None:
        """Start timing an epoch."""
        self._began = time.perf_counter()

    def end_epoch(self, epoch: int) -> None:
        """Grant the allowance of an epoch that ends."""
        own = time.perf_counter() - self._began
        self._latest = self.epochs[epoch + 1] = [own, 0.0]
        self._granted = self.allow(own)

    def allow(self, own: float) -> float:
        """Return the seconds that all looks of an epoch may take that itself took ``own``."""
        return max(self.floor, self.share * own)

    def seconds_left(self, moment: Moment) -> float:
        """Return the seconds that looks may still take in this epoch, at the start, end or test."""
        if moment == "epoch":
            return self._granted - self._latest[1]
        if moment == "start":
            return self.at_start - self.around["start"]
        if moment == "test":  # the looks at the end use up their time
            return max(self.floor, TEST * self.floor_around) - self.around["test"]
        if self.at_end is not None:
            return self.at_end - self.around["end"]
        trained = sum(own for own, _ in self.epochs.values())
        return max(self.floor_around, AROUND * trained) - sum(self.around.values())

    @property
    def total(self) -> float:
        """Seconds spent on all looks."""
        return sum(self.spent.values())

    def charge(self, name: str, seconds: float, moment: Moment | None) -> None:
        """Record the seconds of a look; None for work that no budget bounds."""
        self.spent[name] = self.spent.get(name, 0.0) + seconds
        if moment == "epoch":
            self._latest[1] += seconds
        elif moment is not None:
            self.around[moment] += seconds

    def record(
        self, moment: Moment, clock: int, allowed: float, spent: float, one_pass: float,
        before: dict[str, float],
    ) -> None:  # fmt: skip
        """Append a look to ``looks``; ``before`` is what was ``spent`` until it began."""
        took = {name: value - before.get(name, 0.0) for name, value in self.spent.items()}
        self.looks.append({
            "moment": moment, "clock": clock, "allowed": allowed, "spent": spent,
            "pass": one_pass, "by_callback": {name: one for name, one in took.items() if one},
        })  # fmt: skip

    def record_failure(self, name: str, error: Exception, clock: int | None = None) -> str:
        """Keep the first failure of a callback, and return the line that reports this one.

        Args:
            name: the callback.
            error: why it failed; in full only for the first callback with this reason.
            clock: completed epochs; None if it was not looking.
        """
        when = "" if clock is None else f" at epoch {clock}"
        kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
        reason = next(iter(f"{kind}{error}".splitlines()), "")
        line = f"{name} failed{when}: {reason}"
        self.failures.setdefault(name, line[:300])
        first = self._reasons.setdefault(reason, name)
        return line if first == name else f"{name} failed{when} for the same reason as {first}"

    def note(self, clock: int, tag: str, value: float) -> None:
        """Keep a score, for the run's table, its alarms and its summary."""
        self.scores.setdefault(clock, {})[tag] = value

    @property
    def share_of_epochs(self) -> float:
        """The fraction of all epochs' seconds, looks included, that looks within them took."""
        own, looking = (sum(pair[i] for pair in self.epochs.values()) for i in (0, 1))
        return looking / (own + looking) if own + looking else 0.0

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps: plain numbers and strings."""
        return deepcopy({name: getattr(self, name) for name in KEPT})

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from what a checkpoint has kept; older checkpoints may lack some of it."""
        for name in KEPT:
            setattr(self, name, deepcopy(state.get(name, getattr(self, name))))


@dataclass
class Account:
    """When one explanation looked last.

    Attributes:
        looked_at: the clock of its latest look.
        cut_at: the clock of the latest look that the budget ended early.
        judged: the record of the module's step by which the network was last judged.
    """

    looked_at: int | None = None
    cut_at: int | None = None
    judged: object = None
