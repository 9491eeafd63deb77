"""Which labels are probably wrong, and whether they are more than chance gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

DEVIATIONS = 3.0  # standard errors by which suspects must outnumber what chance gives
NAMED = 3  # pairs of classes named in one line


@dataclass(frozen=True)
class Suspects:
    """Images whose label the network contradicts as firmly as it usually agrees.

    A network that learns is led by the majority: an image with a wrong label looks like one of its
    true class, so its margin is about that of a right one with the opposite sign. Hence the cut at
    the negative of the median.

    What chance gives: if no label were wrong, the margins would scatter about their median, and as
    many would lie far below as far above. The margins at or above three times the median are the
    mirror image of those at or below the cut.

    Attributes:
        flags: bool, in the shape of the margins.
        cut: largest mean margin of a suspect; NaN if the network does not yet know most labels.
        total: labels that have a margin.
        by_chance: how many suspects chance gives.
    """

    flags: np.ndarray
    cut: float
    total: int
    by_chance: int

    @property
    def count(self) -> int:
        """How many labels are suspected."""
        return int(self.flags.sum())

    @property
    def excess(self) -> float:
        """The fraction of the labels by which suspects outnumber what chance gives; at least 0."""
        return max(0, self.count - self.by_chance) / max(self.total, 1)

    @property
    def exceed_chance(self) -> bool:
        """Whether suspects outnumber their mirror image by more than it scatters.

        The difference of two counts with the same expectation has the variance of their sum.
        """
        return self.count - self.by_chance > DEVIATIONS * np.sqrt(self.count + self.by_chance)


def find_suspects(margins: np.ndarray) -> Suspects:
    """Return the suspects by their mean margins, of any shape; NaN where unknown.

    >>> found = find_suspects(np.array([3.0, 4.0, 5.0, 5.0, 6.0, 7.0, -6.0]))
    >>> found.flags.tolist().index(True), found.cut, found.by_chance
    (6, -5.0, 0)
    """
    known = np.isfinite(margins)
    median = float(np.median(margins[known])) if known.any() else 0.0
    if median <= 0:
        return Suspects(np.zeros(margins.shape, bool), float("nan"), int(known.sum()), 0)
    flags = known & (margins <= -median)
    mirrored = int((margins[known] >= 3 * median).sum())
    return Suspects(flags, -median, int(known.sum()), mirrored)


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

    >>> margins = np.array([3.0] * 85 + [-4.0] * 15)
    >>> check_labels(find_suspects(margins), np.zeros(100, int), np.ones(100, int), ["cat", "dog"],
    ...              excess=0.02)
    'probably mislabelled: 15 of 100 training images, where chance gives 0 (cat that looks like \
dog: 15); look at diary/mislabelled and diary.csv'
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
        f"{found.by_chance} ({named}); look at diary/mislabelled and diary.csv"
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
        f"probably {kind}: {found.count} of {found.total}, where chance gives {found.by_chance} "
        f"({named}); look at diary/mislabelled and diary.csv"
    )
