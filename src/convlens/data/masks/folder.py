"""Masks beside a person's own images: which file belongs to which image.

A folder (``data.masks``) holds, for some of the images or for all::

    cats/cat.1.png            non-zero is the object; same size as the image
    cats/cat.1.xml            or boxes, Pascal VOC: all of them together are the object

laid out as the images are, with or without their folders (``train/cats/cat.1.png``,
``train/cat.1.png``, ``cat.1.png``), or below ``annotations/``. The longest path that fits counts,
and a PNG before an XML of the same name.
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
        folder: ``data.masks``; hidden files and folders are left out, links are followed.
        images: ``data.dir``. Where ``folder`` is that or holds it, PNG files in there are
            images, and only XML files are masks.

    Raises:
        UserError: no such folder, or no mask file in it.
    """

    def __init__(self, folder: str | os.PathLike, pictures: str | os.PathLike):
        self.folder = find_on_disk(Path(folder).expanduser())
        self._pictures = Path(pictures).expanduser()
        if not self.folder.is_dir():
            names = [path.name for path in self.folder.parent.glob("*") if path.is_dir()]
            raise UserError(
                f"no folder {self.folder}: set data.masks to where the masks lie; in "
                f"{self.folder.parent} {nearest(self.folder.name, names)}"
            )
        here, there = self.folder.resolve(), self._pictures.resolve()
        self.holds_pictures = there.is_relative_to(here)
        self._found: dict[tuple[str, ...], dict[str, list[Path]]] = {}
        for parts, file in _files(self.folder):
            suffix = file.suffix.lower()
            inside = self.holds_pictures and (here / Path(*parts)).is_relative_to(there)
            if inside and suffix == ".png":
                continue
            self._found.setdefault(_key(parts), {}).setdefault(suffix, []).append(file)
        if not self._found:
            more = " beside its images" if self.holds_pictures else ""
            raise UserError(
                f"no masks in data.masks={self.folder}: .png or .xml files (Pascal VOC) are "
                f"expected{more}, named like the images"
            )

    def files(self) -> list[Path]:
        """Every mask file, in the order of paths."""
        found = (f for kinds in self._found.values() for files in kinds.values() for f in files)
        return sorted(found, key=os.fsencode)

    def of(self, picture: Path, label: str | None = None) -> Path | None:
        """The mask file of an image, or None.

        label  its class, where its folder is not called so

        Raises UserError: two files that would do.
        """
        parts = _key(Path(os.path.abspath(picture)).parts)
        keys = [parts[start:] for start in range(len(parts))]
        if label is not None:
            keys.insert(-1, _key((label, picture.name)))
        if parts[-3:-2] and parts[-3] in SPLITS:  # flat in each split
            keys.insert(-1, (parts[-3], parts[-1]))
        for key in keys:
            kinds = self._found.get(key, {})
            for suffix in SUFFIXES:
                files = kinds.get(suffix, [])
                if len(files) > 1:
                    raise UserError(
                        f"both {files[0]} and {files[1]} would be the mask of {picture}: keep one"
                    )
                if files:
                    return files[0]
        return None


def match_masks(
    folder: MaskFolder, pictures: Sequence[Path], labels: Sequence[str]
) -> tuple[list[Path | None], list[str]]:
    """Each image's mask file or None, and lines a person should read.

    labels  the class of each image

    Raises UserError: masks among the images, no image with a mask, two images with one mask.
    """
    root = folder.folder.resolve()
    if not folder.holds_pictures:
        for picture in pictures:
            if Path(os.path.abspath(picture)).is_relative_to(root):
                raise UserError(
                    f"data.masks={folder.folder} lies among the images, and {picture} in it was "
                    "taken for one of them: move that folder out of data.dir"
                )
    owners: dict[Path, Path] = {}
    found = []
    for picture, label in zip(pictures, labels, strict=True):
        file = folder.of(picture, label)
        if file is not None and owners.setdefault(file, picture) != picture:
            raise UserError(
                f"{file} would be the mask of both {owners[file]} and {picture}: lay masks out in "
                "folders as the images are"
            )
        found.append(file)
    there = folder.files()
    if not owners:
        wanted = folder.folder / labels[0] / f"{pictures[0].stem}.png"
        raise UserError(
            f"no file in data.masks={folder.folder} is named like an image: for {pictures[0]} it "
            f"would be {wanted} (or .xml), or without the folder; there is {there[0]}"
        )
    lost = [file for file in there if file not in owners]
    if not lost:
        return found, []
    what = "file belongs" if len(lost) == 1 else "files belong"
    return found, [f"{len(lost)} {what} to no image in {folder.folder}, the first: {lost[0]}"]


def _files(folder: Path) -> Iterator[tuple[tuple[str, ...], Path]]:
    """(names of folders and file below ``folder``, file) of every mask file."""
    seen = set()
    for path, folders, names in os.walk(folder, followlinks=True):
        info = os.stat(path)
        if (info.st_dev, info.st_ino) in seen:  # a link to a folder above, or a second way here
            folders.clear()
            continue
        seen.add((info.st_dev, info.st_ino))
        hidden = [n for n in folders if n.startswith(".") or is_left_by_tools(n)]
        folders[:] = sorted(set(folders) - set(hidden), key=os.fsencode)
        for name in sorted(names, key=os.fsencode):
            file = Path(path, name)
            if not name.startswith(".") and file.suffix.lower() in SUFFIXES:
                yield file.relative_to(folder).parts, file


def _key(parts: Sequence[str]) -> tuple[str, ...]:
    """Names as images and masks have them in common.

    Composed letters (macOS takes them apart), one word for each split, no suffix, and no folder
    ``annotations``.
    """
    *folders, name = (normalise_name(part) for part in parts)
    kept = [parse_split(f) or f for f in folders if f.lower() != "annotations"]
    return (*kept, Path(name).stem)
