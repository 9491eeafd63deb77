"""Class folders: list every image in them, and explain what is wrong if there are none.

``convlens.data.index.layout`` decides what folders mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from convlens.core.errors import UserError
from convlens.data.index import layout
from convlens.data.index.files import ListingBuilder
from convlens.data.index.folders import Walk, count_noun, join_names
from convlens.data.index.kinds import FOREIGN, WAY_OUT
from convlens.data.index.labels import PATTERN_EXAMPLE, Keys, parse_split, suggest_pattern


def name_prefix(folder: Path, root: Path) -> str:
    """Return the prefix that makes names in ``folder`` relative to ``root``; "" for ``root``."""
    return "" if folder == root else f"{folder.relative_to(root).as_posix()}/"


def refuse_strays(folder: Path, where: str, walk: Walk) -> None:
    """Raise UserError for images beside folders: they have no class and must not be ignored."""
    strays = walk.read_folder(folder)[1]
    if strays:
        raise UserError(
            f"{len(strays)} images are {where}, such as {folder / strays[0]}, and have no "
            f"class: move them into a class folder or out of {folder}"
        )


def add_classes(
    rows: ListingBuilder, split: str | None, folder: Path, walk: Walk, keys: Keys
) -> list[str]:
    """Add every image in the class folders of ``folder``; return lines to report to the user.

    Args:
        rows: collects the images.
        split: split of the images, or None.
        folder: contains the class folders.
        walk: the walk through the data set.
        keys: what errors call the arguments.

    Raises:
        UserError: the folders do not contain images by class.
    """
    notes = []
    if split is not None and (inner := layout.find_classes(folder, walk)) != folder:
        notes.append(f"the classes of {split} are the folders in {inner.relative_to(walk.root)}/")
        folder = inner
    classes, loose = walk.read_folder(folder)
    if not classes and loose:
        raise _flat_folder_error(folder, loose, keys)
    if split is None and layout.are_splits_in_classes(classes, walk):
        notes.append(
            "each class folder has its own train/ and other split folders, used as the splits"
        )
        for inner in classes:
            for part in walk.read_folder(inner)[0]:
                _add_class(rows, parse_split(part.name), inner.name, part, walk)
        return notes
    empty, branches, copies = [], [], []
    for inner in classes:
        parts = _add_class(rows, split, inner.name, inner, walk)
        if not any(names for _, names in parts):
            empty.append(inner)
        branches.append(layout.describe_branch(inner, [part for part, names in parts if names]))
        layout.refuse_data_set(inner, [part for part, _ in parts], keys)
        copies += layout.find_mirrors(parts)
    if len(empty) == len(classes) and not loose:
        raise no_images_error(folder, keys)
    if empty:
        raise no_images_error(empty[0], keys)
    refuse_strays(folder, "beside the class folders", walk)
    layout.refuse_levels(folder, branches, keys)
    return notes + _describe_mirrors(copies, walk.root)


def _add_class(
    rows: ListingBuilder, split: str | None, label: str, folder: Path, walk: Walk
) -> list[tuple[Path, list[str]]]:
    """Add every image below ``folder``; return (folder, names) for it and the folders below."""
    parts = list(walk.iterate(folder))
    for part, names in parts:
        lead = name_prefix(part, rows.directory)
        rows.add(split, label, [lead + name for name in names])
    return parts


def _describe_mirrors(copies: Sequence[tuple[Path, int]], root: Path) -> list[str]:
    """Return a line on folders that seem to repeat images of their class."""
    if not copies:
        return []
    folders = count_noun(len(copies), "folder", "folders")
    images = sum(count for _, count in copies)
    names = join_names(part.relative_to(root).as_posix() + "/" for part, _ in copies)
    return [
        f"{folders} in classes ({names}) with {images} images named like "
        "others of their class: all count as images; if they are smaller copies or masks, move "
        "them out"
    ]


def no_images_error(folder: Path, keys: Keys) -> UserError:
    """Return the error for a folder without images."""
    walk = Walk(folder)
    list(walk.iterate(folder))  # fills walk.unused
    unused = f", only {walk.describe_unused()}" if walk.unused else ""
    advice = WAY_OUT if set(walk.unused) & set(FOREIGN) else "expected .jpg or .png files"
    return UserError(
        f"no images in {folder}{unused}: {advice}; point {keys.directory} at a folder with train/, "
        "validation/ and test/ or with class folders, or try data=shapes"
    )


def _flat_folder_error(folder: Path, images: list[str], keys: Keys) -> UserError:
    """Return the error for loose images without labels; suggest the pattern of their names."""
    pattern = suggest_pattern(images, keys)
    if pattern:
        return UserError(
            f"no class folders in {folder}, but names such as {images[0]} contain the class: "
            f'try "{keys.pattern}={pattern}"'
        )
    return UserError(
        f"no class folders in {folder}, only {len(images)} images such as {images[0]}: make a "
        f"folder per class, or set {keys.pattern} (such as {PATTERN_EXAMPLE}) or {keys.csv}"
    )


def suggest_subfolder(root: Path, name: str, keys: Keys) -> str:
    """Return a hint if a single class folder itself contains folders of images, else ""."""
    walk, inner = Walk(root), root / name
    if not inner.is_dir():
        return ""
    inner = layout.find_classes(inner, walk)
    below = walk.read_folder(inner)[0]
    if len(below) < 2 or not all(next(walk.find_images(folder), None) for folder in below):
        return ""
    count = len(below)
    return f"; {inner} contains {count} folders of images: did you mean {keys.directory}={inner}?"
