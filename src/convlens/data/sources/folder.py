"""``data=image_folder`` and ``data=cats_dogs``: a person's own images, with masks if given."""

from __future__ import annotations

from convlens.config.schema import DataConfig
from convlens.data.index.listing import list_images
from convlens.data.masks.files import USER_MASKS
from convlens.data.masks.folder import SUFFIXES, MaskFolder, match_masks
from convlens.data.sources.image_files import FoundFiles
from convlens.data.sources.places import find_data_dir


def find_image_folder(spec: DataConfig, for_test: bool = False) -> FoundFiles:
    """The user's own images, in any layout that :mod:`convlens.data.index.listing` knows."""
    directory, companions = find_data_dir(spec), SUFFIXES if spec.masks else ()
    found = list_images(
        directory, pattern=spec.pattern, csv=spec.csv, for_test=for_test, companions=companions
    )
    if not spec.masks:  # runs of old have no such key
        return FoundFiles(found, notes=found.notes)
    labels = [found.class_names[label] for label in found.labels]
    files, notes = match_masks(MaskFolder(spec.masks, directory), found.files, labels)
    return FoundFiles(found, USER_MASKS, files, [*found.notes, *notes])
