"""Find what the words of a command name: a checkpoint or image files."""

from __future__ import annotations

from collections.abc import Iterator
from os import PathLike
from pathlib import Path

from convlens.core.errors import UserError
from convlens.data.index.folders import Walk
from convlens.data.index.names import find_on_disk
from convlens.rundir.runs import find_newest_run

# a small trained network and images of `shapes`
EXAMPLE = Path(__file__).parents[1] / "example"
EXAMPLE_NAME = "example"  # the value of ckpt= that names it


def name_source(path: str | PathLike[str]) -> str:
    """Return the path of an image as it was given; for the package's own, from the package on.

    >>> name_source(EXAMPLE / "pictures" / "ring.png")
    'example/pictures/ring.png'
    """
    file = Path(path)
    return file.relative_to(EXAMPLE.parent).as_posix() if EXAMPLE in file.parents else str(path)


def find_checkpoint(name: str | None, home: str | None = None) -> Path:
    """Return the checkpoint that ``ckpt=`` or ``run=`` names; for a run, its best one.

    Args:
        name: value of ``ckpt=``: a file, ``last`` for the best checkpoint of the newest run that
            has one, ``example`` for the network in the package; None if ``run=`` is given.
        home: value of ``run=``: a run folder, or ``last``.
    """
    if name == EXAMPLE_NAME:
        return EXAMPLE / "shapes.ckpt"
    if name not in (None, "last"):
        return Path(name).expanduser()
    best = Path("checkpoints", "best.ckpt")
    is_newest = name == "last" or home == "last"
    return (find_newest_run(str(best)) if is_newest else Path(home).expanduser()) / best


def start_walk(path: str) -> Walk:
    """Return a walk from a file or folder; other Unicode forms of its name are found too."""
    return Walk(find_on_disk(Path(path).expanduser()))


def find_image_files(walk: Walk) -> Iterator[Path]:
    """Yield the root of ``walk`` if it is a file, otherwise the image files in it, sorted.

    The same kinds of files count as images as in a data set; ``walk`` counts all others.

    Raises:
        UserError: there are no images.
    """
    path = walk.root
    if path.is_file():
        yield path
        return
    if not path.is_dir():
        raise UserError(f"there is no file or folder {path}: give the path of an image")
    files = walk.find_images(path)
    if first := next(files, None):
        yield first
        yield from files
    else:
        only = f", only {walk.describe_unused()}" if walk.unused else ""
        raise UserError(f"no images in {path}{only}: expected JPEG or PNG files")


def is_exported(path: Path) -> bool:
    """Return whether a path names a file of ``convlens export format=onnx``, not a checkpoint."""
    return path.suffix.lower() == ".onnx"


def find_run_folder(checkpoint: Path) -> Path | None:
    """Return the run folder that contains a checkpoint, or None if it is not in one."""
    return checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else None
