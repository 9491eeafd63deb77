"""Copy class folders into split folders, for ``make split``."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np

from convlens.core import system
from convlens.core.errors import UserError
from convlens.data.index.labels import SPLITS, Keys
from convlens.data.index.listing import Listing, list_images
from convlens.data.index.splits import Share, resolve_splits


def copy_split(
    src: str | os.PathLike,
    dst: str | os.PathLike,
    *,
    validation: Share,
    test: Share,
    seed: int,
    link: bool = False,
) -> tuple[dict[str, dict[str, int]], tuple[str, ...]]:
    """Copy class folders from ``src`` to ``dst/{train,validation,test}/class/…``.

    ``dst`` appears complete or not at all.

    Args:
        src: class folders.
        dst: the new folder.
        validation: size of the split, as for ``assign_splits``.
        test: size of the split, as for ``assign_splits``.
        seed: decides the split.
        link: make hard links instead of copies (within one file system; editing one edits both).

    Returns:
        The images per split and class, and lines to report to the user, such as what was left out.

    Raises:
        UserError: ``dst`` exists and is not empty, or is inside ``src`` (whose classes it would
            join); ``src`` is split already; the sizes are not possible.
    """
    source, target = Path(src).expanduser(), Path(dst).expanduser()
    if target.exists() and not (target.is_dir() and next(target.iterdir(), None) is None):
        raise UserError(f"{target} exists and will not be overwritten: choose another dst")
    if target.resolve().is_relative_to(source.resolve()):
        raise UserError(f"dst={target} is inside src={source}: choose a folder outside it")
    listing = list_images(source, keys=Keys("src", "pattern", "csv"))
    if listing.splits is not None:
        splits = " and ".join(listing.present_splits)
        raise UserError(f"{source} is split already, into {splits}: point src at class folders")
    listing = resolve_splits(listing, validation=validation, test=test, seed=seed)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        _copy_images(listing, temporary, link)
        system.replace_folder(temporary, target)  # also replaces an empty folder
    except OSError as error:
        way_out = "; links need one file system: leave out link" if link else ""
        raise UserError(
            f"cannot write {target}: {error.strerror or error}; nothing was left there{way_out}"
        ) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    counts = {}
    for name in SPLITS:
        labels = listing.labels[listing.splits == name]
        numbers = np.bincount(labels, minlength=len(listing.class_names)).tolist()
        counts[name] = dict(zip(listing.class_names, numbers, strict=True))
    return counts, listing.notes


def _copy_images(listing: Listing, folder: Path, link: bool) -> None:
    """Copy or link images to ``folder/split/class/…``, keeping sub-folders of the class."""
    folder.mkdir(parents=True)
    put = os.link if link else shutil.copy2
    for file, name, split in zip(listing.files, listing.files.names(), listing.splits, strict=True):
        place = folder / split / name
        place.parent.mkdir(parents=True, exist_ok=True)
        put(file, place)
