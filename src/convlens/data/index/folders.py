"""What a folder contains: images, other folders, and files that are not used.

A file with an image's extension counts as an image without being opened; decoding reports what is
wrong with it. For any other file, the first bytes decide. Files that systems and tools leave behind
are recognised by name.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from convlens.core.errors import UserError
from convlens.data.index.kinds import FOREIGN, FORMATS, WAY_OUT, detect_file_kind

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff")
# Lower case. Thumbnails, bins, indices and settings: never a class or an image of the user.
_TOOLS = frozenset((
    # Windows
    "thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "$recycle.bin", "recycler",
    "recycled", "system volume information", "folder.jpg:encryptable",
    # macOS
    "__macosx", ".ds_store", ".localized", ".appledouble", ".appledb", ".appledesktop", "icon\r",
    ".spotlight-v100", ".fseventsd", ".trashes", ".temporaryitems", ".documentrevisions-v100",
    ".volumeicon.icns", ".apdisk", "network trash folder", "temporary items",
    # Linux and its desktops
    "lost+found", ".directory", ".thumbnails", ".thumb", ".thumbs", ".nomedia", ".cache", ".hidden",
    # network storage: Synology, QNAP, TrueNAS, NetApp, Nextcloud, Dropbox
    "@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", "@tmp", "@sharebin",
    ".@__thumb", ".@upload_cache", ".streams", ".recycle", ".snapshot", ".snapshots", ".zfs",
    ".sync", ".stfolder", ".stversions", ".dropbox", ".dropbox.cache",
    # image managers
    ".picasa.ini", "picasa.ini", ".picasaoriginals", "zbthumbnail.info", ".comments", ".dtrash",
    # notebooks, Python, version control
    ".ipynb_checkpoints", "__pycache__", ".git", ".gitignore", ".gitattributes", ".gitkeep",
    ".keep", ".svn", ".hg", ".dvc", ".dvcignore", ".idea", ".vscode",
))  # fmt: skip
_TOOLS_BEGIN = ("._", ".trash", ".fuse_hidden", ".nfs0", ".syncthing.", ".~lock.")
_SHOWN = 3  # names that a message gives after a count


def is_left_by_tools(name: str) -> bool:
    """Return whether a file or folder, judging by its name, belongs to a system or a tool.

    >>> is_left_by_tools("@eaDir"), is_left_by_tools("._cat.jpg"), is_left_by_tools("cats")
    (True, True, False)
    """
    lower = name.lower()
    return lower in _TOOLS or lower.startswith(_TOOLS_BEGIN)


def join_names(names: Iterable[str]) -> str:
    """Join the first three names, with "…" if there are more.

    >>> join_names(["a", "b", "c", "d"])
    'a, b, c, …'
    """
    first = list(itertools.islice(names, _SHOWN + 1))
    return ", ".join(first[:_SHOWN]) + (", …" if len(first) > _SHOWN else "")


def count_noun(count: int, one: str, more: str) -> str:
    """Return a count with its noun, in the singular or plural.

    >>> count_noun(1, "file is", "files are"), count_noun(2, "file is", "files are")
    ('1 file is', '2 files are')
    """
    return f"{count} {one if count == 1 else more}"


@dataclass
class NameCount:
    """A number of files, and the names of the first few."""

    count: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, name: str) -> None:
        """Count one more file."""
        self.count += 1
        if len(self.first) <= _SHOWN:
            self.first.append(name)

    def __str__(self) -> str:
        return join_names(self.first)


class Content(NamedTuple):
    """What a folder contains directly, each list sorted bytewise.

    Attributes:
        folders: paths of sub-folders.
        images: names of images.
        by_content: names of the images that only their content identifies.
        unused: (kind, name) of everything else, except tools' files.
    """

    folders: list[Path]
    images: list[str]
    by_content: list[str]
    unused: list[tuple[str, str]]


class Walk:
    """Walks through the folders below ``root`` and counts what is not used.

    Args:
        root: the folder; names in messages are relative to it.
        companions: suffixes of files that belong to the images beside them, and are used.

    Attributes:
        root: the folder.
        unused: kind of file -> the files that ``iterate`` passed over.
        by_content: images from ``iterate`` that only their content identifies.
    """

    def __init__(self, root: Path, companions: tuple[str, ...] = ()):
        self.root, self._companions = root, companions
        self.unused: dict[str, NameCount] = {}
        self.by_content = NameCount()
        self._contents: dict[Path, Content] = {}

    def read_folder(self, folder: Path) -> tuple[list[Path], list[str]]:
        """Return the sub-folders and the names of images directly in ``folder``.

        The result is kept, so that no folder is read and no file opened twice; meant for the few
        folders that determine a layout.
        """
        content = self._contents[folder] = self._contents.get(folder) or _read_content(folder)
        return content.folders, content.images

    def iterate(
        self, folder: Path, above: frozenset = frozenset()
    ) -> Iterator[tuple[Path, list[str]]]:
        """Yield (folder, names of the images directly in it) for ``folder`` and all below it.

        Links are followed, except those back to a folder above.

        Args:
            folder: where to start.
            above: device and inode of the folders above it.
        """
        info = folder.stat()
        here = (info.st_dev, info.st_ino)
        if here in above:
            return
        content = self._contents.get(folder) or _read_content(folder)
        for kind, name in content.unused:
            if not name.lower().endswith(self._companions):
                self.unused.setdefault(kind, NameCount()).add(self._name(folder, name))
        for name in content.by_content:
            self.by_content.add(self._name(folder, name))
        yield folder, content.images
        for inner in content.folders:
            yield from self.iterate(inner, above | {here})

    def find_images(self, folder: Path) -> Iterator[Path]:
        """Yield every image below ``folder``."""
        return (inner / name for inner, names in self.iterate(folder) for name in names)

    def _name(self, folder: Path, name: str) -> str:
        return (folder / name).relative_to(self.root).as_posix()

    def describe_unused(self) -> str:
        """Return what was passed over, by kind, with counts and names; "" for nothing."""
        kinds = sorted(self.unused.items(), key=lambda pair: (-pair[1].count, pair[0]))
        return "; ".join(f"{names.count} {kind} ({names})" for kind, names in kinds)

    def notes(self, where: str) -> list[str]:
        """Return lines to report to the user about files ``where`` that are not used."""
        lines = []
        if self.unused:
            count = sum(names.count for names in self.unused.values())
            files = count_noun(count, f"file {where} is", f"files {where} are")
            advice = f"; {WAY_OUT} to use them" if set(self.unused) & set(FOREIGN) else ""
            lines.append(f"{files} not used: {self.describe_unused()}{advice}")
        if self.by_content.count:
            images = count_noun(self.by_content.count, "image is", "images are")
            lines.append(f"{images} recognised by content, not by name: {self.by_content}")
        return lines


def _read_content(folder: Path) -> Content:
    """Return what ``folder`` contains.

    A dangling link with an image's name counts as an image, so that decoding reports it.

    Raises:
        UserError: the folder cannot be read.
    """
    folders, images, by_content, unused = [], [], [], []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                name = entry.name
                is_named = name.lower().endswith(EXTENSIONS)
                if is_named and name[0] != "." and entry.is_file():
                    images.append(name)  # nearly all files
                elif is_left_by_tools(name):
                    continue
                elif name[0] == ".":
                    unused.append(("hidden", name))
                elif entry.is_dir():
                    folders.append(folder / name)
                elif not entry.is_file():
                    if os.path.exists(entry.path):
                        unused.append(("pipe or device", name))  # opening it would block
                    elif is_named:
                        images.append(name)
                    else:
                        unused.append(("link to nothing", name))
                elif (kind := detect_file_kind(entry.path)) in FORMATS:
                    images.append(name)
                    by_content.append(name)
                else:
                    unused.append((kind, name))
    except OSError as error:
        raise UserError(f"cannot read the folder {folder}: {error.strerror}") from None
    for names in (images, by_content):
        names.sort(key=os.fsencode)
    folders.sort(key=os.fsencode)
    unused.sort(key=lambda pair: os.fsencode(pair[1]))
    return Content(folders, images, by_content, unused)
