"""Batches straight from the decoded images.

The images are uint8 in memory or in a memory-mapped file, so a batch is one gather: no worker
processes, no generator of torch's (a ``DataLoader`` draws from the global one when it starts,
which is what usually breaks a bit-identical resume).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import numpy as np
import torch

from convlens.data.augment import DRAWS
from convlens.data.order import TrainingOrder, make_generator
from convlens.data.pixels.dataset import Images

Batch = dict[str, torch.Tensor]


class Stored(Protocol):
    """Something computed of every image of a split beforehand, such as features."""

    cut: int

    def rows(self, rows: np.ndarray) -> torch.Tensor:
        """Of some images, (len(rows), …)."""


def gather(pictures: Images, rows: np.ndarray, stored: Stored | None = None) -> Batch:
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


@dataclass(eq=False)
class TrainingLoader:
    """The training batches of one process, with the draws of the augmentation.

    Each global batch of ``order`` is shared out in runs of rows, as equal as they can be, process
    ``rank`` of ``world`` taking its own, so that all processes together see what a single one
    would see. A process for which no row is left takes one that does not count: all have to take
    part.

    Where several batches or several processes make one move of the weights, a batch also holds
    ``window`` (n,), the labels of all images that this move averages over, and ``counted``, how
    many of the batch's own images do count: all, or none.

    Args:
        accumulate: batches whose gradients make one move; the last move of an epoch takes those
            that are left.
        cut_short: asked at each start of an epoch for the number of batches after which it ends
            in any case.
        stored: asked at each start of an epoch for what is stored of these images, or None.
        augmented: asked at the same time whether batches carry ``draws``.
    """

    pictures: Images
    order: TrainingOrder
    seed: int
    rank: int = 0
    world: int = 1
    stored: Callable[[], Stored | None] = lambda: None
    augmented: Callable[[], bool] = lambda: True
    accumulate: int = 1
    cut_short: Callable[[], float] = lambda: math.inf

    def __post_init__(self) -> None:
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
        for number, rows, window in self._moves(epoch):
            if number < first:
                continue  # trained on before the run was stopped
            self._place = (epoch, number + 1)
            mine = np.array_split(np.arange(len(rows)), self.world)[self.rank]
            counted = len(mine)
            mine = mine if counted else np.zeros(1, dtype=int)
            batch = gather(self.pictures, rows[mine], stored)
            if augmented and stored is None:
                draws = make_generator(self.seed, 1, epoch, number).random((len(rows), DRAWS))
                batch["draws"] = torch.from_numpy(draws[mine]).float()
            if self.world > 1 or self.accumulate > 1:
                batch["window"] = torch.from_numpy(self.pictures.labels[window])
                batch["counted"] = counted
            yield batch

    def _moves(self, epoch: int) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Each batch's number, its rows, and the rows of all batches of its move."""
        end = min(len(self.order), self.cut_short())
        batches = ((n, rows) for n, rows in enumerate(self.order.batches(epoch)) if n < end)
        while move := list(islice(batches, self.accumulate)):
            window = np.concatenate([rows for _, rows in move])
            for number, rows in move:
                yield number, rows, window


@dataclass(eq=False)
class EvaluationLoader:
    """Every image once, in order; process ``rank`` of ``world`` takes every ``world``-th.

    Args:
        rows: (n,) the images, where it is not all of them.
        stored: asked at each start for what is stored of these images, or None.
    """

    pictures: Images
    batch_size: int
    rank: int = 0
    world: int = 1
    rows: np.ndarray | None = None
    stored: Callable[[], Stored | None] = lambda: None

    def __post_init__(self) -> None:
        rows = np.arange(len(self.pictures)) if self.rows is None else self.rows
        self.rows = rows[self.rank :: self.world]

    def __len__(self) -> int:
        return -(-len(self.rows) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        stored = self.stored()
        for start in range(0, len(self.rows), self.batch_size):
            yield gather(self.pictures, self.rows[start : start + self.batch_size], stored)
