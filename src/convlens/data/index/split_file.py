"""``split.csv``: a division into splits written down, and read back for the same images."""

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
    """Write ``file,label,split``, files relative to ``listing.directory``; whole or not at all."""
    path = Path(path)
    try:
        with open_atomic(path, sync=True, errors="surrogateescape", newline="") as file:
            file.write(format_csv_line(CSV_COLUMNS))
            classes = map(listing.class_names.__getitem__, listing.labels)
            for row in zip(listing.files.names(), classes, listing.splits, strict=True):
                file.write(format_csv_line(row))
    except OSError as error:
        raise UserError(f"cannot write the split file {path}: {error.strerror}") from None


def read_split(path: str | os.PathLike, listing: Listing) -> Listing:
    """The listing with the splits a file names (columns file, label, split).

    Raises UserError if the images or their labels are no longer those of the file: a run would
    otherwise go on with other data than it began with.
    """
    path = Path(path)
    splits = _in_order(_rows(path), listing)
    return replace(listing, splits=_by_name(path, listing) if splits is None else splits)


def _rows(path: Path) -> Iterator[dict[str, str]]:
    return (row for _, row in read_table(path, CSV_COLUMNS, "the split file", strip=False))


def _in_order(rows: Iterable[dict[str, str]], listing: Listing) -> np.ndarray | None:
    """The splits of a file that is as it was written: row by row, a million are never held.

    None where anything is not as expected: ``_by_name`` then finds out what.
    """
    assigned = np.empty(len(listing), dtype=f"<U{max(map(len, SPLITS))}")
    pictures = zip(listing.files.names(), listing.labels.tolist(), strict=True)
    for place, (row, picture) in enumerate(zip_longest(rows, pictures)):
        if row is None or picture is None or row["split"] not in SPLITS:
            return None
        file, label = picture[0], listing.class_names[picture[1]]
        if not (is_same_name(row["file"], file) and is_same_name(row["label"], label)):
            return None
        assigned[place] = row["split"]
    return assigned


def _by_name(path: Path, listing: Listing) -> np.ndarray:
    """The splits of a file in any order."""
    noted = {row["file"]: (normalise_name(row["label"]), row["split"]) for row in _rows(path)}
    names = list(listing.files.names())
    if noted.keys() != set(names):  # another file system may spell accents in another way
        spelt = {normalise_name(name): name for name in names}
        noted = {spelt.get(normalise_name(name), name): row for name, row in noted.items()}
    for missing, what in (
        (sorted(set(names) - set(noted)), "is new since"),
        (sorted(set(noted) - set(names)), "is gone, and was in"),
    ):
        if missing:
            raise UserError(
                f"the images in {listing.directory} changed: {missing[0]} {what} the split file "
                f"{path} ({len(missing)} such); put them back as they were, or start a new run"
            )
    for name, label in zip(names, listing.labels, strict=True):
        if noted[name][0] != listing.class_names[label]:
            raise UserError(
                f"{name} is {listing.class_names[label]!r} in {listing.directory} but "
                f"{noted[name][0]!r} in {path}: labels changed since the split was written"
            )
        if noted[name][1] not in SPLITS:
            raise UserError(
                f"split {noted[name][1]!r} of {name} in {path}: expected one of {', '.join(SPLITS)}"
            )
    return np.array([noted[name][1] for name in names])
