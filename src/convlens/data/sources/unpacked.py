"""Images inside other files (Arrow, Parquet, tar), written to a folder of the cache once.

From then on they are image files like any other: the same guards decode them, twins are found by
their bytes, and pages show them at their own proportions. The folder takes as much space as the
images in their files; ``data.cache`` does not concern it. It is complete or absent: a killed
process leaves a hidden folder that the next one clears. It is unpacked again if the files it came
from, or the sizes of the unpacked images, have changed.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from convlens.core.errors import UserError
from convlens.core.system import replace_folder
from convlens.data.index.files import Files, ListingBuilder, read_size_and_time
from convlens.data.index.kinds import HEAD, detect_kind
from convlens.data.index.labels import Keys
from convlens.data.index.listing import build_listing
from convlens.data.pixels.cache import fingerprint_files
from convlens.data.pixels.load import show_progress
from convlens.data.sources.archives import own_folder
from convlens.data.sources.image_files import ImageFiles
from convlens.data.sources.places import get_cache_dir

_VERSION = 1  # of the folder: raise it when its files or their names change
_RECORD = "images.json"
_NAME = 60  # most characters of an image's own name
_SUFFIXES = {"JPEG": ".jpg", "PNG": ".png", "GIF": ".gif", "WEBP": ".webp", "BMP": ".bmp",
             "TIFF": ".tif"}  # fmt: skip


@dataclass(frozen=True)
class PackedImage:
    """An image as its container holds it.

    Attributes:
        split: split of the image; None for all images if there are no splits.
        label: class of the image.
        name: by which the user finds it: its file name, key or number.
        content: the bytes of its file, or where the file is.
    """

    split: str | None
    label: str
    name: str
    content: bytes | Path


def unpack_images(
    sources: Sequence[Path],
    key: Sequence[object],
    read: Callable[[list[str], Callable[[int], None]], Iterator[PackedImage]],
    *,
    what: str,
    total: int,
) -> tuple[Path, list[list], list[str]]:
    """Unpack images, unless an earlier run has done so.

    Args:
        sources: the files that contain the images.
        key: everything else that decides which images there are, JSON-able.
        read: yields the images. Its arguments are a list, to which it appends lines to report to
            the user, and a function that advances the progress by a number of steps.
        what: what is unpacked, for the progress.
        total: number of steps.

    Returns:
        The folder; (split or None, class, file, size in bytes) of each image, where the file is
        relative to the folder or absolute; lines to report to the user.

    Raises:
        UserError: the folder cannot be written, or ``read`` raises it.
    """
    request, state = fingerprint_files(Files.of(sources), _VERSION, *key)
    folder = get_cache_dir() / f"unpacked-{request}"
    try:
        if record := _read_record(folder, state):
            return folder, *record
        with own_folder(folder.with_name(f".{folder.name}.new"), "unpacking") as temporary:
            if record := _read_record(folder, state):
                return folder, *record  # another process was faster
            content = temporary / "whole"
            content.mkdir()
            notes: list[str] = []
            with show_progress("unpacking", "unpacked", what, total, True) as advance:
                rows = list(_write_images(content, read(notes, advance)))
            text = json.dumps({"state": state, "rows": rows, "notes": notes})
            (content / _RECORD).write_text(text, encoding="utf-8")
            shutil.rmtree(folder, ignore_errors=True)
            replace_folder(content, folder)
    except OSError as error:
        raise UserError(
            f"cannot unpack images to {folder}: {error.strerror or error}; free space there, or "
            "set CONVLENS_CACHE to another folder"
        ) from None
    return folder, rows, notes


def _read_record(folder: Path, state: str) -> tuple[list[list], list[str]] | None:
    """Return rows and notes of a folder that is as it was written; else None."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        record = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
        if record["state"] != state:
            return None
        for _, _, name, size in record["rows"]:
            if size >= 0 and read_size_and_time(os.fspath(folder / name))[0] != size:
                return None
        return record["rows"], record["notes"]
    return None


def _write_images(folder: Path, images: Iterable[PackedImage]) -> Iterator[list]:
    """Write every image; yield (split, class, file, size) of each, size -1 for a file elsewhere."""
    for number, image in enumerate(images):
        if isinstance(image.content, Path):
            yield [image.split, image.label, os.path.abspath(image.content), -1]
            continue
        suffix = _SUFFIXES.get(detect_kind(image.content[:HEAD]), "")
        own = re.sub(r"[^\w.-]+", "_", Path(image.name).stem, flags=re.ASCII)[:_NAME]
        name = os.path.join(image.split or "", f"{number:07d}_{own}{suffix}")
        file = folder / name
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(image.content)
        yield [image.split, image.label, name, len(image.content)]


def list_unpacked(
    root: Path, folder: Path, rows: Sequence[Sequence], notes: Sequence[str], for_test: bool
) -> ImageFiles:
    """Return unpacked images as image files.

    Args:
        root: the data set; names are relative to it if none of its images had to be unpacked.
        folder: from ``unpack_images``.
        rows: from ``unpack_images``.
        notes: lines to report to the user.
        for_test: nothing will be trained on the images.

    Raises:
        UserError: there are none, or a class is missing from a split.
    """
    if not rows:
        raise UserError(f"no labelled images in {root}")
    if all(size < 0 for *_, size in rows):
        folder = Path(os.path.abspath(root))
    builder = ListingBuilder(folder)
    for split, label, name, _ in rows:
        path = Path(name)
        below = path.relative_to(folder) if path.is_relative_to(folder) else path
        builder.add(split, label, [str(below)])
    listing = build_listing(builder, notes, Keys(), for_test)
    return ImageFiles(listing, notes=listing.notes)
