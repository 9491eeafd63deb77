"""Which pictures there are, and what each one is called: folders and CSV files, nothing decoded.

Legend: N pictures, K classes. Four layouts are understood:

1. ``train/`` with class folders, and beside it any of ``validation/`` (or ``val/``, ``valid/``)
   and ``test/``;
2. class folders directly;
3. one flat folder, the class written in the file name and found by a pattern;
4. a CSV with a column of files, one of labels and, if wanted, one of splits.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from convlens.data.labels import (
    CSV_COLUMNS,
    PATTERN_EXAMPLE,
    SPLIT_NAMES,
    SPLITS,
    Keys,
    classes_in_names,
    rows_of_table,
    suggested_pattern,
)
from convlens.errors import UserError, nearest

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff")
# What macOS leaves in zip archives: pictures by their names, but none inside.
JUNK_FOLDERS = {"__MACOSX"}


@dataclass(frozen=True, eq=False)
class Listing:
    """The pictures of a data set and their labels; nothing is decoded.

    files        (N,) paths, below ``directory`` unless a CSV named others; ordered by split, class
                 and name (bytewise), the same on every file system
    labels       (N,) int64, indices into ``class_names``
    class_names  (K,) sorted bytewise, spelt as on disk
    splits       (N,) str array of "train", "validation", "test"; None when the layout has none.
                 A split the layout lacks does not occur in it (``resolve_splits`` fills it)
    directory    what split files and messages are relative to
    """

    files: tuple[Path, ...]
    labels: np.ndarray
    class_names: tuple[str, ...]
    splits: np.ndarray | None
    directory: Path = Path()

    def __len__(self) -> int:
        return len(self.files)

    def name_of(self, index: int) -> str:
        """File ``index`` relative to ``directory`` with forward slashes; absolute if outside it."""
        path = self.files[index]
        if path.is_relative_to(self.directory):
            return path.relative_to(self.directory).as_posix()
        return Path(os.path.abspath(path)).as_posix()


class _Row(NamedTuple):
    """One picture while a listing is being put together."""

    split: str | None
    label: str
    file: Path


def list_pictures(
    directory: str | os.PathLike,
    *,
    pattern: str | None = None,
    csv: str | os.PathLike | None = None,
    csv_columns: Sequence[str] = CSV_COLUMNS,
    keys: Keys = Keys(),  # noqa: B008  (immutable)
) -> Listing:
    """List the pictures below ``directory`` in any of the four layouts of this module.

    pattern      takes the class from the file name (from the path below the folder if the pattern
                 holds a slash). ``{class}`` is the class, ``{number}`` digits, ``*`` anything,
                 ``?`` one character; the whole name must match, letters' case included:
                 ``{class}.*`` reads cat.0.jpg, ``{class}_{number}.jpg`` great_dane_12.jpg.
                 A regular expression with a group ``(?P<class>…)`` is taken as it is. With
                 ``train/`` … folders it applies inside each of them.
    csv          file with a header line, separated by commas, semicolons or tabs; a relative path
                 is looked for in ``directory`` first, then as given. Its files are relative to
                 ``directory`` (or absolute); pictures it does not name are not used.
    csv_columns  names of the columns (file, label, split); the third may be absent from the file.
    keys         what error messages call the arguments.

    Hidden files and folders are left out, sub-folders of a class folder belong to the class.
    Raises UserError, one line, for everything that would train on something else than was meant:
    missing or empty folders, a single class, a class missing from a split, pictures that belong to
    no class, names the pattern does not fit, CSV rows without a picture.
    """
    root = _existing(Path(directory).expanduser(), keys)
    if csv is not None and pattern is not None:
        raise UserError(f"both {keys.csv} and {keys.pattern} are set: labels come from one of them")
    if csv is not None:
        table = rows_of_table(root, Path(csv).expanduser(), csv_columns, keys)
        rows = [_Row(*row) for row in table]
    else:
        folders = _split_folders(root, keys, nested=pattern is None)
        rows = [
            _Row(split, label, file)
            for split, folder in (folders or {None: root}).items()
            for label, file in (
                _pattern_rows(folder, pattern, keys) if pattern else _class_rows(folder, keys)
            )
        ]
    return _listing(root, rows, keys)


def _listing(root: Path, rows: list[_Row], keys: Keys) -> Listing:
    """Sort and check the collected rows."""
    names = sorted({row.label for row in rows}, key=os.fsencode)
    if len(names) < 2:
        raise UserError(
            f"only one class, {names[0]!r}, in {root}: a classifier needs two or more"
            f"{_folder_below(root, names[0], keys)}"
        )
    index = {name: number for number, name in enumerate(names)}
    order = {split: number for number, split in enumerate((None, *SPLITS))}
    rows.sort(key=lambda row: (order[row.split], index[row.label], os.fsencode(row.file)))
    splits = None if rows[0].split is None else np.array([row.split for row in rows])
    listing = Listing(
        files=tuple(row.file for row in rows),
        labels=np.array([index[row.label] for row in rows], dtype=np.int64),
        class_names=tuple(names),
        splits=splits,
        directory=root,
    )
    _check_classes_in_splits(listing)
    return listing


def _check_classes_in_splits(listing: Listing) -> None:
    if listing.splits is None:
        return
    present = {
        split: {listing.class_names[k] for k in np.unique(listing.labels[listing.splits == split])}
        for split in SPLITS
        if (listing.splits == split).any()
    }
    if "train" not in present:
        raise UserError(
            f"no training pictures in {listing.directory}: every split but train is there"
        )
    for split in present:
        for here, there in (("train", split), (split, "train")):
            missing = sorted(present[here] - present[there], key=os.fsencode)
            if missing:
                more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
                raise UserError(
                    f"class {missing[0]!r}{more} has pictures in {here} but none in {there} of "
                    f"{listing.directory}: every split needs every class, spelt alike; "
                    f"in {there} {nearest(missing[0], present[there])}"
                )


# ---------------------------------------------------------------------------------------- folders


def _existing(directory: Path, keys: Keys) -> Path:
    if directory.is_dir():
        return directory
    if directory.exists():
        raise UserError(f"{directory} is a file: {keys.directory} names a folder of pictures")
    parent = next((p for p in Path(os.path.abspath(directory)).parents if p.exists()), Path("/"))
    if parent.is_dir() and parent == Path(os.path.abspath(directory)).parent:
        beside = [entry.name for entry in os.scandir(parent) if entry.is_dir()]
        hint = f"in {parent} {nearest(directory.name, beside)}"
    else:
        hint = f"the nearest existing place is {parent}"
    raise UserError(
        f"no folder {directory}: set {keys.directory} to where the pictures lie; {hint}"
    )


def _is_picture(name: str) -> bool:
    return name.lower().endswith(EXTENSIONS)


def _visible(folder: Path) -> tuple[list[Path], list[Path]]:
    """The sub-folders and the pictures directly in ``folder``, hidden ones left out.

    A dangling link with a picture's name counts as a picture: decoding will name it, where
    leaving it out would be silent.
    """
    folders, pictures = [], []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(".") or entry.name in JUNK_FOLDERS:
                continue
            if entry.is_dir():
                folders.append(folder / entry.name)
            elif _is_picture(entry.name):
                pictures.append(folder / entry.name)
    return sorted(folders, key=os.fsencode), sorted(pictures, key=os.fsencode)


def pictures_below(folder: Path, above: frozenset = frozenset()) -> Iterator[Path]:
    """Every picture below ``folder``, links followed; a link back to a folder above is not."""
    info = folder.stat()
    here = (info.st_dev, info.st_ino)
    if here in above:
        return
    folders, pictures = _visible(folder)
    yield from pictures
    for inner in folders:
        yield from pictures_below(inner, above | {here})


def _split_folders(root: Path, keys: Keys, nested: bool) -> dict[str, Path]:
    """``{"train": folder, …}`` in the order of SPLITS, or {} if ``root`` is not split.

    ``nested``: split folders hold class folders; without, the pictures themselves.
    """
    folders, _ = _visible(root)
    found: dict[str, Path] = {}
    for folder in folders:
        split = SPLIT_NAMES.get(folder.name.lower())
        if split in found:
            raise UserError(f"{found[split]} and {folder} are both the {split} split: keep one")
        if split is not None:
            found[split] = folder
    others = [folder for folder in folders if folder not in found.values()]
    if not found or (nested and others and not any(_visible(f)[0] for f in found.values())):
        return {}  # class folders, one of which happens to be called "train" or "test"
    if "train" not in found:
        raise UserError(
            f"{root} has {next(iter(found.values())).name}/ but no train/ folder: make one for the "
            f"training pictures, or point {keys.directory} at a folder of class folders"
        )
    for other in others:
        lost = next(pictures_below(other), None)
        if lost is not None:
            raise UserError(
                f"{other} holds pictures ({lost.name}) but lies beside train/ and belongs to no "
                f"split: move it out of {root}"
            )
    _refuse_strays(root, "beside the split folders")
    return {split: found[split] for split in SPLITS if split in found}


def _refuse_strays(folder: Path, where: str) -> None:
    """Pictures next to folders have no class: say so rather than leave them out."""
    strays = _visible(folder)[1]
    if strays:
        raise UserError(
            f"{len(strays)} pictures lie {where}, such as {strays[0]}, and belong to no class: "
            f"move them into a class folder or out of {folder}"
        )


def _class_rows(folder: Path, keys: Keys) -> list[tuple[str, Path]]:
    """(class, file) of every picture in the class folders of ``folder``."""
    classes, loose = _visible(folder)
    if not classes and loose:
        raise _flat_folder(folder, loose, keys)
    pictures = {inner: list(pictures_below(inner)) for inner in classes}
    if not any(pictures.values()) and not loose:
        raise _nothing_in(folder, keys)
    for inner in classes:
        if not pictures[inner]:
            raise _nothing_in(inner, keys)
        if (inner / "train").is_dir() and _visible(inner / "train")[0]:
            raise UserError(
                f"{inner} is a data set of its own, with train/, not a class: "
                f"did you mean {keys.directory}={inner}?"
            )
    _refuse_strays(folder, "beside the class folders")
    return [(inner.name, file) for inner in classes for file in pictures[inner]]


def _nothing_in(folder: Path, keys: Keys) -> UserError:
    others = sorted({Path(f).suffix for _, _, files in os.walk(folder) for f in files} - {""})
    seen = f" (there are {', '.join(others[:5])} files)" if others else ""
    return UserError(
        f"no pictures in {folder}{seen}: expected .jpg or .png files; point {keys.directory} at a "
        "folder with train/, validation/ and test/ or with class folders, or try data=shapes"
    )


def _flat_folder(folder: Path, pictures: list[Path], keys: Keys) -> UserError:
    """The error for loose pictures without labels: suggest the pattern their names follow."""
    pattern = suggested_pattern([picture.name for picture in pictures], keys)
    if pattern:
        return UserError(
            f"no class folders in {folder}, but names such as {pictures[0].name} tell the class: "
            f'try "{keys.pattern}={pattern}"'
        )
    return UserError(
        f"no class folders in {folder}, only {len(pictures)} pictures such as {pictures[0].name}: "
        f"make one folder a class, or take labels from the names with {keys.pattern} (such as "
        f"{PATTERN_EXAMPLE}) or from a table with {keys.csv}"
    )


def _folder_below(root: Path, name: str, keys: Keys) -> str:
    """Where one class folder itself holds folders of pictures, that is what was meant."""
    inner = root / name
    below = _visible(inner)[0] if inner.is_dir() else []
    if len(below) < 2 or not all(next(pictures_below(folder), None) for folder in below):
        return ""
    return (
        f"; {inner} holds {len(below)} folders of pictures: did you mean {keys.directory}={inner}?"
    )


# ------------------------------------------------------------------------- file names and tables


def _pattern_rows(folder: Path, pattern: str, keys: Keys) -> list[tuple[str, Path]]:
    """(class, file) of every picture below ``folder``, the class read by ``pattern``."""
    pictures = list(pictures_below(folder))
    if not pictures:
        raise _nothing_in(folder, keys)
    names = [p.relative_to(folder).as_posix() if "/" in pattern else p.name for p in pictures]
    return list(zip(classes_in_names(names, pattern, folder, keys), pictures, strict=True))
