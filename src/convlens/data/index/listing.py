"""Which images there are, and what each one is called: folders and CSV files, nothing decoded.

Legend: N images, K classes. Four layouts are understood:

1. ``train/`` with class folders, and beside it any of ``validation/`` and ``test/``, by these or
   other usual names (``labels.parse_split``); or the same three inside every class folder;
2. class folders directly;
3. one flat folder, the class written in the file name and found by a pattern;
4. a CSV with a column of files, one of labels and, if wanted, one of splits.
"""

from __future__ import annotations

import os
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
from convlens.data.index.folders import Named, Walk
from convlens.data.index.labels import SPLITS, Keys, read_classes
from convlens.data.index.tables import read_label_rows


@dataclass(frozen=True, eq=False)
class Listing:
    """The images of a data set and their labels; nothing is decoded.

    files        (N,) paths, below ``directory`` unless a CSV named others; ordered by split, class
                 and name (bytewise), the same on every file system. Kept as ``Files``, in little
                 memory, whatever sequence is given
    labels       (N,) int64, indices into ``class_names``
    class_names  (K,) sorted bytewise; composed (NFC), however folders spell their accents
    splits       (N,) str array of "train", "validation", "test"; None when the layout has none.
                 A split the layout lacks does not occur in it (``resolve_splits`` fills it)
    directory    what split files and messages are relative to
    notes        lines a person should read: what was left out, what a layout was taken for
    """

    files: Sequence[Path]
    labels: np.ndarray
    class_names: tuple[str, ...]
    splits: np.ndarray | None
    directory: Path = Path()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        # frozen, but not yet handed out
        object.__setattr__(self, "files", Files.of(self.files, self.directory))

    def __len__(self) -> int:
        return len(self.files)

    @property
    def present_splits(self) -> tuple[str, ...]:
        """The splits that there are images of, in the order of SPLITS; none without splits."""
        if self.splits is None:
            return ()
        return tuple(name for name in SPLITS if (self.splits == name).any())


def list_images(
    directory: str | os.PathLike,
    *,
    pattern: str | None = None,
    csv: str | os.PathLike | None = None,
    keys: Keys = Keys(),  # noqa: B008  (immutable)
    for_test: bool = False,
    companions: tuple[str, ...] = (),
) -> Listing:
    """List the images below ``directory`` in any of the four layouts of this module.

    pattern      takes the class from the file name (from the path below the folder if the pattern
                 holds a slash). ``{class}`` is the class, ``{number}`` digits, ``*`` anything,
                 ``?`` one character; the whole name must match, letters' case included:
                 ``{class}.*`` reads cat.0.jpg, ``{class}_{number}.jpg`` great_dane_12.jpg.
                 A regular expression with a group ``(?P<class>…)`` is taken as it is. With
                 ``train/`` … folders it applies inside each of them.
    csv          file with a header line, separated by commas, semicolons or tabs, and the columns
                 file, label and, if wanted, split; a relative path is looked for in ``directory``
                 first, then as given. Its files are relative to ``directory`` (or absolute);
                 images it does not name are not used.
    keys         what error messages call the arguments.
    for_test     nothing will be trained on them: there may be no training images, one class
                 only, and classes that are not in every split.
    companions   suffixes of files that lie beside images and are used, as masks may.

    Sub-folders of a class folder belong to the class. What systems and tools leave behind is not
    looked at; any other file that is no image by its content, or hidden, is left out and said.
    Raises UserError, one line, for everything that would train on something else than was meant:
    missing or empty folders, a single class, a class missing from a split, images that belong to
    no class, folders that may be classes or not, names the pattern does not fit, CSV rows without
    an image.
    """
    root = _existing(Path(directory).expanduser(), keys)
    if csv is not None and pattern is not None:
        raise UserError(f"both {keys.csv} and {keys.pattern} are set: labels come from one of them")
    rows, walk, notes = ListingBuilder(root), Walk(root, companions), []
    if csv is not None:
        named = set()
        for split, label, file in read_label_rows(root, Path(csv).expanduser(), keys):
            name = str(file.relative_to(root) if file.is_relative_to(root) else file)
            rows.add(split, label, [name])
            named.add(name)
        notes += _not_in_table(root, named)
    else:
        folders = layout.find_split_folders(root, walk, keys, pattern is None, for_test)
        if folders:
            refuse_strays(root, "beside the split folders", walk)
        for split, folder in (folders or {None: root}).items():
            if pattern is None:
                notes += add_classes(rows, split, folder, walk, keys)
            else:
                _add_by_pattern(rows, split, folder, pattern, walk, keys)
        notes += walk.notes("in class folders" if pattern is None else f"in {root}")
    return _listing(rows, notes, keys, for_test)


def _listing(rows: ListingBuilder, notes: Sequence[str], keys: Keys, for_test: bool) -> Listing:
    """Sort and check the collected rows."""
    names, root = rows.class_names, rows.directory
    if len(names) < 2 and not for_test:
        raise UserError(
            f"only one class, {names[0]!r}, in {root}: a classifier needs two or more"
            f"{suggest_subfolder(root, names[0], keys)}"
        )
    for name in names:
        # a class is named in tables, pages and event files; of files only the bytes count
        shown = name.encode("utf-8", "backslashreplace").decode("utf-8")
        if shown != name:
            raise UserError(
                f"the class name {shown!r} in {root} is not UTF-8, which tables and pages are "
                "written in: rename it"
            )
    files, labels, splits = rows.sorted()
    listing = Listing(files, labels, names, splits, root, tuple(notes))
    if not for_test:
        _check_classes_in_splits(listing)
    return listing


def _check_classes_in_splits(listing: Listing) -> None:
    present = {
        split: {listing.class_names[k] for k in np.unique(listing.labels[listing.splits == split])}
        for split in listing.present_splits
    }
    if present and "train" not in present:
        raise UserError(
            f"no training images in {listing.directory}: every split but train is there"
        )
    for split in present:
        for here, there in (("train", split), (split, "train")):
            missing = sorted(present[here] - present[there], key=os.fsencode)
            if missing:
                more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
                raise UserError(
                    f"class {missing[0]!r}{more} has images in {here} but none in {there} of "
                    f"{listing.directory}: every split needs every class, spelt alike; "
                    f"in {there} {nearest(missing[0], present[there])}"
                )


def _existing(directory: Path, keys: Keys) -> Path:
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
        hint = f"the nearest existing place is {there}"
    raise UserError(f"no folder {directory}: set {keys.directory} to where the images lie; {hint}")


def _add_by_pattern(
    rows: ListingBuilder, split: str | None, folder: Path, pattern: str, walk: Walk, keys: Keys
) -> None:
    """Every image below ``folder``, the class read by ``pattern``."""
    names = [
        name_prefix(part, folder) + name for part, found in walk.below(folder) for name in found
    ]
    if not names:
        raise no_images_error(folder, keys)
    asked = names if "/" in pattern else [os.path.basename(name) for name in names]
    lead = name_prefix(folder, rows.directory)
    labelled = zip(read_classes(asked, pattern, folder, keys), names, strict=True)
    for label, some in groupby(labelled, key=itemgetter(0)):
        rows.add(split, label, [lead + name for _, name in some])


def _not_in_table(root: Path, named: set[str]) -> list[str]:
    """One line on the images that lie beside those a table names."""
    lost = Named()
    for folder in sorted({os.path.dirname(name) for name in named}, key=os.fsencode):
        for name in Walk(root).look(root / folder)[1]:
            if (path := os.path.join(folder, name)) not in named:
                lost.add(path)
    if not lost.count:
        return []
    return [
        f"{lost.count} images beside those of the table are not listed in it and not used: {lost}"
    ]
