"""Image files as a source finds them, and their decoded form.

Legend: N files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from convlens.config.schema import DataConfig
from convlens.data.index.files import Files, Texts
from convlens.data.index.listing import Listing
from convlens.data.masks.load import MaskKind, read_masks
from convlens.data.masks.objects import Objects, draw_classes
from convlens.data.pixels import load
from convlens.data.pixels.dataset import Images
from convlens.data.pixels.decode import make_recipe
from convlens.data.pixels.load import Pixels
from convlens.data.sources.places import resolve_cache


@dataclass(frozen=True)
class ImageFiles:
    """Image files, before it is decided which are used, and in which split.

    Attributes:
        listing: N files; ``splits`` only if the layout has them.
        kind: the kind of mask files; None if this source has none.
        mask_files: N files, None for an image without a mask.
        notes: lines to report to the user.
        decoded: by split, what was already decoded to find broken files.
        places: (N,) position of each image in the decoded images of its split.
        skipped: (file, reason) of broken files, which are not among the N.
        objects: by image file, the objects of each class, if images may have several classes.
    """

    listing: Listing
    kind: MaskKind | None = None
    mask_files: Sequence[Path | None] = ()
    notes: Sequence[str] = ()
    decoded: Mapping[str, Pixels] | None = None
    places: np.ndarray | None = None
    skipped: Sequence[tuple[Path, str]] = ()
    objects: Mapping[Path, Objects] | None = None

    @property
    def masked(self) -> np.ndarray:
        """(N,) bool, which images have a mask."""
        return np.array([file is not None for file in self.mask_files])

    def select(self, keep: np.ndarray) -> ImageFiles:
        """Return only the rows ``keep``, in ascending order."""
        files, labels, splits = self.listing.files, self.listing.labels, self.listing.splits
        splits = None if splits is None else splits[keep]
        present = self.listing.present
        present = None if present is None else present[keep]
        return replace(
            self,
            listing=replace(
                self.listing, files=files[keep], labels=labels[keep], splits=splits, present=present
            ),
            mask_files=[self.mask_files[row] for row in keep] if self.kind else (),
            places=None if self.places is None else self.places[keep],
        )


@dataclass(frozen=True)
class Decoded:
    """Some rows of image files, decoded.

    Attributes:
        images: the images that could be decoded.
        rows: the rows of these images.
        skipped: (file, reason) of the others.
        notes: lines to report to the user.
        signatures: (n, 16), of the images (``convlens.data.pixels.lookalikes``).
    """

    images: Images
    rows: np.ndarray
    skipped: Sequence[tuple[Path, str]]
    notes: Sequence[str]
    signatures: np.ndarray


def decode_rows(
    spec: DataConfig, image_files: ImageFiles, rows: np.ndarray, digests: np.ndarray
) -> Decoded:
    """Decode some rows, and put the digests of files that are read into ``digests``.

    Args:
        spec: the config group ``data``.
        image_files: N files.
        rows: the rows to decode.
        digests: (N,) int64, changed in place.
    """
    listing, broken = image_files.listing, ()
    if image_files.decoded is None:
        decoded = decode_files(spec, listing.files[rows])
        rows, places, broken = rows[decoded.good], np.flatnonzero(decoded.good), decoded.errors
    else:
        decoded = image_files.decoded[str(listing.splits[rows[0]])]
        places = image_files.places[rows]
    if decoded.digests is not None:
        digests[rows] = decoded.digests[places]
    files, labels = listing.files[rows], listing.labels[rows]
    masks = masked = None
    notes: Sequence[str] = ()
    if image_files.kind:
        read = read_masks(
            image_files.kind, files, [image_files.mask_files[row] for row in rows], size=spec.size,
            resize=spec.resize, cache_dir=resolve_cache(spec), on_error=spec.on_error,
        )  # fmt: skip
        masks, masked, notes = read.masks, read.masked, read.notes
    objects = None
    if image_files.objects:
        objects = draw_classes(
            image_files.objects, files, listing.class_names, size=spec.size, resize=spec.resize
        )
    positions = None if len(places) == len(decoded.good) else places
    images = Images(
        decoded.images, labels, Texts(files), masks, positions, decoded.made_from, masked,
        sizes=decoded.sizes[places],
        present=None if listing.present is None else listing.present[rows], objects=objects,
    )  # fmt: skip
    return Decoded(images, rows, broken, notes, decoded.signatures[places])


def decode_files(spec: DataConfig, files: Files) -> Pixels:
    """Decode files as the config group ``data`` says."""
    return load.decode_images(
        files, make_recipe(spec), cache_dir=resolve_cache(spec), on_error=spec.on_error
    )


def describe_skipped(skipped: Sequence[tuple[Path, str]]) -> list[str]:
    """Return a line on skipped files, if any."""
    if not skipped:
        return []
    what = "image" if len(skipped) == 1 else "images"
    return [f"{len(skipped)} broken {what} skipped, the first: {skipped[0][0]} ({skipped[0][1]})"]
