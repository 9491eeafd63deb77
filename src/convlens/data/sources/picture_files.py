"""Picture files as a source finds them, and what decoding makes of them.

Legend: N files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from convlens.config.schema import DataConfig
from convlens.data.index.files import Texts
from convlens.data.index.listing import Listing
from convlens.data.masks.files import Masks
from convlens.data.pixels import load
from convlens.data.pixels.load import Pixels
from convlens.data.pixels.pictures import Pictures
from convlens.data.sources.places import cache_dir


@dataclass(frozen=True)
class Found:
    """Picture files, before it is decided which of them are used for what.

    listing  N files; ``splits`` only where the layout has them
    read     gives the masks of some rows; None: this source has none
    masked   (N,) bool, which pictures have a mask
    notes    lines that the person should read
    decoded  by split, what was decoded already to find out which files are broken
    places   (N,) where each picture stands in the decoded ones of its split
    skipped  (file, reason) of the broken ones, which are not among the N
    """

    listing: Listing
    read: Callable[[np.ndarray], Masks] | None = None
    masked: np.ndarray | None = None
    notes: Sequence[str] = ()
    decoded: Mapping[str, Pixels] | None = None
    places: np.ndarray | None = None
    skipped: Sequence[tuple[Path, str]] = ()

    def some(self, keep: np.ndarray) -> Found:
        """Only the rows ``keep``, rising."""
        old, read = self.listing, self.read
        kept = replace(
            old, files=old.files[keep], labels=old.labels[keep],
            splits=None if old.splits is None else old.splits[keep],
        )  # fmt: skip
        return replace(
            self, listing=kept, read=read and (lambda rows: read(keep[rows])),
            masked=None if self.masked is None else self.masked[keep],
            places=None if self.places is None else self.places[keep],
        )  # fmt: skip


@dataclass(frozen=True)
class Decoded:
    """Some rows of picture files, decoded; ``kept`` are the places among them that are good."""

    pictures: Pictures
    kept: np.ndarray
    skipped: Sequence[tuple[Path, str]]
    notes: Sequence[str]
    looks: np.ndarray


def decode_rows(spec: DataConfig, found: Found, rows: np.ndarray, digests: np.ndarray) -> Decoded:
    """Decode some rows; the digests of files that are read for it are put into ``digests``."""
    files = found.listing.files[rows]
    if found.decoded is None:
        decoded = decode_files(spec, files)
        kept = places = np.flatnonzero(decoded.good)
    else:
        decoded = found.decoded[str(found.listing.splits[rows[0]])]
        kept, places = np.arange(len(rows)), found.places[rows]
    if decoded.digests is not None:
        digests[rows[kept]] = decoded.digests[places]
    if len(places) == len(decoded.good):
        places = None
    drawn = None if found.read is None else found.read(rows[kept])
    pictures = Pictures(
        decoded.images, found.listing.labels[rows][kept],
        Texts(files if len(kept) == len(rows) else files[kept]),
        drawn and drawn.masks, places, decoded.made_from, drawn and drawn.masked,
    )  # fmt: skip
    broken = decoded.errors if found.decoded is None else ()
    seen = decoded.looks if places is None else decoded.looks[places]
    return Decoded(pictures, kept, broken, drawn.notes if drawn else (), seen)


def decode_files(spec: DataConfig, files: Sequence[Path]) -> Pixels:
    return load.decoded(
        files, size=spec.size, resize=spec.resize, channels=spec.channels,
        interpolation=spec.interpolation, cache=spec.cache, cache_dir=cache_dir(),
        on_error=spec.on_error,
    )  # fmt: skip


def skipped_lines(skipped: Sequence[tuple[Path, str]]) -> list[str]:
    if not skipped:
        return []
    what = "picture" if len(skipped) == 1 else "pictures"
    return [f"{len(skipped)} broken {what} skipped, the first: {skipped[0][0]} ({skipped[0][1]})"]
