"""Which pictures make up a batch: a pure function of seed, epoch and batch number.

No generator has a state that would have to be saved, so a resumed run draws what the run left
alone would have drawn, and any number of processes draws the same global batches.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np


def generator(seed: int, *key: int) -> np.random.Generator:
    """A generator that depends on ``seed`` and ``key`` alone."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, *key))))


class TrainingOrder:
    """The global batches of an epoch, each as row numbers.

    Without ``steps`` an epoch is one pass over a permutation of its own, the last batch as small
    as what is left. With ``steps`` it is that many full batches from an endless row of
    permutations, so that pictures are drawn again only after all others were, across epochs too
    (what Keras calls ``steps_per_epoch``).

    Args:
        count: number of pictures, at least 1.
        batch_size: pictures of a global batch.
        seed: of the whole run.
        steps: batches an epoch, or None.
    """

    def __init__(self, count: int, batch_size: int, seed: int, steps: int | None = None):
        self.count, self.batch_size, self.seed, self.steps = count, batch_size, seed, steps

    def __len__(self) -> int:
        return self.steps or -(-self.count // self.batch_size)

    def batches(self, epoch: int) -> Iterator[np.ndarray]:
        """The row numbers of each batch of ``epoch`` (counted from 0)."""
        if self.steps is None:
            rows = self._permutation(epoch)
            for start in range(0, self.count, self.batch_size):
                yield rows[start : start + self.batch_size]
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
        return generator(self.seed, 0, number).permutation(self.count)
