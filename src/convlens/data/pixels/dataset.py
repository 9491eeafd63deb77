"""What every source hands over: decoded images with labels and names, split in three."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

_CHUNK = 1024  # images read at a time


@dataclass(frozen=True)
class Images:
    """The decoded images of one split.

    Attributes:
        images: (N, H, W, C) uint8, in memory or memory-mapped; read it by :meth:`pixels`.
        labels: (N,) int64, indices into the class names.
        names: N names that a person can find the image by: a path, or ``shapes/test/17``.
        masks: (N, H, W) bool, True on the object, where the source knows it; None: of no image.
        places: (N,) where each image stands in ``images``, which then holds more than N: those
            that could not be read. None: image n stands at n.
        made_from: what was asked for and the state of the files it came from, as two digests; None
            where there are no files.
        masked: (N,) bool, whether an image has a mask. Where it has none ``masks`` is False all
            over, as it is for an image without an object: only this tells them apart. Left out,
            it is True for all if there are masks, and False for all if not.
        digests: (N,) int64, by which each image is known wherever it lies: of its file's bytes,
            or of its numbers where there is no file. None: not asked for.
    """

    images: np.ndarray
    labels: np.ndarray
    names: Sequence[str]
    masks: np.ndarray | None = None
    places: np.ndarray | None = None
    made_from: tuple[str, str] | None = None
    masked: np.ndarray | None = None
    digests: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.masked is None:
            masked = np.full(len(self.labels), self.masks is not None)
            object.__setattr__(self, "masked", masked)  # frozen, but not yet handed out

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def identity(self) -> tuple[str, str]:
        """Two digests: equal ones mean equal pixels, in this order.

        The first tells what was asked for (files, size, way of resizing), the second also in which
        state the files were (size, time). Images without files are known by their content.
        """
        if self.made_from is None:
            content = hashlib.blake2b(digest_size=16)
            for start in range(0, len(self), _CHUNK):
                content.update(self.pixels(np.arange(start, min(start + _CHUNK, len(self)))))
            mark = f"{self.images.shape[1:]}-{content.hexdigest()}"
            return mark, mark
        if self.places is None:
            return self.made_from
        kept = hashlib.blake2b(np.ascontiguousarray(self.places), digest_size=16).hexdigest()
        return self.made_from[0], f"{self.made_from[1]}-{kept}"

    def pixels(self, rows: np.ndarray) -> np.ndarray:
        """The images of some rows, (len(rows), H, W, C) uint8, in memory of their own."""
        places = rows if self.places is None else self.places[rows]
        return np.ascontiguousarray(self.images[places])


@dataclass(frozen=True)
class Dataset:
    """A source's three splits.

    Attributes:
        splits: ``train``, ``validation`` and ``test``.
        class_names: K names; the label is the index.
        notes: lines that the person should read: duplicates across splits, skipped images.
        skipped: files that gave no image, each with the reason.
    """

    splits: dict[str, Images]
    class_names: tuple[str, ...]
    notes: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
