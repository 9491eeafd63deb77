"""Which images a data set has and what they are called, from folders and CSV files.

Nothing is decoded here. Legend: N images, K classes. There are four layouts:

1. ``train/`` with class folders and, beside it, ``validation/`` or ``test/`` or both, under these
   or other common names (``labels.parse_split``); or the same three inside every class folder;
2. class folders only;
3. one flat folder with the class in each file name, found by a pattern;
4. a CSV with a column of files, one of labels and, optionally, one of splits.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import numpy as np

from convlens.core.errors import UserError, nearest
from convlens.data.index import layout
from convlens.data.index.class_folders import (
    add_classes,
    name_prefix,
    no_images_error,
    refuse_strays,
    suggest_subfolder,
)
from convlens.data.index.files import Files, ListingBuilder
from convlens.data.index.folders import NameCount, Walk
from convlens.data.index.labels import SPLITS, Keys, read_classes
from convlens.data.index.other_layouts import suggest_source
from convlens.data.index.several import SEPARATOR, add_rows, mark_classes, refuse_numbers
from convlens.data.index.tables import find_encoding, find_table, read_label_rows


@dataclass(frozen=True, eq=False)
class Listing:
    """The images of a data set and their labels; nothing is decoded.

    Attributes:
        files: (N,) paths, below ``directory`` unless a CSV names others; sorted by split, class and
            name (bytewise), the same on every file system. Any sequence becomes ``Files``, which
            takes little memory.
        labels: (N,) int64, indices into ``class_names``. If images may have several classes,
            the rarest one of the image.
        class_names: (K,) sorted bytewise; composed (NFC), however folders spell their accents.
        splits: (N,) str array of "train", "validation", "test"; None if the layout has no splits.
            A split that the layout lacks does not occur in it (``resolve_splits`` adds it).
        directory: the folder that split files and messages refer to.
        notes: lines to report to the user: what was left out, how a layout was interpreted.
        present: (N, K) bool, the classes of each image; None if each image has one.
    """

    files: Sequence[Path]
    labels: np.ndarray
    class_names: tuple[str, ...]
    splits: np.ndarray | None
    directory: Path = Path()
    notes: tuple[str, ...] = ()
    present: np.ndarray | None = None

    def __post_init__(self) -> None:
        # the object is frozen, but nothing uses it yet
        object.__setattr__(self, "files", Files.of(self.files, self.directory))

    def __len__(self) -> int:
        return len(self.files)

    def find_classes(self, rows: np.ndarray) -> np.ndarray:
        """Return the classes of some images, ascending."""
        if self.present is None:
            return np.unique(self.labels[rows])
        return np.flatnonzero(self.present[rows].any(axis=0))

    def describe_label(self, row: int) -> str:
        """Return the class of an image; several classes are separated by ``|``."""
        if self.present is None:
            return self.class_names[self.labels[row]]
        return SEPARATOR.join(self.class_names[k] for k in np.flatnonzero(self.present[row]))

    @property
    def present_splits(self) -> tuple[str, ...]:
        """The splits that contain images, in the order of SPLITS; () if there are no splits."""
        if self.splits is None:
            return ()
        return tuple(name for name in SPLITS if (self.splits == name).any())


def list_images(
    directory: str | os.PathLike,
    *,
    pattern: str | None = None,
    csv: str | os.PathLike | None = None,
    encoding: str | None = None,
    keys: Keys = Keys(),  # noqa: B008  (immutable)
    for_test: bool = False,
    companions: tuple[str, ...] = (),
    several: bool = False,
) -> Listing:
    """List the images below ``directory`` in any of the four layouts of this module.

    Sub-folders of a class folder belong to the class. Files that systems and tools leave behind are
    ignored; any other file that is hidden, or by its content not an image, is left out and
    reported.

    Args:
        directory: the data set.
        pattern: takes the class from the file name (from the path below the folder if the pattern
            contains a slash). ``{class}`` is the class, ``{number}`` digits, ``*`` anything, ``?``
            one character. The whole name must match, including case: ``{class}.*`` reads cat.0.jpg,
            ``{class}_{number}.jpg`` great_dane_12.jpg. A regular expression with a group
            ``(?P<class>…)`` is used as it is. If there are split folders, the pattern applies
            inside each of them.
        csv: file with a header line, separated by commas, semicolons or tabs, and the columns file,
            label and, optionally, split. A relative path is searched in ``directory`` first, then
            as given. Its files are relative to ``directory`` or absolute; images that it does not
            name are not used.
        encoding: of the CSV; None to detect it (``convlens.data.index.encodings``).
        keys: what error messages call the arguments.
        for_test: nothing will be trained: there may be no training images, only one class, and
            classes that are not in every split.
        companions: suffixes of files that may be beside images and are used, such as masks.
        several: images may have several classes; a CSV then has, instead of label, the column
            labels (cat|dog) or a column of 0 and 1 for each class.

    Raises:
        UserError: the data is not what the user probably meant: missing or empty folders, a single
            class, a class missing from a split, images without a class, folders that may or may not
            be classes, names that do not fit the pattern, CSV rows without an image.
    """
    root = _check_folder(Path(directory).expanduser(), keys)
    if csv is not None and pattern is not None:
        raise UserError(f"both {keys.csv} and {keys.pattern} are set: set one of them for labels")
    rows, walk, notes = ListingBuilder(root), Walk(root, companions), []
    found: list[tuple[str | None, str, str]] = []  # split, label and name of a table's images
    if csv is not None:
        source = find_table(root, Path(csv).expanduser())
        read_as = find_encoding(root, source, encoding, keys)
        notes += [read_as.note] if read_as.note else []
        for split, label, file in read_label_rows(root, source, keys, read_as, several):
            name = (file.relative_to(root) if file.is_relative_to(root) else file).as_posix()
            found.append((split, label, name))
        refuse_numbers([label for _, label, _ in found], Path(csv))
        if several:
            add_rows(rows, found)
        for split, label, name in () if several else found:
            rows.add(split, label, [name])
        notes += _describe_unlisted(root, {name for *_, name in found})
        return build_listing(rows, notes, keys, for_test, found if several else ())
    try:
        notes += _add_folders(rows, pattern, walk, keys, for_test)
        return build_listing(rows, notes, keys, for_test)
    except UserError as error:
        hint = suggest_source(root) if keys == Keys() else ""
        raise UserError(f"{error}{hint}") from None


def _add_folders(
    rows: ListingBuilder, pattern: str | None, walk: Walk, keys: Keys, for_test: bool
) -> list[str]:
    """Add the images of folders; return lines to report to the user."""
    root, notes = walk.root, []
    folders = layout.find_split_folders(root, walk, keys, pattern is None, for_test)
    if folders:
        refuse_strays(root, "beside the split folders", walk)
    for split, folder in (folders or {None: root}).items():
        if pattern is None:
            notes += add_classes(rows, split, folder, walk, keys)
        else:
            _add_by_pattern(rows, split, folder, pattern, walk, keys)
    notes += walk.notes("in class folders" if pattern is None else f"in {root}")
    return notes


def build_listing(
    rows: ListingBuilder, notes: Sequence[str], keys: Keys, for_test: bool,
    several: Sequence[tuple[str | None, str, str]] = (),
) -> Listing:  # fmt: skip
    """Sort and check collected images.

    Args:
        rows: at least one image.
        notes: lines to report to the user.
        keys: what error messages call the arguments.
        for_test: as for ``list_images``.
        several: split, label and name of the images of a table with several classes per image.

    Raises:
        UserError: there is a single class, a class name is not UTF-8, or a class is missing from a
            split.
    """
    names, root = rows.class_names, rows.directory
    if len(names) < 2 and not for_test:
        raise UserError(
            f"only one class, {names[0]!r}, in {root}: a classifier needs two or more"
            f"{suggest_subfolder(root, names[0], keys)}"
        )
    for name in names:
        # tables, pages and event files contain class names; for files only the bytes matter
        readable = name.encode("utf-8", "backslashreplace").decode("utf-8")
        if readable != name:
            raise UserError(
                f"the class name {readable!r} in {root} is not UTF-8, the encoding of tables and "
                "pages: rename it"
            )
    files, labels, splits = rows.sorted()
    present = mark_classes(files, names, several) if several else None
    listing = Listing(files, labels, names, splits, root, tuple(notes), present)
    if not for_test:
        _check_classes_in_splits(listing, keys)
    return listing


def _check_classes_in_splits(listing: Listing, keys: Keys) -> None:
    present = {
        split: {listing.class_names[k] for k in listing.find_classes(listing.splits == split)}
        for split in listing.present_splits
    }
    if present and "train" not in present:
        raise UserError(
            f"no training images in {listing.directory}, only other splits: add the train split"
        )
    for split in present:
        for here, there in (("train", split), (split, "train")):
            missing = sorted(present[here] - present[there], key=os.fsencode)
            if missing:
                more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
                hint = f"; {keys.class_choice}=[a,b] leaves it out" if keys.class_choice else ""
                raise UserError(
                    f"class {missing[0]!r}{more} has images in {here} but none in {there} of "
                    f"{listing.directory}: every split needs every class, spelled alike; "
                    f"in {there} {nearest(missing[0], present[there])}{hint}"
                )


def _check_folder(directory: Path, keys: Keys) -> Path:
    if directory.is_dir():
        return directory
    if directory.exists():
        raise UserError(f"{directory} is a file: {keys.directory} names a folder of images")
    first, *above = Path(os.path.abspath(directory)).parents
    if first.is_dir():
        beside = [entry.name for entry in os.scandir(first) if entry.is_dir()]
        hint = f"in {first} {nearest(directory.name, beside)}"
    else:
        there = next(folder for folder in (first, *above) if folder.exists())
        hint = f"the nearest existing folder is {there}"
    raise UserError(f"no folder {directory}: set {keys.directory} to the images' folder; {hint}")


def _add_by_pattern(
    rows: ListingBuilder, split: str | None, folder: Path, pattern: str, walk: Walk, keys: Keys
) -> None:
    """Add every image below ``folder``; ``pattern`` reads the class."""
    names = [
        name_prefix(part, folder) + name for part, inside in walk.iterate(folder) for name in inside
    ]
    if not names:
        raise no_images_error(folder, keys)
    matched = names if "/" in pattern else [os.path.basename(name) for name in names]
    lead = name_prefix(folder, rows.directory)
    labelled = zip(read_classes(matched, pattern, folder, keys), names, strict=True)
    for label, pairs in groupby(labelled, key=itemgetter(0)):
        rows.add(split, label, [lead + name for _, name in pairs])


def _describe_unlisted(root: Path, table: set[str]) -> list[str]:
    """Return a line on images beside those of a table that the table does not name."""
    unlisted = NameCount()
    for folder in sorted({os.path.dirname(name) for name in table}, key=os.fsencode):
        for name in Walk(root).read_folder(root / folder)[1]:
            if (path := posixpath.join(folder, name)) not in table:
                unlisted.add(path)
    if not unlisted.count:
        return []
    return [
        f"{unlisted.count} images beside those of the table are not listed in it and not used: "
        f"{unlisted}"
    ]
