"""``split.csv``: write the division into splits, and read it back for the same images."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path

import numpy as np

from convlens.core.errors import UserError
from convlens.core.files import open_atomic
from convlens.data.index.labels import SPLITS
from convlens.data.index.listing import Listing
from convlens.data.index.names import is_same_name, normalise_name
from convlens.data.index.tables import CSV_COLUMNS, format_csv_line, read_table


def write_split(path: str | os.PathLike, listing: Listing) -> None:
    """Write ``file,label,split``, files relative to ``listing.directory``; complete or not at all.

    Raises:
        UserError: the file cannot be written.
    """
    path = Path(path)
    try:
        with open_atomic(path, sync=True, errors="surrogateescape", newline="") as file:
            file.write(format_csv_line(CSV_COLUMNS))
            classes = map(listing.describe_label, range(len(listing)))
            for row in zip(listing.files.names(), classes, listing.splits, strict=True):
                file.write(format_csv_line(row))
    except OSError as error:
        raise UserError(f"cannot write the split file {path}: {error.strerror}") from None


def read_split(path: str | os.PathLike, listing: Listing) -> Listing:
    """Return the listing with the splits from a file (columns file, label, split).

    Raises:
        UserError: the images or their labels are not those of the file, so that a run would
            continue with different data.
    """
    path = Path(path)
    splits = _match_in_order(_read_rows(path), listing)
    return replace(listing, splits=_match_by_name(path, listing) if splits is None else splits)


def _read_rows(path: Path) -> Iterator[dict[str, str]]:
    return (row for _, row in read_table(path, CSV_COLUMNS, "the split file", strip=False))


def _match_in_order(rows: Iterable[dict[str, str]], listing: Listing) -> np.ndarray | None:
    """Return the splits from a file in the order it was written, one row in memory at a time.

    If anything is not as expected, return None; ``_match_by_name`` then reports it.
    """
    assigned = np.empty(len(listing), dtype=f"<U{max(map(len, SPLITS))}")
    images = zip(
        listing.files.names(), map(listing.describe_label, range(len(listing))), strict=True
    )
    for place, (row, image) in enumerate(zip_longest(rows, images)):
        if row is None or image is None or row["split"] not in SPLITS:
            return None
        file, label = image
        if not (is_same_name(row["file"], file) and is_same_name(row["label"], label)):
            return None
        assigned[place] = row["split"]
    return assigned


def _match_by_name(path: Path, listing: Listing) -> np.ndarray:
    """Return the splits from a file in any order."""
    saved = {row["file"]: (normalise_name(row["label"]), row["split"]) for row in _read_rows(path)}
    names = list(listing.files.names())
    if saved.keys() != set(names):  # another file system may spell accents differently
        composed = {normalise_name(name): name for name in names}
        saved = {composed.get(normalise_name(name), name): row for name, row in saved.items()}
    for missing, what in (
        (sorted(set(names) - set(saved)), "is new since"),
        (sorted(set(saved) - set(names)), "is gone, but is in"),
    ):
        if missing:
            raise UserError(
                f"the images in {listing.directory} changed: {missing[0]} {what} the split file "
                f"{path} ({len(missing)} such files); restore the images, or start a new run"
            )
    for name, label in zip(names, map(listing.describe_label, range(len(names))), strict=True):
        if saved[name][0] != label:
            raise UserError(
                f"{name} is {label!r} in {listing.directory} but "
                f"{saved[name][0]!r} in {path}: restore the labels, or start a new run"
            )
        if saved[name][1] not in SPLITS:
            raise UserError(
                f"split {saved[name][1]!r} of {name} in {path}: expected one of {', '.join(SPLITS)}"
            )
    return np.array([saved[name][1] for name in names])
