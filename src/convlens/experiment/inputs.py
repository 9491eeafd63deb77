"""Which files a command is asked about."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from convlens.core.errors import UserError
from convlens.data.index.folders import Walk
from convlens.data.index.names import spelt_on_disk


def walk_from(given: str) -> Walk:
    """A walk from the file or folder that a person names, in letters composed or not."""
    return Walk(spelt_on_disk(Path(given).expanduser()))


def picture_files(walk: Walk) -> Iterator[Path]:
    """The picture files that a path, the root of ``walk``, names: itself, or those below it.

    Found as a data set's are: sorted, whatever their names; ``walk`` counts what was passed over.

    Raises:
        UserError: nothing is there.
    """
    path = walk.root
    if path.is_file():
        yield path
        return
    if not path.is_dir():
        raise UserError(f"there is no file or folder {path}: give the path of a picture")
    found = False
    for file in walk.pictures(path):
        found = True
        yield file
    if not found:
        only = f", only {walk.left_out()}" if walk.unused else ""
        raise UserError(f"no pictures in {path}{only}: JPEG or PNG files are expected")
