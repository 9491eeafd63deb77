"""Batches directly from the decoded images.

The images are uint8 in memory or in a memory-mapped file, so a batch is one gather: it needs no
worker processes and none of torch's generators. (A ``DataLoader`` draws from the global generator
when it starts, which is what usually breaks a bit-identical resume.)
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
    """Outputs computed once for every image of a split, such as features of a frozen base."""

    cut: int

    def rows(self, rows: np.ndarray) -> torch.Tensor:
        """Return the outputs of some images, (len(rows), …)."""


def gather(images: Images, rows: np.ndarray, stored: Stored | None = None) -> Batch:
    """Return a batch: ``label`` int64 (B,), ``row`` int64 (B,), and the network's input.

    The input is ``image`` uint8 (B, C, H, W), channels last in memory; or, if features are stored,
    ``features`` (B, …) and ``cut``.

    Args:
        images: the split.
        rows: (B,) positions in the split.
        stored: the split's stored features, or None.
    """
    batch = {
        "label": torch.from_numpy(images.labels[rows]),
        "row": torch.from_numpy(np.asarray(rows, dtype=np.int64)),
    }
    if stored is not None:
        return {"features": stored.rows(rows), "cut": stored.cut, **batch}
    return {"image": torch.from_numpy(images.pixels(rows)).permute(0, 3, 1, 2), **batch}


@dataclass(eq=False)
class TrainingLoader:
    """The training batches of one process, with the draws of the augmentation.

    Each global batch of ``order`` is divided into consecutive, nearly equal parts, one per process,
    so that all processes together see what a single one would see. A process whose part is empty
    gets one image that does not count, because every process has to take part.

    If an optimizer step spans several batches or processes, a batch also contains ``window`` (n,),
    the labels of all images that the step averages over, and ``counted``, how many of the batch's
    own images count: all of them, or none.

    Args:
        images: the training images.
        order: the global batches.
        seed: seed of the run.
        rank: number of this process.
        world: number of processes.
        stored: called at the start of an epoch; returns stored features of these images, or None.
        augmented: called at the start of an epoch; returns whether batches carry ``draws``.
        accumulate: batches per optimizer step; the last step of an epoch takes the remaining ones.
        cut_short: called at the start of an epoch; returns a number of batches after which the
            epoch ends in any case.
    """

    images: Images
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
        self._place = (0, 0)  # epoch, and number of the batch to start with
        # Lightning calls `loader.sampler.set_epoch`, also after a resume
        self.sampler = self

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration (called by Lightning)."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.order)

    def state_dict(self) -> dict[str, int]:
        """Return the position in the epoch; Lightning stores it in checkpoints."""
        return {"epoch": self._place[0], "batch": self._place[1]}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue at the position that a checkpoint stored."""
        self._place = (state["epoch"], state["batch"])

    def __iter__(self) -> Iterator[Batch]:
        epoch, stored, augmented = self.epoch, self.stored(), self.augmented()
        first = self._place[1] if self._place[0] == epoch else 0
        for number, rows, window in self._steps(epoch):
            if number < first:
                continue  # trained on before the run was interrupted
            self._place = (epoch, number + 1)
            mine = np.array_split(np.arange(len(rows)), self.world)[self.rank]
            counted = len(mine)
            mine = mine if counted else np.zeros(1, dtype=int)
            batch = gather(self.images, rows[mine], stored)
            if augmented and stored is None:
                draws = make_generator(self.seed, 1, epoch, number).random((len(rows), DRAWS))
                batch["draws"] = torch.from_numpy(draws[mine]).float()
            if self.world > 1 or self.accumulate > 1:
                batch["window"] = torch.from_numpy(self.images.labels[window])
                batch["counted"] = counted
            yield batch

    def _steps(self, epoch: int) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Yield each batch's number, its rows, and the rows of all batches of its step."""
        end = min(len(self.order), self.cut_short())
        batches = ((n, rows) for n, rows in enumerate(self.order.batches(epoch)) if n < end)
        while step := list(islice(batches, self.accumulate)):
            window = np.concatenate([rows for _, rows in step])
            for number, rows in step:
                yield number, rows, window


@dataclass(eq=False)
class EvaluationLoader:
    """Every image once, in order; process ``rank`` of ``world`` takes every ``world``-th.

    Args:
        images: the images of a split.
        batch_size: images per batch.
        rank: number of this process.
        world: number of processes.
        rows: (n,) positions of some images; None for all.
        stored: called at the start of an iteration; returns stored features of these images, or
            None.
    """

    images: Images
    batch_size: int
    rank: int = 0
    world: int = 1
    rows: np.ndarray | None = None
    stored: Callable[[], Stored | None] = lambda: None

    def __post_init__(self) -> None:
        rows = np.arange(len(self.images)) if self.rows is None else self.rows
        self.rows = rows[self.rank :: self.world]

    def __len__(self) -> int:
        return -(-len(self.rows) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        stored = self.stored()
        for start in range(0, len(self.rows), self.batch_size):
            yield gather(self.images, self.rows[start : start + self.batch_size], stored)
