"""Whether the images of a resumed run are those it began with: ``pictures.csv`` of its folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

import numpy as np

from convlens.core.errors import UserError
from convlens.core.files import open_atomic
from convlens.data.index.digests import UNREAD
from convlens.data.index.files import size_and_time
from convlens.data.index.labels import SPLITS
from convlens.data.index.listing import Listing
from convlens.data.index.names import is_same_name
from convlens.data.index.tables import format_csv_line, read_table
from convlens.data.pixels.dataset import Dataset

# keys that may be set anew on resume, for the same images lie elsewhere by now
PLACES = ("data.dir", "data.csv", "data.masks")
COLUMNS = ("file", "bytes", "modified_ns", "digest")


def collect_digests(listing: Listing, dataset: Dataset) -> np.ndarray:
    """(N,) int64 digests of the listed files, as they were decoded."""
    found = np.full(len(listing), UNREAD, np.int64)
    for split in SPLITS:
        found[listing.splits == split] = dataset.splits[split].digests
    return found


def write_state(path: Path, listing: Listing, digests: np.ndarray) -> None:
    """Note size, time and content of every image file; whole or not at all.

    A size and time of -1 stand for a file that is gone.

    Args:
        digests: (N,) as :func:`collect_digests` gives them.

    Raises:
        OSError: it cannot be written.
    """
    with open_atomic(path, errors="surrogateescape", newline="") as file:
        file.write(format_csv_line(COLUMNS))
        for (name, _, state), digest in zip(_states(listing), digests.tolist(), strict=True):
            file.write(format_csv_line((name, *map(str, state), _hexadecimal(digest))))


def check_state(path: Path, listing: Listing, digests: np.ndarray) -> str:
    """A line on images that may have changed, or nothing.

    To be asked once it is known that the images are those of the run (``read_split``). Runs of
    earlier versions noted sizes and times alone: there a file of the same size and another time
    may hold the same or not.

    Args:
        digests: (N,) as :func:`collect_digests` gives them now.

    Raises:
        UserError: an image has another size or content: the run would go on with other data than
            it began with; or the file is not what :func:`write_state` wrote.
    """
    rows = read_table(path, COLUMNS[:2], "the run's note of its images", strip=False)
    touched, first = 0, b""
    # row by row, in the order they were written: a million are never held
    for noted, found in zip_longest(rows, zip(_states(listing), digests.tolist(), strict=True)):
        if noted is None or found is None or not is_same_name(noted[1]["file"], found[0][0]):
            raise UserError(
                f"{path} does not name the images of this run in their order: it was changed; "
                f"remove it to go on without knowing whether the images are as they were"
            )
        (_, row), ((_, picture, (size, time)), digest) = noted, found
        content = row.get("digest")
        if row["bytes"] != str(size) or (content and content != _hexadecimal(digest)):
            what = f"{row['bytes']} bytes then, {size} now"
            raise UserError(
                f"{os.fsdecode(picture)} changed since the run began "
                f"({what if row['bytes'] != str(size) else 'its content differs'}): put it back "
                f"as it was, or start a new run"
            )
        if not content and row["modified_ns"] != str(time):
            touched, first = touched + 1, first or picture
    if not touched:
        return ""
    return (
        f"{touched} of {len(listing)} images were written again since the run began, such as "
        f"{os.fsdecode(first)}; their sizes are the same: if their content is not, this run's end "
        f"is not what it would have been"
    )


def _hexadecimal(digest: int) -> str:
    """Sixteen digits; none of a file that was not read."""
    return "" if digest == UNREAD else f"{digest & (2**64 - 1):016x}"


def _states(listing: Listing) -> Iterator[tuple[str, bytes, tuple[int, int]]]:
    """Of every image: its name in the listing, its path, its size and time."""
    for name, picture in zip(listing.files.names(), listing.files.located(), strict=True):
        yield name, picture, size_and_time(picture)
