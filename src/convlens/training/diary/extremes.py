"""Training images at an extreme: the hardest, those forgotten most, those learned last."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from convlens.training.diary.diary import Diary

KINDS = {  # kind -> what these images have in common
    "hardest": "hardest: the highest mean loss",
    "forgotten": "forgotten most: right in one epoch, wrong in a later one",
    "learned_last": "learned last: the latest first right prediction",
}


@dataclass(frozen=True)
class Extreme:
    """A label of a training image that is at an extreme.

    Attributes:
        row: the image's position in the training images.
        name: by which a user finds it.
        label: the given class.
        named: the class that the network named most besides it; None if there is none.
        reason: why it is listed, in words.
    """

    row: int
    name: str
    label: int
    named: int | None
    reason: str


def list_extremes(
    diary: Diary, kind: str, count: int, without: Collection[tuple[int, int]] = ()
) -> list[Extreme]:
    """Return the labels at an extreme, the most extreme first, those with equal ones by their loss.

    A label that was never predicted counts as learned after all others. Labels that were never
    forgotten, or learned in the first epoch, are not listed as such.

    Args:
        diary: of the run. With several classes per image only labels that images have are listed.
        kind: one of ``KINDS``.
        count: maximum number of labels.
        without: images and labels that are shown elsewhere.
    """
    record, arrays = diary.record, diary.record.arrays
    place = np.nonzero(diary.labels) if diary.several else (np.arange(len(diary.labels)),)
    labels = place[1] if diary.several else diary.labels
    loss, learned = record.mean("loss")[place], arrays["learned"][place].astype(np.int64)
    forgotten = arrays["forgotten"][place].astype(np.int64)
    last = np.where(learned == 0, np.iinfo(np.int64).max, learned)
    by, listed = {
        "hardest": (loss, np.isfinite(loss)),
        "forgotten": (forgotten, forgotten > 0),
        "learned_last": (last, last > 1),
    }[kind]
    listed &= arrays["seen"][place] > 0
    shown = set(without)
    found: list[Extreme] = []
    for at in _find_highest(by, loss, np.flatnonzero(listed), count + len(shown)):
        row, label = int(place[0][at]), int(labels[at])
        if len(found) == count:
            break
        if (row, label) in shown:
            continue
        named = None
        if not diary.several and arrays["lead"][row] > 0:
            named = int(arrays["other"][row])
        reason = {
            "hardest": f"mean loss {loss[at]:.2f}, ",
            "forgotten": f"forgotten {_times(forgotten[at])}, ",
            "learned_last": f"first right in epoch {learned[at]}, " if learned[at] else "",
        }[kind]
        reason += f"right in {arrays['right'][place][at]} of {arrays['seen'][place][at]}"
        found.append(Extreme(row, diary.names[row], label, named, reason))
    return found


def _find_highest(
    first: np.ndarray, second: np.ndarray, among: np.ndarray, count: int
) -> np.ndarray:
    """Return the ``count`` highest of some labels by two keys, in order, without sorting all.

    Args:
        first: (N,) the key that decides.
        second: (N,) the key that decides among equal ones.
        among: positions of the labels.
        count: maximum number of positions to return.
    """
    if count < len(among):
        edge = np.partition(first[among], -count)[-count]
        level = among[first[among] == edge]
        if count < len(level):
            level = level[np.argpartition(second[level], -count)[-count:]]
        among = np.concatenate([among[first[among] > edge], level])
    return among[np.lexsort((-second[among], -first[among]))][:count]


def _times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(int(count), f"{count} times")
