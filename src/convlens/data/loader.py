"""Batches straight from the decoded pictures.

The pictures are uint8 in memory or in a memory-mapped file, so a batch is one gather: no worker
processes, no generator of torch's (a ``DataLoader`` draws from the global one when it starts,
which is what usually breaks a bit-identical resume).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
import torch

from convlens.data.augment import DRAWS
from convlens.data.order import TrainingOrder, generator
from convlens.data.pictures import Pictures

Batch = dict[str, torch.Tensor]


class Stored(Protocol):
    """Something computed of every picture of a split beforehand, such as features."""

    cut: int

    def rows(self, rows: np.ndarray) -> torch.Tensor:
        """Of some pictures, (len(rows), …)."""


def gather(pictures: Pictures, rows: np.ndarray, stored: Stored | None = None) -> Batch:
    """``label`` int64 (B,), ``row`` int64 (B,), and what the network is fed with.

    That is ``image`` uint8 (B, C, H, W), channels last in memory; or, of what is stored,
    ``features`` (B, …) and ``cut``.
    """
    batch = {
        "label": torch.from_numpy(pictures.labels[rows]),
        "row": torch.from_numpy(np.asarray(rows, dtype=np.int64)),
    }
    if stored is not None:
        return {"features": stored.rows(rows), "cut": stored.cut, **batch}
    return {"image": torch.from_numpy(pictures.pixels(rows)).permute(0, 3, 1, 2), **batch}


def nothing_stored() -> None:
    """The default of the loaders: the network is fed with pictures."""


class TrainingLoader:
    """The training batches of one process, with the draws of the augmentation.

    Each global batch of ``order`` is shared out in runs of rows, as equal as they can be, process
    ``rank`` of ``world`` taking its own, so that all processes together see what a single one
    would see. With several, a batch also holds ``share`` (B,): each picture's weight in the
    process's mean, so that the mean over processes is the mean over the global batch. A process
    for which no row is left takes one with weight 0: all have to take part.

    Args:
        stored: asked at each start of an epoch for what is stored of these pictures, or None.
        augmented: asked at the same time whether batches carry ``draws``.
    """

    def __init__(
        self,
        pictures: Pictures,
        order: TrainingOrder,
        seed: int,
        rank: int = 0,
        world: int = 1,
        *,
        stored: Callable[[], Stored | None] = nothing_stored,
        augmented: Callable[[], bool] = lambda: True,
    ):
        self.pictures, self.order, self.seed = pictures, order, seed
        self.rank, self.world = rank, world
        self.stored, self.augmented = stored, augmented
        self.epoch = 0
        self._place = (0, 0)  # epoch and number of the batch to begin with
        # Lightning tells the epoch to `loader.sampler`, after a resume too
        self.sampler = self

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.order)

    def state_dict(self) -> dict[str, int]:
        """How far the epoch has come; Lightning keeps it in checkpoints."""
        return {"epoch": self._place[0], "batch": self._place[1]}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self._place = (state["epoch"], state["batch"])

    def __iter__(self) -> Iterator[Batch]:
        epoch, stored, augmented = self.epoch, self.stored(), self.augmented()
        first = self._place[1] if self._place[0] == epoch else 0
        for number, rows in enumerate(self.order.batches(epoch)):
            if number < first:
                continue  # trained on before the run was stopped
            self._place = (epoch, number + 1)
            mine = np.array_split(np.arange(len(rows)), self.world)[self.rank]
            share = np.full(len(mine), self.world * len(mine) / len(rows))
            if not len(mine):
                mine, share = np.zeros(1, dtype=int), np.zeros(1)
            batch = gather(self.pictures, rows[mine], stored)
            if augmented and stored is None:
                draws = generator(self.seed, 1, epoch, number).random((len(rows), DRAWS))
                batch["draws"] = torch.from_numpy(draws[mine]).float()
            if self.world > 1:
                batch["share"] = torch.from_numpy(share)
            yield batch


class EvaluationLoader:
    """Every picture once, in order; process ``rank`` of ``world`` takes every ``world``-th."""

    def __init__(
        self,
        pictures: Pictures,
        batch_size: int,
        rank: int = 0,
        world: int = 1,
        *,
        stored: Callable[[], Stored | None] = nothing_stored,
    ):
        self.pictures, self.batch_size, self.stored = pictures, batch_size, stored
        self.rows = np.arange(len(pictures))[rank::world]

    def __len__(self) -> int:
        return -(-len(self.rows) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        stored = self.stored()
        for start in range(0, len(self.rows), self.batch_size):
            yield gather(self.pictures, self.rows[start : start + self.batch_size], stored)
