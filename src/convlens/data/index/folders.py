"""What lies in a folder: images, other folders, and what is of no use here.

A file with an image's name is taken for one, unopened: decoding says what is wrong with it. Of
any other the first bytes tell. What systems and tools leave behind is known by its name.
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
# Lower case. Thumbnails, waste bins, indices and settings: never a class or an image of the user's.
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
    # programs for images
    ".picasa.ini", "picasa.ini", ".picasaoriginals", "zbthumbnail.info", ".comments", ".dtrash",
    # notebooks, Python, version control
    ".ipynb_checkpoints", "__pycache__", ".git", ".gitignore", ".gitattributes", ".gitkeep",
    ".keep", ".svn", ".hg", ".dvc", ".dvcignore", ".idea", ".vscode",
))  # fmt: skip
_TOOLS_BEGIN = ("._", ".trash", ".fuse_hidden", ".nfs0", ".syncthing.", ".~lock.")
_SHOWN = 3  # names behind a count


def is_left_by_tools(name: str) -> bool:
    """Whether a file or folder is known, by its name, to be a system's or a tool's.

    >>> is_left_by_tools("@eaDir"), is_left_by_tools("._cat.jpg"), is_left_by_tools("cats")
    (True, True, False)
    """
    lower = name.lower()
    return lower in _TOOLS or lower.startswith(_TOOLS_BEGIN)


def join_names(names: Iterable[str]) -> str:
    """The first three names, and whether there are more.

    >>> join_names(["a", "b", "c", "d"])
    'a, b, c, …'
    """
    first = list(itertools.islice(names, _SHOWN + 1))
    return ", ".join(first[:_SHOWN]) + (", …" if len(first) > _SHOWN else "")


def count_noun(count: int, one: str, more: str) -> str:
    """A count and what is counted.

    >>> count_noun(1, "file is", "files are"), counted(2, "file is", "files are")
    ('1 file is', '2 files are')
    """
    return f"{count} {one if count == 1 else more}"


@dataclass
class Named:
    """How many there are, and the names of the first of them."""

    count: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, name: str) -> None:
        self.count += 1
        if len(self.first) <= _SHOWN:
            self.first.append(name)

    def __str__(self) -> str:
        return join_names(self.first)


class Content(NamedTuple):
    """What lies directly in a folder, each sorted bytewise.

    folders: paths of sub-folders; images: names; by_content: those of them whose names do not
    tell; unused: (kind, name) of all else that is not a tool's.
    """

    folders: list[Path]
    pictures: list[str]
    by_content: list[str]
    unused: list[tuple[str, str]]


class Walk:
    """Goes through the folders below ``root`` and keeps count of what is left out.

    ``companions``: suffixes of files that belong to the images beside them, and are used.

    Attributes:
        unused: kind of file to those that :meth:`below` has passed over.
        by_content: images that it gave whose names do not tell.
    """

    def __init__(self, root: Path, companions: tuple[str, ...] = ()):
        self.root, self._companions = root, companions
        self.unused: dict[str, Named] = {}
        self.by_content = Named()
        self._seen: dict[Path, Content] = {}

    def look(self, folder: Path) -> tuple[list[Path], list[str]]:
        """The sub-folders and the names of images directly in ``folder``.

        It is remembered, so that no folder is read and no file opened twice: for the few folders
        that tell a layout.
        """
        found = self._seen[folder] = self._seen.get(folder) or _content(folder)
        return found.folders, found.pictures

    def below(
        self, folder: Path, above: frozenset = frozenset()
    ) -> Iterator[tuple[Path, list[str]]]:
        """(folder, names of the images directly in it) of ``folder`` and of every one below it.

        Links are followed; one back to a folder above is not.
        """
        info = folder.stat()
        here = (info.st_dev, info.st_ino)
        if here in above:
            return
        found = self._seen.get(folder) or _content(folder)
        for kind, name in found.unused:
            if not name.lower().endswith(self._companions):
                self.unused.setdefault(kind, Named()).add(self._name(folder, name))
        for name in found.by_content:
            self.by_content.add(self._name(folder, name))
        yield folder, found.pictures
        for inner in found.folders:
            yield from self.below(inner, above | {here})

    def pictures(self, folder: Path) -> Iterator[Path]:
        """Every image below ``folder``."""
        return (inner / name for inner, names in self.below(folder) for name in names)

    def _name(self, folder: Path, name: str) -> str:
        return (folder / name).relative_to(self.root).as_posix()

    def left_out(self) -> str:
        """What was passed over, kind by kind, with counts and names; empty if nothing was."""
        kinds = sorted(self.unused.items(), key=lambda pair: (-pair[1].count, pair[0]))
        return "; ".join(f"{named.count} {kind} ({named})" for kind, named in kinds)

    def notes(self, where: str) -> list[str]:
        """Lines a person should read about what lay ``where`` and was not used."""
        lines = []
        if self.unused:
            count = sum(named.count for named in self.unused.values())
            files = count_noun(count, f"file {where} is", f"files {where} are")
            advice = f"; {WAY_OUT} to use them" if set(self.unused) & set(FOREIGN) else ""
            lines.append(f"{files} not used: {self.left_out()}{advice}")
        if self.by_content.count:
            images = count_noun(self.by_content.count, "image is", "images are")
            lines.append(f"{images} recognised by content, not by name: {self.by_content}")
        return lines


def _content(folder: Path) -> Content:
    """What lies in ``folder``. Raises UserError where it cannot be read.

    A dangling link with an image's name counts as an image: decoding will name it.
    """
    folders, pictures, by_content, unused = [], [], [], []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                name = entry.name
                named = name.lower().endswith(EXTENSIONS)
                if named and name[0] != "." and entry.is_file():
                    pictures.append(name)  # nearly all
                elif is_left_by_tools(name):
                    continue
                elif name[0] == ".":
                    unused.append(("hidden", name))
                elif entry.is_dir():
                    folders.append(folder / name)
                elif not entry.is_file():
                    if os.path.exists(entry.path):
                        unused.append(("pipe or device", name))  # opened, it would be waited for
                    elif named:
                        pictures.append(name)
                    else:
                        unused.append(("link to nothing", name))
                elif (kind := detect_file_kind(entry.path)) in FORMATS:
                    pictures.append(name)
                    by_content.append(name)
                else:
                    unused.append((kind, name))
    except OSError as error:
        raise UserError(f"cannot read the folder {folder}: {error.strerror}") from None
    for names in (pictures, by_content):
        names.sort(key=os.fsencode)
    folders.sort(key=os.fsencode)
    unused.sort(key=lambda pair: os.fsencode(pair[1]))
    return Content(folders, pictures, by_content, unused)
