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

import numpy as np

from convlens.data.files import Files, Gathering
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
                 and name (bytewise), the same on every file system. Kept as ``Files``, in little
                 memory, whatever sequence is given
    labels       (N,) int64, indices into ``class_names``
    class_names  (K,) sorted bytewise; composed (NFC), however folders spell their accents
    splits       (N,) str array of "train", "validation", "test"; None when the layout has none.
                 A split the layout lacks does not occur in it (``resolve_splits`` fills it)
    directory    what split files and messages are relative to
    """

    files: Sequence[Path]
    labels: np.ndarray
    class_names: tuple[str, ...]
    splits: np.ndarray | None
    directory: Path = Path()

    def __post_init__(self) -> None:
        # frozen, but not yet handed out
        object.__setattr__(self, "files", Files.of(self.files, self.directory))

    def __len__(self) -> int:
        return len(self.files)

    def name_of(self, index: int) -> str:
        """File ``index`` relative to ``directory`` with forward slashes; absolute if outside it."""
        return self.files.name(index)


def list_pictures(
    directory: str | os.PathLike,
    *,
    pattern: str | None = None,
    csv: str | os.PathLike | None = None,
    csv_columns: Sequence[str] = CSV_COLUMNS,
    keys: Keys = Keys(),  # noqa: B008  (immutable)
    for_test: bool = False,
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
    for_test     nothing will be trained on them: there may be no training pictures, one class
                 only, and classes that are not in every split.

    Hidden files and folders are left out, sub-folders of a class folder belong to the class.
    Raises UserError, one line, for everything that would train on something else than was meant:
    missing or empty folders, a single class, a class missing from a split, pictures that belong to
    no class, names the pattern does not fit, CSV rows without a picture.
    """
    root = _existing(Path(directory).expanduser(), keys)
    if csv is not None and pattern is not None:
        raise UserError(f"both {keys.csv} and {keys.pattern} are set: labels come from one of them")
    rows = Gathering(root, SPLITS)
    if csv is not None:
        for split, label, file in rows_of_table(root, Path(csv).expanduser(), csv_columns, keys):
            inside = file.is_relative_to(root)
            rows.add(split, label, str(file.relative_to(root) if inside else file))
    else:
        folders = _split_folders(root, keys, nested=pattern is None, for_test=for_test)
        for split, folder in (folders or {None: root}).items():
            if pattern:
                _add_by_pattern(rows, split, folder, pattern, keys)
            else:
                _add_classes(rows, split, folder, keys)
    return _listing(rows, keys, for_test)


def _listing(rows: Gathering, keys: Keys, for_test: bool) -> Listing:
    """Sort and check the collected rows."""
    names, root = rows.class_names, rows.directory
    if len(names) < 2 and not for_test:
        raise UserError(
            f"only one class, {names[0]!r}, in {root}: a classifier needs two or more"
            f"{_folder_below(root, names[0], keys)}"
        )
    for name in names:
        _refuse_undecodable(name, root)
    files, labels, splits = rows.sorted()
    listing = Listing(files, labels, names, splits, root)
    if not for_test:
        _check_classes_in_splits(listing)
    return listing


def _refuse_undecodable(name: str, root: Path) -> None:
    """A class is named in tables, pages and event files, all of them Unicode.

    Files need not be: of them only the bytes count.
    """
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        shown = name.encode("utf-8", "backslashreplace").decode("utf-8")
        raise UserError(
            f"the class name {shown!r} in {root} is not UTF-8, which tables and pages are written "
            "in: rename it"
        ) from None


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


def _visible(folder: Path) -> tuple[list[Path], list[str]]:
    """The sub-folders and the names of pictures directly in ``folder``, hidden ones left out.

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
                pictures.append(entry.name)
    return sorted(folders, key=os.fsencode), sorted(pictures, key=os.fsencode)


def pictures_below(folder: Path) -> Iterator[Path]:
    """Every picture below ``folder``, links followed; a link back to a folder above is not."""
    for inner, names in _folders_below(folder):
        for name in names:
            yield inner / name


def _folders_below(
    folder: Path, above: frozenset = frozenset()
) -> Iterator[tuple[Path, list[str]]]:
    """(folder, names of the pictures directly in it) of ``folder`` and of every one below it."""
    info = folder.stat()
    here = (info.st_dev, info.st_ino)
    if here in above:
        return
    folders, pictures = _visible(folder)
    yield folder, pictures
    for inner in folders:
        yield from _folders_below(inner, above | {here})


def _lead(folder: Path, root: Path) -> str:
    """What stands before a picture's name in ``folder`` when it is called from ``root``."""
    return "" if folder == root else os.path.join(folder.relative_to(root), "")


def _split_folders(root: Path, keys: Keys, nested: bool, for_test: bool) -> dict[str, Path]:
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
    if "train" not in found and not for_test:
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
            f"{len(strays)} pictures lie {where}, such as {folder / strays[0]}, and belong to no "
            f"class: move them into a class folder or out of {folder}"
        )


def _add_classes(rows: Gathering, split: str | None, folder: Path, keys: Keys) -> None:
    """Every picture in the class folders of ``folder``."""
    classes, loose = _visible(folder)
    if not classes and loose:
        raise _flat_folder(folder, loose, keys)
    before, empty = len(rows), []
    for inner in classes:
        count = len(rows)
        for part, names in _folders_below(inner):
            lead = _lead(part, rows.directory)
            rows.add_all(split, inner.name, [lead + name for name in names])
        if len(rows) == count:
            empty.append(inner)
    if len(rows) == before and not loose:
        raise _nothing_in(folder, keys)
    for inner in classes:
        if inner in empty:
            raise _nothing_in(inner, keys)
        if (inner / "train").is_dir() and _visible(inner / "train")[0]:
            raise UserError(
                f"{inner} is a data set of its own, with train/, not a class: "
                f"did you mean {keys.directory}={inner}?"
            )
    _refuse_strays(folder, "beside the class folders")


def _nothing_in(folder: Path, keys: Keys) -> UserError:
    others = sorted({Path(f).suffix for _, _, files in os.walk(folder) for f in files} - {""})
    seen = f" (there are {', '.join(others[:5])} files)" if others else ""
    return UserError(
        f"no pictures in {folder}{seen}: expected .jpg or .png files; point {keys.directory} at a "
        "folder with train/, validation/ and test/ or with class folders, or try data=shapes"
    )


def _flat_folder(folder: Path, pictures: list[str], keys: Keys) -> UserError:
    """The error for loose pictures without labels: suggest the pattern their names follow."""
    pattern = suggested_pattern(pictures, keys)
    if pattern:
        return UserError(
            f"no class folders in {folder}, but names such as {pictures[0]} tell the class: "
            f'try "{keys.pattern}={pattern}"'
        )
    return UserError(
        f"no class folders in {folder}, only {len(pictures)} pictures such as {pictures[0]}: "
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


def _add_by_pattern(
    rows: Gathering, split: str | None, folder: Path, pattern: str, keys: Keys
) -> None:
    """Every picture below ``folder``, the class read by ``pattern``."""
    names = [_lead(part, folder) + name for part, found in _folders_below(folder) for name in found]
    if not names:
        raise _nothing_in(folder, keys)
    asked = names if "/" in pattern else [os.path.basename(name) for name in names]
    lead = _lead(folder, rows.directory)
    for label, name in zip(classes_in_names(asked, pattern, folder, keys), names, strict=True):
        rows.add(split, label, lead + name)
