"""Slices of low accuracy: groups of a class's images with alike features, mostly mistaken.

Features are what the classifier reads (``convlens.explain.penultimate``). Predictions depend on
them, so images that lie among those of another class are mistaken together; a slice says that the
mistakes have something in common, and shows what.

Legend: N images, F features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, lgamma

import torch
from torch import Tensor

from convlens.explain.clusters import group_points, list_clusters

MOST = 8  # slices of a class
TYPICAL = 25  # images for each slice, with fewer there are fewer slices
FEWEST = 5  # images of a slice


@dataclass(frozen=True, eq=False)
class Slice:
    """Images of one class with alike features.

    Attributes:
        label: the class.
        rows: (n,) int64, positions among the N images.
        accuracy: on these images, in [0, 1].
        rest: accuracy on the other images of the class.
        taken_for: the class that most of its mistakes are taken for; None without mistakes.
        taken: how many of them.
        chance: probability of an accuracy as low as this, or lower, if it did not matter which of
            the class's images are in the slice (Fisher's exact test, one-sided).
    """

    label: int
    rows: Tensor
    accuracy: float
    rest: float
    taken_for: int | None
    taken: int
    chance: float


def find_slices(features: Tensor, labels: Tensor, predictions: Tensor) -> list[Slice]:
    """Divide the images of each class into slices of alike features.

    Features are compared by the angle between them, seen from the mean of the class. The same
    features always give the same slices.

    Args:
        features: (N, F).
        labels: (N,) true classes; -1 where unknown, and then in no slice.
        predictions: (N,) predicted classes.

    Returns:
        The slices, by class and size; none of a class with fewer than two times ``FEWEST`` images.
    """
    found = []
    for label in labels[labels >= 0].unique().tolist():
        own = (labels == label).nonzero()[:, 0]
        if len(own) < 2 * FEWEST:
            continue
        count = min(MOST, max(2, len(own) // TYPICAL))
        points = features[own].double()
        points = torch.nn.functional.normalize(points - points.mean(0), dim=1)
        numbers = torch.from_numpy(group_points(points.numpy(), most=count, least=count))
        right = predictions[own] == label
        for part in list_clusters(torch.arange(len(own)), numbers, FEWEST):
            if len(part) < len(own):
                found.append(_describe(label, own, part, right, predictions))
    return found


def _describe(label: int, own: Tensor, part: Tensor, right: Tensor, predictions: Tensor) -> Slice:
    size, total = len(part), len(own)
    hits, all_hits = int(right[part].sum()), int(right.sum())
    mistakes = predictions[own[part][~right[part]]]
    counts = torch.bincount(mistakes, minlength=1)
    taken = int(counts.max())
    return Slice(
        label, own[part], hits / size, (all_hits - hits) / (total - size),
        int(counts.argmax()) if taken else None, taken,
        compute_chance(hits, size, all_hits, total),
    )  # fmt: skip


def compute_chance(hits: int, size: int, all_hits: int, total: int) -> float:
    """Return the probability that ``size`` of ``total`` images contain at most ``hits`` right ones.

    The images are drawn without replacement from ``total`` of which ``all_hits`` are right
    (Fisher's exact test).

    >>> round(compute_chance(0, 2, 2, 4), 4)
    0.1667
    """

    def log_choose(count: int, drawn: int) -> float:
        return lgamma(count + 1) - lgamma(drawn + 1) - lgamma(count - drawn + 1)

    wrong = total - all_hits
    least = max(0, size - wrong)
    terms = (
        exp(log_choose(all_hits, k) + log_choose(wrong, size - k) - log_choose(total, size))
        for k in range(least, hits + 1)
    )
    return min(1.0, sum(terms))


def find_low_slices(slices: Sequence[Slice], *, fall: float, chance: float) -> list[int]:
    """Return the numbers of the slices of low accuracy, the least probable by chance first.

    Args:
        slices: all that were found.
        fall: how much lower accuracy must be than on the rest of the class.
        chance: maximum probability that any slice is called so by chance alone; each may have an
            equal part of it (Bonferroni).
    """
    low = [
        number for number, each in enumerate(slices)
        if each.rest - each.accuracy >= fall and each.chance <= chance / len(slices)
    ]  # fmt: skip
    return sorted(low, key=lambda number: slices[number].chance)


def describe_slice(found: Slice, class_names: Sequence[str]) -> list[str]:
    """Return what was found of a slice, line by line.

    Args:
        found: the slice.
        class_names: K names.
    """
    lines = [f"{len(found.rows)} images, accuracy {found.accuracy:.2f}",
             f"the rest of the class {found.rest:.2f} (chance {found.chance:.2g})"]  # fmt: skip
    if found.taken_for is not None:
        lines.append(f"{found.taken} taken for {class_names[found.taken_for]}")
    return lines


def choose_examples(found: Slice, predictions: Tensor, count: int) -> Tensor:
    """Return images of a slice to show, (n,) positions among the N: the mistakes first.

    Args:
        found: the slice.
        predictions: (N,) predicted classes.
        count: how many at most.
    """
    wrong = predictions[found.rows] != found.label
    return torch.cat([found.rows[wrong], found.rows[~wrong]])[:count]
