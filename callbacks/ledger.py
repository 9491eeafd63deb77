"""What looking costs, and what it may cost."""

from __future__ import annotations

import time
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import pairwise

KEPT = (
    "spent", "failures", "left_out", "scores", "looked", "cut", "epochs", "allowed", "charged"
)  # fmt: skip


@dataclass
class Ledger:
    """The account of one run, shared by all its explanations.

    Every epoch adds an allowance: ``share`` of the epoch's own seconds, at least ``floor``
    seconds. What is not spent is kept for later epochs, so that a dear look comes every few
    epochs instead of never. Looks at epoch 0 and at the end are written down, but not charged.

    Attributes:
        share: of an epoch.
        floor: seconds an epoch.
        at_start, at_end: seconds that each callback may take for its look before training, and for
            the one at the end.
        spent: seconds by callback, all looks.
        failures: first failure by callback, one line each.
        left_out: by callback, what the budget did not reach, one line each.
        scores: numbers found by looking, by clock and tag.
        looked: the clock of each callback's latest look; ``cut``: of the latest one that the budget
            ended early.
        epochs: by clock, seconds of the epoch itself (training and validation), and of looking
            within it; the looks before training and at the end are not among them.
        allowed, charged: seconds that epochs have granted, and those that looks have used of them.
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
    _latest: list[float] = field(default_factory=lambda: [0.0, 0.0])  # of ``epochs``

    def begin_epoch(self) -> None:
        """Start the epoch's watch."""
        self._began = time.perf_counter()

    def end_epoch(self, epoch: int) -> None:
        """Grant the epoch's allowance."""
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
        """Write down what a look took; ``free`` looks do not use the allowance."""
        self.spent[name] = self.spent.get(name, 0.0) + seconds
        if not free:
            self.charged += seconds
            self._latest[1] += seconds

    def note(self, clock: int, tag: str, value: float) -> None:
        """Keep a score, for the run's table, its alarms and its summary."""
        self.scores.setdefault(clock, {})[tag] = value

    @property
    def share_of_epochs(self) -> float:
        """What looking within epochs took, of the seconds of those epochs, looking included."""
        own, looked = (sum(pair[i] for pair in self.epochs.values()) for i in (0, 1))
        return looked / (own + looked) if own + looked else 0.0

    def state(self) -> dict:
        """What a checkpoint keeps: plain numbers and words."""
        return deepcopy({name: getattr(self, name) for name in KEPT})

    def restore(self, state: dict) -> None:
        """Go on from what a checkpoint has kept; runs of old kept less."""
        for name in KEPT:
            setattr(self, name, deepcopy(state.get(name, getattr(self, name))))


@dataclass
class Account:
    """How far one explanation's looks have come, and what they take.

    Attributes:
        looked_at: the clock of its latest look; ``cut_at``: of the latest one that the budget ended
            early.
        least: seconds until the first picture of the latest look, and ``next``, of the dearest one
            behind it.
        judged: the step of the module's own by which the network was judged last.
    """

    looked_at: int | None = None
    cut_at: int | None = None
    least: float = 0.0
    next: float = 0.0
    judged: object = None

    def note(self, began: float, times: list[float]) -> None:
        """A look is over: readings when it began, when the network was ready, at each picture."""
        if len(times) > 1:
            self.least = times[1] - began
            later = pairwise(times[1:])
            self.next = max((end - start for start, end in later), default=0.0)
