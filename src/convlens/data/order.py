"""Which images form a batch or a sample: a pure function of seed, epoch and batch number.

No generator's state has to be saved. So a resumed run draws what an uninterrupted run would have
drawn, and any number of processes draws the same global batches.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, pairwise

import numpy as np

from convlens.data.index.generators import make_generator


def draw_even_sample(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Draw ``count`` of N images in proportion to the classes: (count,) row numbers.

    Every prefix of the sample is in proportion too, so work that stops early has still seen all
    classes. (Images are usually sorted by class, so the first ones belong to one class; so may
    equally spaced ones, if labels repeat periodically.)

    Args:
        labels: (N,) int64.
        count: size of the sample; if it is above N, all N are returned.
        seed: seed of the run. The sample depends only on (labels, count, seed), and a smaller
            sample is the beginning of a larger one.

    >>> labels = np.array([0] * 8 + [1] * 4)
    >>> np.bincount(labels[draw_even_sample(labels, 6, seed=0)]).tolist()
    [4, 2]
    """
    rng = make_generator(seed, 4)
    shuffled = rng.permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    _, starts, sizes = np.unique(labels[by_class], return_index=True, return_counts=True)
    # place the images of a class at equal distances on a line that all classes share
    places = np.arange(len(labels)) - np.repeat(starts, sizes)
    offsets = np.repeat(rng.random(len(sizes)), sizes)
    order = np.argsort((places + offsets) / np.repeat(sizes, sizes), kind="stable")
    return by_class[order[:count]]


class TrainingOrder:
    """The global batches of an epoch, each as row numbers.

    Without ``steps``, an epoch is one pass over its own permutation, and the last batch takes what
    remains; if that is fewer than ``least`` images, they join the batch before (batch normalisation
    has no statistics of a single image). With ``steps``, an epoch is that many full batches from an
    endless sequence of permutations, so that no image is drawn again before all others were, across
    epochs too (Keras's ``steps_per_epoch``).

    With ``labels``, images are drawn with replacement (``torch.utils.data.WeightedRandomSampler``):
    every class with the same probability, and within a class every image (class-aware sampling,
    Shen et al. 2016, arXiv:1512.05830). An image of several classes is drawn for each of them, so
    that frequent companions of rare classes still come more often (Wu et al. 2020,
    arXiv:2007.09654). In an epoch some images come several times, and others not at all.

    Args:
        count: number of images, at least 1.
        batch_size: images per global batch.
        seed: seed of the run.
        steps: batches per epoch, or None.
        least: fewest images in a last batch that is not the only one.
        labels: (count,) int64, or (count, K) bool if images may have several classes, to draw all
            classes equally often; None for every image once.
    """

    def __init__(
        self, count: int, batch_size: int, seed: int, steps: int | None = None, *, least: int = 2,
        labels: np.ndarray | None = None,
    ):  # fmt: skip
        self.count, self.batch_size, self.seed, self.steps = count, batch_size, seed, steps
        whole, left = divmod(count, batch_size)
        self._batches = steps or max(1, whole + (left >= min(least, batch_size)))
        self._chances = None if labels is None else _balance(labels)

    def __len__(self) -> int:
        return self._batches

    @property
    def smallest(self) -> int:
        """Number of images in the smallest batch."""
        if self.steps:
            return self.batch_size
        last = self.count - (self._batches - 1) * self.batch_size
        return min(last, self.batch_size) if self._batches > 1 else last

    def batches(self, epoch: int) -> Iterator[np.ndarray]:
        """Yield the row numbers of each batch of ``epoch`` (counted from 0)."""
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
            for number in range(start // self.count, places[-1] // self.count + 1):
                if drawn is None or drawn[0] != number:
                    drawn = (number, self._permutation(number))
                here = places // self.count == number
                batch[here] = drawn[1][places[here] % self.count]
            yield batch

    def _permutation(self, number: int) -> np.ndarray:
        rng = make_generator(self.seed, 0, number)
        if self._chances is not None:
            return rng.choice(self.count, self.count, p=self._chances)
        return rng.permutation(self.count)


def _balance(labels: np.ndarray) -> np.ndarray:
    """Return the probability of each image, (N,), if a class is drawn, then one of its images."""
    if labels.ndim == 2:
        counts = labels.sum(axis=0)
        chances = labels @ (1 / np.maximum(counts, 1))  # a class may have no image of its own
        return chances / chances.sum()
    _, classes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    return 1 / (len(counts) * counts[classes])
