"""Which sources of pictures there are, by the name that ``data.name`` gives them."""

from __future__ import annotations

import numpy as np

from convlens.core.errors import UserError, nearest
from convlens.data.sources import drawn, flowers, folder, packed, pets
from convlens.data.sources.file_index import index_files
from convlens.data.sources.pool import Pool, pool_of_files, pool_of_store
from convlens.data.sources.source import Download, Index

NONE = np.zeros(0, np.int64)
# of picture files
FILES = {
    "image_folder": folder.image_folder,
    "cats_dogs": folder.image_folder,
    "flowers": flowers.flower_files,
    "pets": pets.pet_files,
}
# of pictures that are drawn, or lie in files of many
STORES = {
    "shapes": drawn.shapes_index,
    "mnist": packed.packed_index,
    "cifar10": packed.packed_index,
}
SOURCES = (*STORES, *FILES)
# what each would fetch
PENDING = {
    "flowers": flowers.pending,
    "pets": pets.pending,
    "mnist": packed.pending,
    "cifar10": packed.pending,
}


def index(spec: dict, seed: int, before: np.ndarray = NONE) -> Index:
    """Look at the source that the config group ``data`` describes.

    Args:
        spec: plain dictionary of ``data/*.yaml``.
        seed: decides the split where the source has none, and what ``shapes`` draws.
        before: digests of images that an earlier run has used, which are not to be tested. The
            stores need none of it: their test images are the same for every run.

    Raises:
        UserError: one line for whatever a person can mend.
    """
    _check(spec)
    if spec["name"] in STORES:
        return STORES[spec["name"]](spec, seed)
    return index_files(spec, seed, FILES[spec["name"]](spec), before)


def _check(spec: dict) -> None:
    """Refuse a spec that names no source, or keys out of range."""
    if spec["name"] not in SOURCES:
        raise UserError(f"data.name={spec['name']}: {nearest(str(spec['name']), SOURCES)}")
    for key, known in {
        "resize": ("squash", "crop", "pad"),
        "interpolation": ("bilinear", "nearest", "bicubic"),
        "cache": ("disk", "ram"),
    }.items():
        if spec[key] not in known:
            raise UserError(f"data.{key}={spec[key]}: {nearest(str(spec[key]), known)}")
    if spec["channels"] not in (1, 3):
        raise UserError(f"data.channels={spec['channels']}: 1 (grey) or 3 (colour)")
    if not isinstance(spec["size"], int) or spec["size"] < 8:
        raise UserError(f"data.size={spec['size']}: a number of pixels of at least 8 is expected")


def pool(spec: dict, seed: int) -> Pool:
    """All that the source has with labels; unlike :func:`index` it needs no training pictures.

    Args:
        spec, seed: as of :func:`index`; ``data.split`` counts for nothing.

    Raises:
        UserError: one line for whatever a person can mend.
    """
    _check(spec)
    if spec["name"] in STORES:
        return pool_of_store(spec, STORES[spec["name"]](spec, seed))
    return pool_of_files(spec, FILES[spec["name"]](spec, for_test=True))


def pending_download(spec: dict) -> Download | None:
    """What a run with ``spec`` would download, or None: nothing is fetched or changed."""
    asked = PENDING.get(spec["name"])
    return asked and asked(spec)
