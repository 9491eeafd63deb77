"""``data=image_folder`` and ``data=cats_dogs``: a person's own pictures, with masks if given."""

from __future__ import annotations

import numpy as np

from convlens.config.schema import DataConfig
from convlens.data.index import listing
from convlens.data.masks import files as masks
from convlens.data.masks.folder import SUFFIXES, MaskFolder, match
from convlens.data.sources.picture_files import Found
from convlens.data.sources.places import cache_dir, data_dir


def image_folder(spec: DataConfig, for_test: bool = False) -> Found:
    """The user's own pictures, in any layout that :mod:`convlens.data.index.listing` knows."""
    directory = data_dir(spec)
    companions = SUFFIXES if spec.masks else ()
    found = listing.list_pictures(
        directory,
        pattern=spec.pattern,
        csv=spec.csv,
        for_test=for_test,
        companions=companions,
    )
    if not spec.masks:  # runs of old have no such key
        return Found(found, notes=found.notes)
    labels = [found.class_names[label] for label in found.labels]
    folder = MaskFolder(spec.masks, directory)
    files, notes = match(folder, found.files, labels)

    def read(rows: np.ndarray) -> masks.Masks:
        return masks.read_masks(
            [found.files[row] for row in rows], [files[row] for row in rows], size=spec.size,
            resize=spec.resize, cache=spec.cache, cache_dir=cache_dir(),
            on_error=spec.on_error,
        )  # fmt: skip

    masked = np.array([f is not None for f in files])
    return Found(found, read, masked, [*found.notes, *notes])
