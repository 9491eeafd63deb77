"""Which images make up a batch, or a sample: a pure function of seed, epoch and batch number.

No generator has a state that would have to be saved, so a resumed run draws what the run left
alone would have drawn, and any number of processes draws the same global batches.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, pairwise

import numpy as np


def make_generator(seed: int, *key: int) -> np.random.Generator:
    """A generator that depends on ``seed`` and ``key`` alone."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, *key))))


def draw_even_sample(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """``count`` of N images, each class in proportion: (count,) row numbers.

    The order is such that every beginning of the sample is in proportion too, so work that is cut
    short has still seen all classes. Images usually lie sorted by class: the first ones are all
    of one, and so may be those at even distances where labels repeat periodically.

    Args:
        labels: (N,) int64.
        count: all N where there are no more.
        seed: of the run; the sample is a function of (labels, count, seed), and a smaller sample
            is the beginning of a larger one.

    >>> labels = np.array([0] * 8 + [1] * 4)
    >>> np.bincount(labels[draw_even_sample(labels, 6, seed=0)]).tolist()
    [4, 2]
    """
    rng = make_generator(seed, 4)
    shuffled = rng.permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    _, starts, sizes = np.unique(labels[by_class], return_index=True, return_counts=True)
    # the images of a class stand at equal distances on a line that all classes share
    places = np.arange(len(labels)) - np.repeat(starts, sizes)
    offsets = np.repeat(rng.random(len(sizes)), sizes)
    order = np.argsort((places + offsets) / np.repeat(sizes, sizes), kind="stable")
    return by_class[order[:count]]


class TrainingOrder:
    """The global batches of an epoch, each as row numbers.

    Without ``steps`` an epoch is one pass over a permutation of its own, the last batch as small
    as what is left; fewer than ``least`` images join the batch before (batch normalisation knows no
    statistics of a single image). With ``steps`` it is that many full batches from an endless row
    of permutations, so that images are drawn again only after all others were, across epochs too
    (what Keras calls ``steps_per_epoch``).

    Args:
        count: number of images, at least 1.
        batch_size: images of a global batch.
        seed: of the whole run.
        steps: batches an epoch, or None.
        least: images of the last batch, where there is one before it.
    """

    def __init__(
        self, count: int, batch_size: int, seed: int, steps: int | None = None, *, least: int = 2
    ):
        self.count, self.batch_size, self.seed, self.steps = count, batch_size, seed, steps
        whole, left = divmod(count, batch_size)
        self._batches = steps or max(1, whole + (left >= min(least, batch_size)))

    def __len__(self) -> int:
        return self._batches

    @property
    def smallest(self) -> int:
        """Images of the smallest batch."""
        if self.steps:
            return self.batch_size
        last = self.count - (self._batches - 1) * self.batch_size
        return min(last, self.batch_size) if self._batches > 1 else last

    def batches(self, epoch: int) -> Iterator[np.ndarray]:
        """The row numbers of each batch of ``epoch`` (counted from 0)."""
        if self.steps is None:
            rows = self._permutation(epoch)
            starts = range(0, self._batches * self.batch_size, self.batch_size)
            for start, stop in pairwise(chain(starts, [None])):
                yield rows[start:stop]
            return
        drawn: tuple[int, np.ndarray] | None = None
        for step in range(self.steps):
            start = (epoch * self.steps + step) * self.batch_size
            places = np.arange(start, start + self.batch_size)
            batch = np.empty(self.batch_size, dtype=np.int64)
            for number in np.unique(places // self.count):
                if drawn is None or drawn[0] != number:
                    drawn = (int(number), self._permutation(int(number)))
                here = places // self.count == number
                batch[here] = drawn[1][places[here] % self.count]
            yield batch

    def _permutation(self, number: int) -> np.ndarray:
        return make_generator(self.seed, 0, number).permutation(self.count)
