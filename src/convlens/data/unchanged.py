"""Whether the pictures of a resumed run are those it began with: ``pictures.csv`` of its folder."""

from __future__ import annotations

import contextlib
import csv
import os
from pathlib import Path

from convlens.data.labels import read_table
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
            rows = csv.writer(file, lineterminator="\n")
            rows.writerow(COLUMNS)
            for index, picture in enumerate(listing.files):
                rows.writerow((listing.name_of(index), *_state(picture)))
        os.replace(beside, path)
    except OSError:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise


def check_state(path: Path, listing: Listing) -> str:
    """A line on pictures that have another time than noted, or nothing.

    Raises:
        UserError: a picture has another size: the run would go on with other data than it began
            with.
    """
    rows, _ = read_table(path, COLUMNS, "the run's note of its pictures", strip=False)
    noted = {row["file"]: (int(row["bytes"]), int(row["modified_ns"])) for _, row in rows}
    touched = []
    for index, picture in enumerate(listing.files):
        name, (size, time) = listing.name_of(index), _state(picture)
        before = noted.get(name)
        if before is None:
            continue  # the split tells of new files
        if before[0] != size:
            raise UserError(
                f"{picture} changed since the run began ({before[0]} bytes then, {size} now): put "
                f"it back as it was, or start a new run"
            )
        if before[1] != time:
            touched.append(picture)
    if not touched:
        return ""
    return (
        f"{len(touched)} of {len(listing)} pictures were written again since the run began, such "
        f"as {touched[0]}; their sizes are the same: if their content is not, this run's end is "
        f"not what it would have been"
    )


def _state(picture: Path) -> tuple[int, int]:
    try:
        info = picture.stat()
    except OSError:
        return -1, -1
    return info.st_size, info.st_mtime_ns
