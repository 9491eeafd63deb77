"""What every source returns: decoded images with labels and names, in three splits."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from convlens.data.index.files import Files, Texts

_CHUNK = 1024  # images read at a time


def copy_rows(array: np.ndarray, rows: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Return a copy of some rows, (len(rows), …), in ``out`` or in new memory."""
    if out is None:
        return np.ascontiguousarray(array[rows])
    if len(rows) and not 0 <= rows.min() <= rows.max() < len(array):
        raise IndexError(f"rows {rows.min()} to {rows.max()} of {len(array)}")
    return np.take(array, rows, axis=0, out=out, mode="clip")  # "raise" would copy twice


@dataclass(frozen=True)
class Images:
    """The decoded images of one split.

    Attributes:
        images: (N, H, W, C) uint8, in memory or memory-mapped; read it with ``pixels``.
        labels: (N,) int64, indices into the class names. If images may have several
            classes, one of those of the image, by which images are divided and sampled.
        names: N names by which a user finds the image: a path, or ``shapes/test/17``.
        masks: (N, H, W) bool, True on the object; None if the source has no masks.
        places: (N,) position of each image in ``images``, if that also has rows for files
            that could not be read. None: image n is at n.
        made_from: two digests, of the request and of the state of the files; None without files.
        masked: (N,) bool, whether an image has a mask. Without one its row of ``masks`` is all
            False, as it is for an image without an object: only this attribute tells them apart.
            By default True for all images if there are masks, else False for all.
        digests: (N,) int64, which identify images wherever they are: the digest of the file's
            bytes, or of the pixels if there is no file. None if they were not requested.
        sizes: (N, 2) uint16, width and height of each upright original in pixels; None without
            files.
        present: (N, K) bool, the classes of each image; None if each image has one class.
        objects: a function from the numbers of an image and a class to a mask, (H, W) bool, True on
            its objects of this class; None if it is not known which object is of which class.
        drawn: (N,) int64, the true classes, if some labels were made wrong on purpose; else None.
        marked: (N,) bool, the images with a planted shortcut; None if none was planted.
    """

    images: np.ndarray
    labels: np.ndarray
    names: Sequence[str]
    masks: np.ndarray | None = None
    places: np.ndarray | None = None
    made_from: tuple[str, str] | None = None
    masked: np.ndarray | None = None
    digests: np.ndarray | None = None
    sizes: np.ndarray | None = None
    present: np.ndarray | None = None
    objects: Callable[[int, int], np.ndarray] | None = None
    drawn: np.ndarray | None = None
    marked: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.masked is None:
            masked = np.full(len(self.labels), self.masks is not None)
            object.__setattr__(self, "masked", masked)  # frozen, but not yet in use

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def targets(self) -> np.ndarray:
        """What is to be predicted: ``labels``, or ``present`` if there are several classes."""
        return self.labels if self.present is None else self.present

    @property
    def files(self) -> Files | None:
        """The N files of the images; None if they do not come from files of their own."""
        return self.names.files if isinstance(self.names, Texts) else None

    @property
    def identity(self) -> tuple[str, str]:
        """Two digests; if both are equal, the pixels and their order are equal.

        The first covers the request (files, size, resizing), the second also the state of the files
        (size, time). Images without files are identified by their content.
        """
        if self.made_from is None:
            content = hashlib.blake2b(digest_size=16)
            for start in range(0, len(self), _CHUNK):
                content.update(self.pixels(np.arange(start, min(start + _CHUNK, len(self)))))
            mark = f"{self.images.shape[1:]}-{content.hexdigest()}"
            return mark, mark
        if self.places is None:
            return self.made_from
        order = hashlib.blake2b(np.ascontiguousarray(self.places), digest_size=16).hexdigest()
        return self.made_from[0], f"{self.made_from[1]}-{order}"

    @property
    def row_bytes(self) -> int:
        """Bytes of one image."""
        return math.prod(self.images.shape[1:])

    def pixels(self, rows: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Return the images of some rows, (len(rows), H, W, C) uint8, as a copy.

        Args:
            rows: positions in the split.
            out: where to copy them; None for new memory.
        """
        places = rows if self.places is None else self.places[rows]
        return copy_rows(self.images, places, out)


@dataclass(frozen=True)
class Conflict:
    """Two images that look the same and have different labels: one of both is wrong.

    Attributes:
        first: split and position in it.
        second: the same of the other image.
        same_bytes: whether the files are equal; otherwise the size, compression or format differs.
    """

    first: tuple[str, int]
    second: tuple[str, int]
    same_bytes: bool


@dataclass(frozen=True)
class Dataset:
    """A source's three splits.

    Attributes:
        splits: ``train``, ``validation`` and ``test``.
        class_names: K names; the label is the index.
        notes: lines to report to the user, such as duplicates across splits and skipped images.
        skipped: (file, reason) of files that could not be decoded.
        conflicts: images that look the same and have different labels, if images are files with
            one class each.
    """

    splits: dict[str, Images]
    class_names: tuple[str, ...]
    notes: list[str] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    conflicts: list[Conflict] = field(default_factory=list)
