"""What a person names for a command: a checkpoint, or image files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from convlens.core.errors import UserError
from convlens.data.index.folders import Walk
from convlens.data.index.names import find_on_disk
from convlens.rundir.runs import find_newest_run

# a small trained network and images of `shapes`
EXAMPLE = Path(__file__).parents[1] / "example"
EXAMPLE_NAME = "example"  # what ckpt= says for it


def find_checkpoint(asked: str | None, home: str | None = None) -> Path:
    """The checkpoint that ``ckpt=`` or ``run=`` names; for a run, its best.

    ``last`` is the newest run that has one, ``example`` the network that comes with the package.
    """
    if asked == EXAMPLE_NAME:
        return EXAMPLE / "shapes.ckpt"
    if asked not in (None, "last"):
        return Path(asked).expanduser()
    best = Path("checkpoints", "best.ckpt")
    newest = asked == "last" or home == "last"
    return (find_newest_run(str(best)) if newest else Path(home).expanduser()) / best


def start_walk(given: str) -> Walk:
    """A walk from the file or folder that a person names, in letters composed or not."""
    return Walk(find_on_disk(Path(given).expanduser()))


def find_image_files(walk: Walk) -> Iterator[Path]:
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
    files = walk.find_images(path)
    if first := next(files, None):
        yield first
        yield from files
    else:
        only = f", only {walk.describe_unused()}" if walk.unused else ""
        raise UserError(f"no pictures in {path}{only}: JPEG or PNG files are expected")
