"""``data=image_folder`` and ``data=cats_dogs``: the user's own images, optionally with masks."""

from __future__ import annotations

from convlens.config.schema import DataConfig
from convlens.data.index.listing import list_images
from convlens.data.index.twins import merge_twins
from convlens.data.masks.files import USER_MASKS
from convlens.data.masks.folder import SUFFIXES, MaskFolder, match_masks
from convlens.data.sources.image_files import ImageFiles
from convlens.data.sources.places import find_data_dir


def find_image_folder(spec: DataConfig, for_test: bool = False) -> ImageFiles:
    """Find the user's own images, in any layout of ``convlens.data.index.listing``.

    Args:
        spec: the config group ``data``.
        for_test: nothing will be trained on the images.
    """
    directory, companions = find_data_dir(spec), SUFFIXES if spec.masks else ()
    listing = list_images(
        directory, pattern=spec.pattern, csv=spec.csv, encoding=spec.encoding, for_test=for_test,
        companions=companions, several=bool(spec.multi_label),  # earlier runs lack this key
    )  # fmt: skip
    if spec.multi_label and spec.csv is None:
        listing = merge_twins(listing)
    if not spec.masks:  # earlier runs lack this key
        return ImageFiles(listing, notes=listing.notes)
    labels = [listing.class_names[label] for label in listing.labels]
    files, notes = match_masks(MaskFolder(spec.masks, directory), listing.files, labels)
    return ImageFiles(listing, USER_MASKS, files, [*listing.notes, *notes])
