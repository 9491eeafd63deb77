"""Which sources of pictures there are, by the name that ``data.name`` gives them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from convlens.config.schema import DataConfig, OwnDataConfig
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


# keys that a source cannot do without
NEEDS = {
    **dict.fromkeys(("image_folder", "cats_dogs", "flowers"), ("pattern", "csv", "on_error")),
    "pets": ("labels", "on_error"),
    "shapes": ("pictures", "classes", "shortcut"),
}


def index(spec: DataConfig, seed: int, before: np.ndarray = NONE) -> Index:
    """Look at the source that the config group ``data`` describes.

    Args:
        spec: the group.
        seed: decides the split where the source has none, and what ``shapes`` draws.
        before: digests of images that an earlier run has used, which are not to be tested. The
            stores need none of it: their test images are the same for every run.

    Raises:
        UserError: one line for whatever a person can mend.
    """
    _check(spec)
    if _store(spec):
        return _store(spec)(spec, seed)
    return index_files(spec, seed, FILES[spec.name](spec), before)


def _store(spec: DataConfig) -> Callable[[DataConfig, int], Index] | None:
    """What gives the index of pictures that are no files, or None."""
    return packed.own_index if isinstance(spec, OwnDataConfig) else STORES.get(spec.name)


def _check(spec: DataConfig) -> None:
    """Refuse a group that names no source, lacks keys of its source, or has unknown values."""
    if not isinstance(spec, OwnDataConfig):
        if spec.name not in SOURCES:
            raise UserError(f"data.name={spec.name}: {nearest(spec.name, SOURCES)}")
        if not spec.given.issuperset(NEEDS.get(spec.name, ())):
            raise UserError(
                f"data.name={spec.name}: say data={spec.name}, which has the keys it needs"
            )
    for key, known in {
        "resize": ("squash", "crop", "pad"),
        "interpolation": ("bilinear", "nearest", "bicubic"),
        "cache": ("disk", "ram"),
    }.items():
        if getattr(spec, key) not in known:
            raise UserError(
                f"data.{key}={getattr(spec, key)}: {nearest(getattr(spec, key), known)}"
            )
    if spec.channels not in (1, 3):
        raise UserError(f"data.channels={spec.channels}: 1 (grey) or 3 (colour)")


def pool(spec: DataConfig, seed: int) -> Pool:
    """All that the source has with labels; unlike :func:`index` it needs no training pictures.

    Args:
        spec, seed: as of :func:`index`; ``data.split`` counts for nothing.

    Raises:
        UserError: one line for whatever a person can mend.
    """
    _check(spec)
    if _store(spec):
        return pool_of_store(spec, _store(spec)(spec, seed))
    return pool_of_files(spec, FILES[spec.name](spec, for_test=True))


def pending_download(spec: DataConfig) -> Download | None:
    """What a run with ``spec`` would download, or None: nothing is fetched or changed."""
    asked = None if isinstance(spec, OwnDataConfig) else PENDING.get(spec.name)
    return asked and asked(spec)
