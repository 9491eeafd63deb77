"""Which labels are probably wrong, and whether they are more than chance gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

DEVIATIONS = 3.0  # standard deviations by which suspects must outnumber what chance gives
FIRM = 0.75  # quantile of the margins' sizes from which on the network is firm
NAMED = 3  # pairs of classes named in one line


@dataclass(frozen=True)
class Suspects:
    """Labels that the network contradicts firmly.

    It is firm about the quarter of the labels whose mean margins, for or against, are largest.
    Those against are the suspects.

    What chance gives follows from the network's own odds: a margin of m says that the label is
    e^m times as probable as the next class. Of firm answers with margins of size m, the fraction
    1 / (1 + e^m) should contradict the label if they are as certain as they claim to be.

    Attributes:
        flags: bool, in the shape of the margins.
        cut: largest mean margin of a suspect; NaN if the network does not yet know most labels.
        total: labels that have a margin.
        by_chance: how many suspects chance gives.
        deviation: standard deviation of that number.
    """

    flags: np.ndarray
    cut: float
    total: int
    by_chance: float
    deviation: float

    @property
    def count(self) -> int:
        """How many labels are suspected."""
        return int(self.flags.sum())

    @property
    def excess(self) -> float:
        """The fraction of the labels by which suspects outnumber what chance gives; at least 0."""
        return max(0.0, self.count - self.by_chance) / max(self.total, 1)

    @property
    def exceed_chance(self) -> bool:
        """Whether suspects outnumber what chance gives by more than it scatters."""
        return self.count - self.by_chance > DEVIATIONS * self.deviation


def find_suspects(margins: np.ndarray) -> Suspects:
    """Return the suspects by their mean margins, of any shape; NaN where unknown.

    There are none before more than half of the labels have positive margins.

    >>> found = find_suspects(np.array([1.0, 2.0, 2.0, 2.0, 3.0, 3.0, 7.0, -6.0]))
    >>> found.flags.tolist().index(True), round(found.by_chance, 3)
    (7, 0.003)
    """
    known = np.isfinite(margins)
    values = margins[known].astype(np.float64)
    total = len(values)
    if not total or np.median(values) <= 0:
        return Suspects(np.zeros(margins.shape, bool), float("nan"), total, 0.0, 0.0)
    cut = np.quantile(np.abs(values), FIRM)
    firm = np.abs(values[np.abs(values) >= cut])
    against = 1 / (1 + np.exp(firm))
    return Suspects(
        known & (margins <= -cut), -float(cut), total, float(against.sum()),
        float(np.sqrt((against * (1 - against)).sum())),
    )  # fmt: skip


def check_labels(
    found: Suspects, labels: np.ndarray, others: np.ndarray, class_names: Sequence[str], *,
    excess: float,
) -> str | None:  # fmt: skip
    """Warn if more labels are suspected than chance gives, and name the worst pairs of classes.

    Args:
        found: the suspects among N images.
        labels: (N,) given classes.
        others: (N,) the classes that the network names instead.
        class_names: K names.
        excess: threshold, as a fraction of the images.

    Returns:
        The alarm, or None.

    >>> margins = np.array([8.0] * 85 + [-9.0] * 15)
    >>> check_labels(find_suspects(margins), np.zeros(100, int), np.ones(100, int), ["cat", "dog"],
    ...              excess=0.02)
    'probably mislabelled: 15 of 100 training images, where chance gives 0 (cat that looks like \
dog: 15); look at training/mislabelled and diary.csv'
    """
    if not found.exceed_chance or found.excess < excess:
        return None
    pairs, counts = np.unique(
        np.stack([labels[found.flags], others[found.flags]]), axis=1, return_counts=True
    )
    worst = np.argsort(-counts, kind="stable")[:NAMED]
    named = ", ".join(
        f"{class_names[pairs[0, n]]} that looks like {class_names[pairs[1, n]]}: {counts[n]}"
        for n in worst
    )
    return (
        f"probably mislabelled: {found.count} of {found.total} training images, where chance gives "
        f"{found.by_chance:.0f} ({named}); look at training/mislabelled and diary.csv"
    )


def check_presence(
    found: Suspects, has: bool, class_names: Sequence[str], *, excess: float
) -> str | None:
    """Warn likewise about images with several classes, and name the classes concerned most.

    Args:
        found: the suspects among N images and K classes.
        has: whether the labels are those that images have, or those that they lack.
        class_names: K names.
        excess: threshold, as a fraction of the labels.
    """
    if not found.exceed_chance or found.excess < excess:
        return None
    counts = found.flags.sum(axis=0)
    worst = [n for n in np.argsort(-counts, kind="stable")[:NAMED] if counts[n]]
    named = ", ".join(f"{class_names[n]}: {counts[n]}" for n in worst)
    kind = "wrong labels" if has else "missing labels"
    return (
        f"probably {kind}: {found.count} of {found.total}, where chance gives "
        f"{found.by_chance:.0f} ({named}); look at training/mislabelled and diary.csv"
    )
