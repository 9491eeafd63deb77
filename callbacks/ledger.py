"""What explanations cost, and what they may cost."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

log = logging.getLogger("convlens")
NAMED = 3  # maximum number of explanations named in a line
MIN_SECONDS = 0.05  # anything less would be logged as 0.0 s
STATE_KEYS = (
    "spent", "failures", "left_out", "scores", "looked", "cut", "epochs", "allowed", "charged"
)  # fmt: skip


@dataclass
class Ledger:
    """The time account of one run, shared by all its explanations.

    Every epoch adds an allowance: the fraction ``share`` of the epoch's own seconds, but at least
    ``floor`` seconds. What is not spent is kept for later epochs, so that an expensive look happens
    every few epochs instead of never. Looks at epoch 0 and at the end are recorded, not charged.

    Attributes:
        share: fraction of an epoch.
        floor: minimum allowance of an epoch, in seconds.
        at_start: seconds that each callback may take for its look before training.
        at_end: seconds that each callback may take for its look at the end.
        spent: seconds of all looks, by callback.
        failures: the first failure, by callback, one line each.
        left_out: what the budget left out, by callback, one line each.
        scores: the numbers from all looks, by clock and tag.
        looked: the clock of the latest look, by callback.
        cut: the clock of the latest look that the budget ended early, by callback.
        epochs: by clock, the seconds of the epoch itself (training and validation) and those of the
            looks within it; looks before training and at the end are not included.
        allowed: seconds granted by all epochs so far.
        charged: seconds used of them.
    """

    share: float = 0.05
    floor: float = 2.0
    at_start: float = float("inf")
    at_end: float = float("inf")
    spent: dict[str, float] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    scores: dict[int, dict[str, float]] = field(default_factory=dict)
    looked: dict[str, int] = field(default_factory=dict)
    cut: dict[str, int] = field(default_factory=dict)
    epochs: dict[int, list[float]] = field(default_factory=dict)
    allowed: float = 0.0
    charged: float = 0.0
    _began: float = 0.0
    _latest: list[float] = field(default_factory=lambda: [0.0, 0.0])  # last value of ``epochs``

    def begin_epoch(self) -> None:
        """Start timing an epoch."""
        self._began = time.perf_counter()

    def end_epoch(self, epoch: int) -> None:
        """Grant the allowance of an epoch that ends."""
        own = time.perf_counter() - self._began
        self._latest = self.epochs[epoch + 1] = [own, 0.0]
        self.allowed += max(self.floor, self.share * own)

    @property
    def left(self) -> float:
        """Seconds that may be spent now."""
        return self.allowed - self.charged

    @property
    def total(self) -> float:
        """Seconds spent on all looks."""
        return sum(self.spent.values())

    def charge(self, name: str, seconds: float, *, free: bool) -> None:
        """Record the seconds of a look; ``free`` looks do not use the allowance."""
        self.spent[name] = self.spent.get(name, 0.0) + seconds
        if not free:
            self.charged += seconds
            self._latest[1] += seconds

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
        return deepcopy({name: getattr(self, name) for name in STATE_KEYS})

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from what a checkpoint has kept; older checkpoints may lack some of it."""
        for name in STATE_KEYS:
            setattr(self, name, deepcopy(state.get(name, getattr(self, name))))


@dataclass
class Account:
    """When one explanation looked last, and what its looks cost.

    Attributes:
        looked_at: the clock of its latest look.
        cut_at: the clock of the latest look that the budget ended early.
        least: seconds until the first picture of the latest look.
        next: seconds of the slowest later picture of the latest look.
        judged: the record of the module's step by which the network was last judged.
    """

    looked_at: int | None = None
    cut_at: int | None = None
    least: float = 0.0
    next: float = 0.0
    judged: object = None

    def note(self, began: float, times: list[float]) -> None:
        """Record the cost of a look.

        Args:
            began: clock reading when the look began.
            times: readings when the network was ready, and after each picture.
        """
        if len(times) > 1:
            self.least = times[1] - began
            later = pairwise(times[1:])
            self.next = max((end - start for start, end in later), default=0.0)


class SkipReport:
    """Reports, once in a run, for which explanations the budget of an epoch is too small.

    Args:
        quiet: whether it is reported to the log file only, because the closing lines of a convlens
            run name what was left out.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet, self._reported = quiet, False

    def report(self, ledger: Ledger, costs: Mapping[str, float], clock: int, setting: str) -> None:
        """Keep a line for each explanation, and log one for all.

        Args:
            ledger: gets the lines.
            costs: seconds that each skipped explanation takes at least, by name.
            clock: completed epochs.
            setting: the setting that raises the budget.
        """
        for name, cost in costs.items():
            needed = f"it takes {cost:.1f} s" if cost >= MIN_SECONDS else "nothing was left of it"
            line = f"{name}: no look after epoch {clock} ({needed}); raise {setting}"
            ledger.left_out.setdefault(name, line)
        named = [f"{name} ({cost:.1f} s)" for name, cost in costs.items() if cost >= MIN_SECONDS]
        if not named:
            return
        names = ", ".join(named[:NAMED]) + (", …" if len(named) > NAMED else "")
        log.log(
            logging.DEBUG if self.quiet or self._reported else logging.WARNING,
            "epoch %d: no time for %s; explanations look every few epochs unless you raise %s",
            clock, names, setting,
        )  # fmt: skip
        self._reported = True
