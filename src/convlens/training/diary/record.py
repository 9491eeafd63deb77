"""The diary's memory: running sums of every training image, in at most 36 bytes per label.

Legend: N training images, K classes. With several classes per image every array is (N, K), a
number per image and class; otherwise (N,).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from convlens.training.diary.presentations import Presentations

CLEAR = 0.5  # share of the given label from which on a mixed image can be right or wrong
_MOST = np.iinfo(np.uint16).max


class Record:
    """Running sums over all presentations of each training image.

    - ``aum``, area under the margin (Pleiss et al. 2020, arXiv:2001.10528): the mean margin.
    - ``confidence`` and ``variability`` (dataset cartography, Swayamdipta et al. 2020,
      arXiv:2009.10795): mean and standard deviation of the given label's probability.
    - ``forgotten`` (Toneva et al. 2019, arXiv:1812.05159): how often a right prediction was
      followed by a wrong one. ``learned``: the first epoch with a right one.

    A mixed image counts by the share of its own label; as right or wrong only from one half on.

    Args:
        images: N.
        classes: K.
        several: whether an image may have several classes.
        double: whether sums are float64, for training in float64; otherwise float32.
    """

    def __init__(self, images: int, classes: int, *, several: bool = False, double: bool = False):
        self.several = several
        shape = (images, classes) if several else (images,)
        real = np.float64 if double else np.float32
        kinds = dict.fromkeys(("weight", "margin", "loss", "mean", "spread"), real)
        kinds |= {"seen": np.uint32, "right": np.uint32, "forgotten": np.uint16}
        kinds |= {"learned": np.uint16, "last": np.uint8}
        if not several:  # the class named most often: a candidate and its lead
            kinds |= {"other": np.min_scalar_type(max(classes, 256)), "lead": np.uint8}
        self.arrays = {name: np.zeros(shape, kind) for name, kind in kinds.items()}

    @property
    def bytes_per_label(self) -> int:
        """Bytes kept for each image, or for each image and class."""
        return sum(array.itemsize for array in self.arrays.values())

    def add(self, found: Presentations, epoch: int) -> None:
        """Add the presentations of an epoch; of an image that came twice, in their order.

        Args:
            found: of all processes.
            epoch: completed epochs with this one, from 1.
        """
        if not len(found):
            return
        order = np.argsort(found.row, kind="stable")
        rows = found.row[order]
        starts = np.flatnonzero(np.append(True, rows[1:] != rows[:-1]))
        turn = np.arange(len(rows)) - np.repeat(starts, np.diff(np.append(starts, len(rows))))
        by_turn = order[np.argsort(turn, kind="stable")]
        for part in np.split(by_turn, np.cumsum(np.bincount(turn))[:-1]):
            self._add_once(found.select(part), epoch)

    def _add_once(self, found: Presentations, epoch: int) -> None:
        """Add presentations of different images."""
        rows = found.row
        now = {name: array[rows] for name, array in self.arrays.items()}
        real = now["weight"].dtype
        share, loss = found.share.astype(real), found.loss.astype(real)
        confidence = np.exp(-loss)
        now["seen"] += 1
        now["margin"] += share * found.margin.astype(real)
        now["loss"] += share * loss
        now["weight"] += share
        # West (1979): a running mean and the sum of squared distances from it
        away = confidence - now["mean"]
        parts = np.divide(share, now["weight"], out=np.zeros_like(share), where=share > 0)
        now["mean"] += parts * away
        now["spread"] += share * away * (confidence - now["mean"])
        clear = found.share >= CLEAR
        right, wrong = clear & found.right, clear & ~found.right
        forgotten = wrong & (now["last"] == 1) & (now["forgotten"] < _MOST)
        now["forgotten"] += forgotten.astype(np.uint16)
        now["right"] += right.astype(np.uint32)
        first = right & (now["learned"] == 0)
        now["learned"] = np.where(first, np.uint16(min(epoch, _MOST)), now["learned"])
        now["last"] = np.where(clear, right, now["last"]).astype(np.uint8)
        if not self.several:
            _vote(now, found.other, clear)
        for name, array in self.arrays.items():
            array[rows] = now[name]

    # --- statistics

    def mean(self, name: str) -> np.ndarray:
        """Return the mean ``margin`` or ``loss``; NaN for an image that was never seen."""
        return self._divide(self.arrays[name])

    @property
    def aum(self) -> np.ndarray:
        """The mean margin."""
        return self.mean("margin")

    @property
    def confidence(self) -> np.ndarray:
        """The mean probability of the given label, in [0, 1]; NaN if never seen."""
        return np.where(self.arrays["weight"] > 0, self.arrays["mean"], np.nan)

    @property
    def variability(self) -> np.ndarray:
        """The standard deviation of that probability over the presentations."""
        return np.sqrt(self._divide(self.arrays["spread"]))

    def _divide(self, sums: np.ndarray) -> np.ndarray:
        weight = self.arrays["weight"]
        return np.divide(sums, weight, out=np.full_like(weight, np.nan), where=weight > 0)

    # --- what a checkpoint keeps

    def state(self) -> dict[str, Tensor]:
        """Return the sums as tensors."""
        kinds = {np.uint16: np.int16, np.uint32: np.int32}  # torch stores those reluctantly
        views = ((n, a.view(kinds.get(a.dtype.type, a.dtype))) for n, a in self.arrays.items())
        return {name: torch.from_numpy(view.copy()) for name, view in views}

    def load(self, state: dict[str, Tensor]) -> bool:
        """Take over the sums of a checkpoint; return False if they are of another run."""
        shapes = {name: tuple(array.shape) for name, array in state.items()}
        if shapes != {name: array.shape for name, array in self.arrays.items()}:
            return False
        for name, array in self.arrays.items():
            found = state[name].numpy()
            if found.dtype.itemsize != array.dtype.itemsize:
                found = found.astype(array.dtype)  # resumed in another precision
            self.arrays[name] = found.view(array.dtype).copy()
        return True


def _vote(now: dict[str, np.ndarray], named: np.ndarray, clear: np.ndarray) -> None:
    """Count the class of the largest other logit (majority vote of Boyer and Moore 1981).

    A class that is named in more than half of the presentations is the candidate at the end.
    """
    agrees = now["other"] == named
    takes = clear & ~agrees & (now["lead"] == 0)
    gains = clear & agrees & (now["lead"] < np.iinfo(np.uint8).max)
    loses = clear & ~agrees & (now["lead"] > 0)
    now["other"] = np.where(takes, named, now["other"]).astype(now["other"].dtype)
    now["lead"] = np.where(takes, 1, now["lead"] + gains - loses).astype(np.uint8)
