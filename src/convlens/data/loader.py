"""Batches directly from the decoded images.

The images are uint8 in memory or in a memory-mapped file, so a batch is one gather: it needs no
worker processes and none of torch's generators. (A ``DataLoader`` draws from the global generator
when it starts, which is what usually breaks a bit-identical resume.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from convlens.data.augment import DRAWS, Augmentation
from convlens.data.feed import Allocate, Batch, Feed, Gather
from convlens.data.index.generators import make_generator
from convlens.data.mixing import draw_mix, find_partners
from convlens.data.order import TrainingOrder
from convlens.data.pixels.dataset import Images


class Stored(Protocol):
    """Outputs computed once for every image of a split, such as features of a frozen base."""

    cut: int

    @property
    def nbytes(self) -> int:
        """Size of all outputs."""

    def rows(self, rows: np.ndarray, allocate: Allocate | None) -> Tensor:
        """Return the outputs of some images, (len(rows), …), in memory called ``features``."""


@dataclass(frozen=True)
class Input:
    """What the network gets of a split: its images, or outputs stored for them.

    Attributes:
        images: the split.
        stored: stored outputs that replace the images, or None.
        resident: the images on the device, (N, H, W, C) uint8; None if they are on the host.
    """

    images: Images
    stored: Stored | None = None
    resident: Tensor | None = None

    @property
    def nbytes(self) -> int:
        """Bytes on the host that batches are gathered from."""
        if self.stored is not None:
            return self.stored.nbytes
        return self.images.images.nbytes if self.resident is None else 0

    def gather(self, rows: np.ndarray, allocate: Allocate | None) -> Batch:
        """Return what the host has of a batch: ``label``, ``row`` int64 (B,), and more.

        Labels are int64 (B,), or bool (B, K) if images may have several classes.

        Images on the host are ``image`` uint8 (B, C, H, W), channels last in memory. Stored outputs
        are ``features`` (B, …), with ``cut``.

        Args:
            rows: (B,) positions in the split.
            allocate: called with key, shape and type; returns memory for the images or features;
                None for new memory.
        """
        batch = {
            "label": torch.from_numpy(self.images.targets[rows]),
            "row": torch.from_numpy(np.asarray(rows, dtype=np.int64)),
        }
        if self.stored is not None:
            return {"features": self.stored.rows(rows, allocate), "cut": self.stored.cut, **batch}
        if self.resident is not None:
            return batch
        shape = (len(rows), *self.images.images.shape[1:])
        out = None if allocate is None else allocate("image", shape, torch.uint8).numpy()
        image = torch.from_numpy(self.images.pixels(rows, out))
        return {"image": image.permute(0, 3, 1, 2), **batch}

    def select(self, batch: Batch) -> Batch:
        """Return the batch with its images, if those are on the device."""
        if self.stored is not None or self.resident is None:
            return batch
        rows = batch["row"].to(self.resident.device)
        return {"image": self.resident.index_select(0, rows).permute(0, 3, 1, 2), **batch}


@dataclass(eq=False)
class TrainingLoader:
    """The training batches of one process, with the draws of the augmentation.

    Each global batch of ``order`` is divided into consecutive, nearly equal parts, one per process,
    so that all processes together see what a single one would see. A process whose part is empty
    gets one image that does not count, because every process has to take part.

    A batch that will be mixed ends with one more image, the partner of its first one, and carries
    ``mix``; see ``convlens.data.mixing``.

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
        augmentation: of the training images; None for none.
        augmented: called at the start of an epoch; returns whether it is applied, so that batches
            carry the random numbers that it needs.
        accumulate: batches per optimizer step; the last step of an epoch takes the remaining ones.
        cut_short: called at the start of an epoch; returns a number of batches after which the
            epoch ends in any case.
        resident: called at the start of an epoch that needs images; returns them on the device, or
            None.
        feed: brings the batches to the device.
    """

    images: Images
    order: TrainingOrder
    seed: int
    rank: int = 0
    world: int = 1
    stored: Callable[[], Stored | None] = lambda: None
    augmentation: Augmentation | None = None
    augmented: Callable[[], bool] = lambda: True
    accumulate: int = 1
    cut_short: Callable[[], float] = lambda: math.inf
    resident: Callable[[], Tensor | None] = lambda: None
    feed: Feed = field(default_factory=Feed)

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
        epoch, stored = self.epoch, self.stored()
        source = Input(self.images, stored, None if stored else self.resident())
        augmented = self.augmented() and not stored
        first = self._place[1] if self._place[0] == epoch else 0
        batches = (
            (number, partial(self._gather, source, (epoch, number), rows, window, augmented))
            for number, rows, window in self._steps(epoch)
            if number >= first  # the others were trained on before the run was interrupted
        )
        for number, batch in self.feed.run(batches, source.select, source.nbytes):
            self._place = (epoch, number + 1)  # of batches that are handed on, not of prepared ones
            yield batch

    def _gather(
        self, source: Input, place: tuple[int, int], rows: np.ndarray, window: np.ndarray,
        augmented: bool, allocate: Allocate | None,
    ) -> Batch:  # fmt: skip
        """Return this process's part of the global batch ``rows``, on the host."""
        mine = np.arange(len(rows))
        if self.world > 1:
            mine = np.array_split(mine, self.world)[self.rank]
        counted = len(mine)
        mine = mine if counted else np.zeros(1, dtype=int)
        mixes = augmented and self.augmentation is not None and self.augmentation.ranges.mixes
        read = find_partners(mine, len(rows)) if mixes else mine
        batch = source.gather(rows[read], allocate)
        if augmented:
            batch |= self._draw(place, len(rows), read)
        if self.world > 1 or self.accumulate > 1:
            batch["window"] = torch.from_numpy(self.images.targets[window])
            batch["counted"] = counted
        return batch

    def _draw(self, place: tuple[int, int], count: int, read: np.ndarray) -> Batch:
        """Return the random numbers of the images at the places ``read`` of a global batch."""
        draws = make_generator(self.seed, 1, *place).random((count, DRAWS))
        drawn: Batch = {"draws": torch.from_numpy(draws[read]).float()}
        if self.augmentation is None:
            return drawn
        if numbers := self.augmentation.policy.numbers:
            drawn["choices"] = make_generator(self.seed, 5, *place).random((count, numbers))[read]
        if (ranges := self.augmentation.ranges).mixes:
            height, width = self.images.images.shape[1:3]
            rng = make_generator(self.seed, 6, *place)
            drawn["mix"] = draw_mix(ranges, rng, height, width)
        return drawn

    def _steps(self, epoch: int) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Yield each batch's number, its rows, and the rows of all batches of its step."""
        end = min(len(self.order), self.cut_short())
        batches = ((n, rows) for n, rows in enumerate(self.order.batches(epoch)) if n < end)
        while step := list(islice(batches, self.accumulate)):
            window = np.concatenate([rows for _, rows in step]) if len(step) > 1 else step[0][1]
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
        resident: called at the start of an iteration that needs images; returns them on the device,
            or None.
        feed: brings the batches to the device.
    """

    images: Images
    batch_size: int
    rank: int = 0
    world: int = 1
    rows: np.ndarray | None = None
    stored: Callable[[], Stored | None] = lambda: None
    resident: Callable[[], Tensor | None] = lambda: None
    feed: Feed = field(default_factory=Feed)

    def __post_init__(self) -> None:
        rows = np.arange(len(self.images)) if self.rows is None else self.rows
        self.rows = rows[self.rank :: self.world]

    def __len__(self) -> int:
        return -(-len(self.rows) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        stored = self.stored()
        source = Input(self.images, stored, None if stored else self.resident())
        batches: Iterator[tuple[int, Gather]] = (
            (start, partial(source.gather, self.rows[start : start + self.batch_size]))
            for start in range(0, len(self.rows), self.batch_size)
        )
        for _, batch in self.feed.run(batches, source.select, source.nbytes):
            yield batch
