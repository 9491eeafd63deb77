"""Image files as a source finds them, and what decoding makes of them.

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
from convlens.data.pixels import load
from convlens.data.pixels.dataset import Images
from convlens.data.pixels.decode import make_recipe
from convlens.data.pixels.load import Pixels
from convlens.data.sources.places import resolve_cache


@dataclass(frozen=True)
class FoundFiles:
    """Image files, before it is decided which of them are used for what.

    listing     N files; ``splits`` only where the layout has them
    kind        of the mask files; None: this source has none
    mask_files  N files, None for an image without a mask
    notes       lines that the person should read
    decoded     by split, what was decoded already to find out which files are broken
    places      (N,) where each image stands in the decoded ones of its split
    skipped     (file, reason) of the broken ones, which are not among the N
    """

    listing: Listing
    kind: MaskKind | None = None
    mask_files: Sequence[Path | None] = ()
    notes: Sequence[str] = ()
    decoded: Mapping[str, Pixels] | None = None
    places: np.ndarray | None = None
    skipped: Sequence[tuple[Path, str]] = ()

    @property
    def masked(self) -> np.ndarray:
        """(N,) bool, which images have a mask."""
        return np.array([file is not None for file in self.mask_files])

    def some(self, keep: np.ndarray) -> FoundFiles:
        """Only the rows ``keep``, rising."""
        old = self.listing
        splits = None if old.splits is None else old.splits[keep]
        return replace(
            self,
            listing=replace(old, files=old.files[keep], labels=old.labels[keep], splits=splits),
            mask_files=[self.mask_files[row] for row in keep] if self.kind else (),
            places=None if self.places is None else self.places[keep],
        )


@dataclass(frozen=True)
class Decoded:
    """Some rows of image files, decoded; ``kept`` are those of them that are good."""

    pictures: Images
    kept: np.ndarray
    skipped: Sequence[tuple[Path, str]]
    notes: Sequence[str]
    signatures: np.ndarray


def decode_rows(
    spec: DataConfig, found: FoundFiles, rows: np.ndarray, digests: np.ndarray
) -> Decoded:
    """Decode some rows; the digests of files that are read for it are put into ``digests``."""
    if found.decoded is None:
        decoded = decode_files(spec, found.listing.files[rows])
        kept, places, broken = rows[decoded.good], np.flatnonzero(decoded.good), decoded.errors
    else:
        decoded = found.decoded[str(found.listing.splits[rows[0]])]
        kept, places, broken = rows, found.places[rows], ()
    if decoded.digests is not None:
        digests[kept] = decoded.digests[places]
    files, labels = found.listing.files[kept], found.listing.labels[kept]
    masks = masked = None
    notes: Sequence[str] = ()
    if found.kind:
        read = read_masks(
            found.kind, files, [found.mask_files[row] for row in kept], size=spec.size,
            resize=spec.resize, cache_dir=resolve_cache(spec), on_error=spec.on_error,
        )  # fmt: skip
        masks, masked, notes = read.masks, read.masked, read.notes
    stored = None if len(places) == len(decoded.good) else places
    pictures = Images(
        decoded.images, labels, Texts(files), masks, stored, decoded.made_from, masked
    )
    return Decoded(pictures, kept, broken, notes, decoded.signatures[places])


def decode_files(spec: DataConfig, files: Files) -> Pixels:
    return load.decode_images(
        files, make_recipe(spec), cache_dir=resolve_cache(spec), on_error=spec.on_error
    )


def describe_skipped(skipped: Sequence[tuple[Path, str]]) -> list[str]:
    if not skipped:
        return []
    what = "image" if len(skipped) == 1 else "images"
    return [f"{len(skipped)} broken {what} skipped, the first: {skipped[0][0]} ({skipped[0][1]})"]
