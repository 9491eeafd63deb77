"""Batches straight from the decoded pictures.

The pictures are uint8 in memory or in a memory-mapped file, so a batch is one gather: no worker
processes, no generator of torch's (a ``DataLoader`` draws from the global one when it starts,
which is what usually breaks a bit-identical resume).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from convlens.data.augment import DRAWS
from convlens.data.order import TrainingOrder, generator
from convlens.data.pictures import Pictures

Batch = dict[str, torch.Tensor]


def gather(pictures: Pictures, rows: np.ndarray) -> Batch:
    """``image`` uint8 (B, C, H, W), channels last in memory; ``label`` int64 (B,); ``row``."""
    images = torch.from_numpy(pictures.pixels(rows))
    return {
        "image": images.permute(0, 3, 1, 2),
        "label": torch.from_numpy(pictures.labels[rows]),
        "row": torch.from_numpy(np.asarray(rows, dtype=np.int64)),
    }


class TrainingLoader:
    """The training batches of one process, with the draws of the augmentation.

    Each global batch of ``order`` is shared out in equal runs of rows, process ``rank`` of
    ``world`` taking its own, so that all processes together see what a single one would see.
    """

    def __init__(
        self, pictures: Pictures, order: TrainingOrder, seed: int, rank: int = 0, world: int = 1
    ):
        self.pictures, self.order, self.seed = pictures, order, seed
        self.rank, self.world = rank, world
        self.epoch = 0
        # Lightning tells the epoch to `loader.sampler`, after a resume too
        self.sampler = self

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[Batch]:
        epoch = self.epoch
        for number, rows in enumerate(self.order.batches(epoch)):
            draws = generator(self.seed, 1, epoch, number).random((len(rows), DRAWS))
            mine = np.array_split(np.arange(len(rows)), self.world)[self.rank]
            batch = gather(self.pictures, rows[mine])
            batch["draws"] = torch.from_numpy(draws[mine]).float()
            yield batch


class EvaluationLoader:
    """Every picture once, in order; process ``rank`` of ``world`` takes every ``world``-th."""

    def __init__(self, pictures: Pictures, batch_size: int, rank: int = 0, world: int = 1):
        self.pictures, self.batch_size = pictures, batch_size
        self.rows = np.arange(len(pictures))[rank::world]

    def __len__(self) -> int:
        return -(-len(self.rows) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        for start in range(0, len(self.rows), self.batch_size):
            yield gather(self.pictures, self.rows[start : start + self.batch_size])
