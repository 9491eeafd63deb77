"""What every source hands over: decoded pictures with labels and names, split in three."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Pictures:
    """The decoded pictures of one split.

    Attributes:
        images: (N, H, W, C) uint8, in memory or memory-mapped; read it by :meth:`pixels`.
        labels: (N,) int64, indices into the class names.
        names: N names that a person can find the picture by: a path, or ``shapes/test/17``.
        masks: (N, H, W) bool, True on the object, where the source knows it.
        places: (N,) where each picture stands in ``images``, which then holds more than N: those
            that could not be read. None: picture n stands at n.
    """

    images: np.ndarray
    labels: np.ndarray
    names: list[str]
    masks: np.ndarray | None = None
    places: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def pixels(self, rows: np.ndarray) -> np.ndarray:
        """The pictures of some rows, (len(rows), H, W, C) uint8, in memory of their own."""
        places = rows if self.places is None else self.places[rows]
        return np.ascontiguousarray(self.images[places])


@dataclass(frozen=True)
class Dataset:
    """A source's three splits.

    Attributes:
        splits: ``train``, ``validation`` and ``test``.
        class_names: K names; the label is the index.
        notes: lines that the person should read: duplicates across splits, skipped pictures.
    """

    splits: dict[str, Pictures]
    class_names: tuple[str, ...]
    notes: list[str] = field(default_factory=list)
