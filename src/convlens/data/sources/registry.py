"""The sources of images, by ``data.name``."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from convlens.config.schema import DataConfig, OwnDataConfig
from convlens.core.errors import UserError, nearest
from convlens.data.pixels.decode import make_recipe
from convlens.data.sources import (
    coco,
    drawn,
    folder,
    huggingface,
    packed,
    pets,
    webdataset,
    yolo,
)
from convlens.data.sources.archives import FLOWERS, PETS
from convlens.data.sources.file_index import index_files
from convlens.data.sources.image_files import ImageFiles
from convlens.data.sources.places import find_data_dir
from convlens.data.sources.pool import Pool, pool_files, pool_store
from convlens.data.sources.source import Download, Index

NONE = np.zeros(0, np.int64)
# sources of image files
FILES = {
    "image_folder": folder.find_image_folder,
    "cats_dogs": folder.find_image_folder,
    "flowers": folder.find_image_folder,
    "pets": pets.find_pets,
    "coco": coco.find_coco,
    "yolo": yolo.find_yolo,
    "huggingface": huggingface.find_huggingface,
    "webdataset": webdataset.find_webdataset,
}
# sources of image files that are downloaded if their folder does not exist
ARCHIVES = {"flowers": FLOWERS, "pets": PETS}
# sources of drawn or packed images
STORES = {
    "shapes": drawn.index_shapes,
    "mnist": packed.index_packed,
    "cifar10": packed.index_packed,
}
SOURCES = (*STORES, *FILES)
# keys that a source requires
NEEDS = {
    **dict.fromkeys(("image_folder", "cats_dogs", "flowers"), ("pattern", "csv", "on_error")),
    "pets": ("labels", "on_error"),
    **dict.fromkeys(("coco", "yolo"), ("annotations", "categories", "on_error")),
    "huggingface": ("hub", "subset", "image_column", "label_column", "on_error"),
    "webdataset": ("label_member", "class_names", "on_error"),
    "shapes": ("pictures", "classes", "shortcut"),
}


def build_index(spec: DataConfig, seed: int, before: np.ndarray = NONE) -> Index:
    """Read the source that the config group ``data`` describes; decode nothing.

    Args:
        spec: the config group ``data``.
        seed: decides the split if the source has none, and what ``shapes`` draws.
        before: digests of images used by an earlier run, which must not become test images. Stores
            of drawn or packed images ignore it: their test images are the same in every run.

    Raises:
        UserError: the data or its keys have a problem that the user can fix.
    """
    _check(spec)
    if _get_store(spec):
        return _get_store(spec)(spec, seed)
    return index_files(spec, seed, _find_files(spec, for_test=False), before)


def _find_files(spec: DataConfig, for_test: bool) -> ImageFiles:
    if spec.name in ARCHIVES:
        ARCHIVES[spec.name].download(find_data_dir(spec))
    return FILES[spec.name](spec, for_test)


def _get_store(spec: DataConfig) -> Callable[[DataConfig, int], Index] | None:
    """Return the function that indexes drawn or packed images, or None for image files."""
    return packed.index_user_set if isinstance(spec, OwnDataConfig) else STORES.get(spec.name)


def _check(spec: DataConfig) -> None:
    """Raise UserError if the group names no source, lacks its keys, or has unknown values."""
    if not isinstance(spec, OwnDataConfig):
        if spec.name == "own":
            raise UserError("data=own: set data._target_=MODULE.CLASS to the class that reads it")
        if spec.name not in SOURCES:
            raise UserError(f"data.name={spec.name}: {nearest(spec.name, SOURCES)}")
        if not spec.key_names.issuperset(NEEDS.get(spec.name, ())):
            raise UserError(
                f"data.name={spec.name}: set data={spec.name} instead, which has the keys it needs"
            )
    make_recipe(spec)
    if spec.split.folds is not None and _get_store(spec):
        raise UserError(
            f"data.split.folds={spec.split.folds}: data={spec.name} cannot be divided into folds; "
            f"use image files"
        )
    if spec.corrections and _get_store(spec):
        raise UserError(
            f"data.corrections: images of data={spec.name} are not files; use image files"
        )
    if spec.threshold_samples and _get_store(spec):
        raise UserError(
            f"data.threshold_samples: images of data={spec.name} are not files; use image files"
        )
    for key, known in (("cache", ("auto", "device", "disk", "ram")), ("labels", PETS.class_names)):
        value = getattr(spec, key)
        if value is not None and value not in known:
            raise UserError(f"data.{key}={value}: {nearest(value, known)}")


def build_pool(spec: DataConfig, seed: int) -> Pool:
    """Return all labelled images of the source; unlike an index, it needs no training images.

    Args:
        spec: the config group ``data``; ``data.split`` is ignored, ``data.corrections`` only if
            ``corrections_of`` does not name the test images.
        seed: as for ``build_index``.

    Raises:
        UserError: the data or its keys have a problem that the user can fix.
    """
    _check(spec)
    if _get_store(spec):
        return pool_store(spec, _get_store(spec)(spec, seed))
    return pool_files(spec, _find_files(spec, for_test=True))


def find_pending_download(spec: DataConfig) -> Download | None:
    """Return what a run with ``spec`` would download, or None; nothing is changed."""
    _check(spec)
    if isinstance(spec, OwnDataConfig):
        return None
    if spec.name in ARCHIVES:
        return ARCHIVES[spec.name].find_pending(find_data_dir(spec), spec.labels)
    return packed.find_pending(spec) if spec.name in packed.SETS else None
