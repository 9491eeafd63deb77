"""The user's masks for their own images: which file belongs to which image.

A folder (``data.masks``) contains, for some or all of the images, one of these:

    cats/cat.1.png            non-zero is the object; same size as the image
    cats/cat.1.xml            Pascal VOC boxes: together they are the object

The layout follows the images, with or without their folders (``train/cats/cat.1.png``,
``train/cat.1.png``, ``cat.1.png``), or below ``annotations/``. The longest matching path wins, and
a PNG wins over an XML of the same name.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from convlens.core.errors import UserError, nearest
from convlens.data.index.folders import is_left_by_tools
from convlens.data.index.labels import SPLITS, parse_split
from convlens.data.index.names import find_on_disk, normalise_name

SUFFIXES = (".png", ".xml")


class MaskFolder:
    """The mask files below a folder, found by the names of images.

    Args:
        folder: ``data.masks``; hidden files and folders are skipped, links are followed.
        images: ``data.dir``. If it is in ``folder`` or is ``folder``, PNG files in it are images,
            and only XML files are masks.

    Attributes:
        folder: ``data.masks``.
        has_images: whether the images are in this folder too.

    Raises:
        UserError: the folder does not exist or contains no mask file.
    """

    def __init__(self, folder: str | os.PathLike, images: str | os.PathLike):
        self.folder = find_on_disk(Path(folder).expanduser())
        self._images = Path(images).expanduser()
        if not self.folder.is_dir():
            names = [path.name for path in self.folder.parent.glob("*") if path.is_dir()]
            raise UserError(
                f"no folder {self.folder}: set data.masks to the folder of the masks; in "
                f"{self.folder.parent} {nearest(self.folder.name, names)}"
            )
        here, there = self.folder.resolve(), self._images.resolve()
        self.has_images = there.is_relative_to(here)
        self._by_key: dict[tuple[str, ...], dict[str, list[Path]]] = {}
        for parts, file in _walk_files(self.folder):
            suffix = file.suffix.lower()
            is_inside = self.has_images and (here / Path(*parts)).is_relative_to(there)
            if is_inside and suffix == ".png":
                continue
            self._by_key.setdefault(_make_key(parts), {}).setdefault(suffix, []).append(file)
        if not self._by_key:
            more = " beside its images" if self.has_images else ""
            raise UserError(
                f"no masks in data.masks={self.folder}: expected .png or .xml files (Pascal VOC)"
                f"{more}, named like the images"
            )

    def files(self) -> list[Path]:
        """Return every mask file, sorted by path."""
        files = (f for kinds in self._by_key.values() for files in kinds.values() for f in files)
        return sorted(files, key=os.fsencode)

    def find(self, image: Path, label: str | None = None) -> Path | None:
        """Return the mask file of an image, or None.

        Args:
            image: the image file.
            label: its class, if its folder has another name.

        Raises:
            UserError: two files match.
        """
        parts = _make_key(Path(os.path.abspath(image)).parts)
        keys = [parts[start:] for start in range(len(parts))]
        if label is not None:
            keys.insert(-1, _make_key((label, image.name)))
        if parts[-3:-2] and parts[-3] in SPLITS:  # flat in each split
            keys.insert(-1, (parts[-3], parts[-1]))
        for key in keys:
            kinds = self._by_key.get(key, {})
            for suffix in SUFFIXES:
                files = kinds.get(suffix, [])
                if len(files) > 1:
                    raise UserError(
                        f"{files[0]} and {files[1]} both match the image {image}: keep one"
                    )
                if files:
                    return files[0]
        return None


def match_masks(
    folder: MaskFolder, images: Sequence[Path], labels: Sequence[str]
) -> tuple[list[Path | None], list[str]]:
    """Return each image's mask file or None, and lines to report to the user.

    Args:
        folder: the masks.
        images: N image files.
        labels: the class of each image.

    Raises:
        UserError: a mask is among the images, no image has a mask, or two images share one.
    """
    root = folder.folder.resolve()
    if not folder.has_images:
        for image in images:
            if Path(os.path.abspath(image)).is_relative_to(root):
                raise UserError(
                    f"data.masks={folder.folder} is among the images, so {image} counts as an "
                    "image: move that folder out of data.dir"
                )
    owners: dict[Path, Path] = {}
    matches = []
    for image, label in zip(images, labels, strict=True):
        file = folder.find(image, label)
        if file is not None and owners.setdefault(file, image) != image:
            raise UserError(
                f"{file} matches both {owners[file]} and {image}: put masks into the same folders "
                "as the images"
            )
        matches.append(file)
    files = folder.files()
    if not owners:
        example = folder.folder / labels[0] / f"{images[0].stem}.png"
        raise UserError(
            f"no file in data.masks={folder.folder} is named like an image: for {images[0]} "
            f"expected {example} (or .xml, or no folder), but found {files[0]}"
        )
    unused = [file for file in files if file not in owners]
    if not unused:
        return matches, []
    what = "file belongs" if len(unused) == 1 else "files belong"
    line = f"{len(unused)} {what} to no image, the first: {unused[0]}"
    return matches, [line]


def _walk_files(folder: Path) -> Iterator[tuple[tuple[str, ...], Path]]:
    """Yield (names of folders and file below ``folder``, file) for every mask file."""
    seen = set()
    for path, folders, names in os.walk(folder, followlinks=True):
        info = os.stat(path)
        if (info.st_dev, info.st_ino) in seen:  # a link upwards, or a second link to this folder
            folders.clear()
            continue
        seen.add((info.st_dev, info.st_ino))
        hidden = [n for n in folders if n.startswith(".") or is_left_by_tools(n)]
        folders[:] = sorted(set(folders) - set(hidden), key=os.fsencode)
        for name in sorted(names, key=os.fsencode):
            file = Path(path, name)
            if not name.startswith(".") and file.suffix.lower() in SUFFIXES:
                yield file.relative_to(folder).parts, file


def _make_key(parts: Sequence[str]) -> tuple[str, ...]:
    """Return the names that an image and its mask have in common.

    Letters are composed (macOS decomposes them), each split has one word, and the suffix and the
    folder ``annotations`` are dropped.
    """
    *folders, name = (normalise_name(part) for part in parts)
    labels = [parse_split(f) or f for f in folders if f.lower() != "annotations"]
    return (*labels, Path(name).stem)
