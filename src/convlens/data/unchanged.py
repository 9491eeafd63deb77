"""Check that a resumed run has the images it began with: ``pictures.csv`` of its folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

import numpy as np

from convlens.core.errors import UserError
from convlens.core.files import open_atomic
from convlens.data.index.digests import UNREAD
from convlens.data.index.files import read_size_and_time
from convlens.data.index.labels import SPLITS
from convlens.data.index.listing import Listing
from convlens.data.index.names import is_same_name
from convlens.data.index.tables import format_csv_line, read_table
from convlens.data.pixels.dataset import Dataset

# keys that may change on resume: the same images may have moved
PLACES = ("data.dir", "data.csv", "data.masks", "data.annotations", "data.class_names")
COLUMNS = ("file", "bytes", "modified_ns", "digest")


def collect_digests(listing: Listing, dataset: Dataset) -> np.ndarray:
    """Return the (N,) int64 digests of the listed files, as they were decoded."""
    digests = np.full(len(listing), UNREAD, np.int64)
    for split in SPLITS:
        digests[listing.splits == split] = dataset.splits[split].digests
    return digests


def write_state(path: Path, listing: Listing, digests: np.ndarray) -> None:
    """Write size, time and content of every image file; the file is complete or absent.

    A size and time of -1 mark a file that no longer exists.

    Args:
        path: the file to write.
        listing: the run's images.
        digests: (N,) from ``collect_digests``.

    Raises:
        OSError: the file cannot be written.
    """
    with open_atomic(path, errors="surrogateescape", newline="") as file:
        file.write(format_csv_line(COLUMNS))
        for (name, _, state), digest in zip(_read_states(listing), digests.tolist(), strict=True):
            file.write(format_csv_line((name, *map(str, state), _to_hexadecimal(digest))))


def check_state(path: Path, listing: Listing, digests: np.ndarray) -> str:
    """Return a line about images that may have changed, or "".

    Call it once ``read_split`` has confirmed that the images are those of the run. Earlier versions
    recorded only sizes and times; then a file with the same size but another time may or may not
    have the same content.

    Args:
        path: the file that ``write_state`` wrote.
        listing: the run's images now.
        digests: (N,) from ``collect_digests`` now.

    Raises:
        UserError: an image has another size or content, so that the run would continue with
            different data; or the file is not what ``write_state`` wrote.
    """
    rows = read_table(path, COLUMNS[:2], "the run's record of its images", strip=False)
    touched, first = 0, b""
    # compare row by row in the order of writing, without holding all rows in memory
    states = zip(_read_states(listing), digests.tolist(), strict=True)
    for recorded, current in zip_longest(rows, states):
        if (
            recorded is None
            or current is None
            or not is_same_name(recorded[1]["file"], current[0][0])
        ):
            raise UserError(
                f"{path} does not list this run's images in order, so it was modified: remove it "
                f"to continue without this check"
            )
        (_, row), ((_, image, (size, time)), digest) = recorded, current
        content = row.get("digest")
        if row["bytes"] != str(size) or (content and content != _to_hexadecimal(digest)):
            what = f"{row['bytes']} bytes then, {size} now"
            raise UserError(
                f"{os.fsdecode(image)} changed since the run began "
                f"({what if row['bytes'] != str(size) else 'its content differs'}): restore it, "
                f"or start a new run"
            )
        if not content and row["modified_ns"] != str(time):
            touched, first = touched + 1, first or image
    if not touched:
        return ""
    return (
        f"{touched} of {len(listing)} images were written again since the run began, such as "
        f"{os.fsdecode(first)}: same size; if the content changed, results will differ"
    )


def _to_hexadecimal(digest: int) -> str:
    """Return sixteen digits; "" for a file that was not read."""
    return "" if digest == UNREAD else f"{digest & (2**64 - 1):016x}"


def _read_states(listing: Listing) -> Iterator[tuple[str, bytes, tuple[int, int]]]:
    """Yield each image's name in the listing, its path, its size and time."""
    for name, image in zip(listing.files.names(), listing.files.byte_paths(), strict=True):
        yield name, image, read_size_and_time(image)
