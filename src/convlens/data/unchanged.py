"""Whether the pictures of a resumed run are those it began with: ``pictures.csv`` of its folder."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

from convlens.data.files import size_and_time
from convlens.data.labels import csv_line, read_table
from convlens.data.listing import Listing
from convlens.errors import UserError

COLUMNS = ("file", "bytes", "modified_ns")


def write_state(path: Path, listing: Listing) -> None:
    """Note size and time of every picture file; whole or not at all. -1 for one that is gone.

    Raises:
        OSError: it cannot be written.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(beside, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            file.write(csv_line(COLUMNS))
            for name, _, state in _states(listing):
                file.write(csv_line((name, *map(str, state))))
        os.replace(beside, path)
    except OSError:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise


def check_state(path: Path, listing: Listing) -> str:
    """A line on pictures that have another time than noted, or nothing.

    To be asked once it is known that the pictures are those of the run (``read_split``).

    Raises:
        UserError: a picture has another size: the run would go on with other data than it began
            with; or the file is not what :func:`write_state` wrote.
    """
    rows, _ = read_table(path, COLUMNS, "the run's note of its pictures", strip=False)
    touched, first = 0, b""
    # row by row, in the order they were written: a million are never held
    for noted, found in zip_longest(rows, _states(listing)):
        if noted is None or found is None or noted[1]["file"] != found[0]:
            raise UserError(
                f"{path} does not name the pictures of this run in their order: it was changed; "
                f"remove it to go on without knowing whether the pictures are as they were"
            )
        (_, row), (_, picture, (size, time)) = noted, found
        if row["bytes"] != str(size):
            raise UserError(
                f"{os.fsdecode(picture)} changed since the run began ({row['bytes']} bytes then, "
                f"{size} now): put it back as it was, or start a new run"
            )
        if row["modified_ns"] != str(time):
            touched, first = touched + 1, first or picture
    if not touched:
        return ""
    return (
        f"{touched} of {len(listing)} pictures were written again since the run began, such as "
        f"{os.fsdecode(first)}; their sizes are the same: if their content is not, this run's end "
        f"is not what it would have been"
    )


def _states(listing: Listing) -> Iterator[tuple[str, bytes, tuple[int, int]]]:
    """Of every picture: its name in the listing, its path, its size and time."""
    for name, picture in zip(listing.files.names(), listing.files.located(), strict=True):
        yield name, picture, size_and_time(picture)
