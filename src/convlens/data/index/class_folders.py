"""Class folders: every image in them, and what is said where there are none.

What folders stand for is settled in :mod:`convlens.data.index.layout`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from convlens.core.errors import UserError
from convlens.data.index import layout
from convlens.data.index.files import ListingBuilder
from convlens.data.index.folders import Walk, count_noun, join_names
from convlens.data.index.kinds import FOREIGN, WAY_OUT
from convlens.data.index.labels import PATTERN_EXAMPLE, Keys, parse_split, suggest_pattern


def name_prefix(folder: Path, root: Path) -> str:
    """What stands before an image's name in ``folder`` when it is called from ``root``."""
    return "" if folder == root else os.path.join(folder.relative_to(root), "")


def refuse_strays(folder: Path, where: str, walk: Walk) -> None:
    """Images next to folders have no class: say so rather than leave them out."""
    strays = walk.look(folder)[1]
    if strays:
        raise UserError(
            f"{len(strays)} images lie {where}, such as {folder / strays[0]}, and belong to no "
            f"class: move them into a class folder or out of {folder}"
        )


def add_classes(
    rows: ListingBuilder, split: str | None, folder: Path, walk: Walk, keys: Keys
) -> list[str]:
    """Every image in the class folders of ``folder``; lines a person should read."""
    notes = []
    if split is not None and (inner := layout.find_classes(folder, walk)) != folder:
        notes.append(f"the classes of {split} are the folders in {inner.relative_to(walk.root)}/")
        folder = inner
    classes, loose = walk.look(folder)
    if not classes and loose:
        raise _flat_folder(folder, loose, keys)
    if split is None and layout.are_splits_in_classes(classes, walk):
        notes.append(
            "each class folder holds its own train/ and other split folders: taken as the splits"
        )
        for inner in classes:
            for part in walk.look(inner)[0]:
                _add_class(rows, parse_split(part.name), inner.name, part, walk)
        return notes
    empty, branches, copies = [], [], []
    for inner in classes:
        found = _add_class(rows, split, inner.name, inner, walk)
        if not any(names for _, names in found):
            empty.append(inner)
        branches.append(layout.describe_branch(inner, [part for part, names in found if names]))
        layout.refuse_data_set(inner, [part for part, _ in found], keys)
        copies += layout.find_mirrors(found)
    if len(empty) == len(classes) and not loose:
        raise no_images_error(folder, keys)
    if empty:
        raise no_images_error(empty[0], keys)
    refuse_strays(folder, "beside the class folders", walk)
    layout.refuse_levels(folder, branches, keys)
    return notes + _mirror_notes(copies, walk.root)


def _add_class(
    rows: ListingBuilder, split: str | None, label: str, folder: Path, walk: Walk
) -> list[tuple[Path, list[str]]]:
    """Add every image below ``folder``; (folder, names) of it and of those in it."""
    found = list(walk.below(folder))
    for part, names in found:
        lead = name_prefix(part, rows.directory)
        rows.add(split, label, [lead + name for name in names])
    return found


def _mirror_notes(copies: Sequence[tuple[Path, int]], root: Path) -> list[str]:
    """One line on the folders that seem to hold what others hold already."""
    if not copies:
        return []
    folders = count_noun(len(copies), "folder", "folders")
    names = join_names(part.relative_to(root).as_posix() + "/" for part, _ in copies)
    return [
        f"{folders} inside classes ({names}) with {sum(count for _, count in copies)} images named "
        "like others of their class: they count as images of it; if they are smaller copies or "
        "masks, move them out"
    ]


def no_images_error(folder: Path, keys: Keys) -> UserError:
    walk = Walk(folder)
    list(walk.below(folder))  # counts what it passes over
    seen = f", only {walk.left_out()}" if walk.unused else ""
    wanted = WAY_OUT if set(walk.unused) & set(FOREIGN) else "expected .jpg or .png files"
    return UserError(
        f"no images in {folder}{seen}: {wanted}; point {keys.directory} at a folder with train/, "
        "validation/ and test/ or with class folders, or try data=shapes"
    )


def _flat_folder(folder: Path, pictures: list[str], keys: Keys) -> UserError:
    """The error for loose images without labels: suggest the pattern their names follow."""
    pattern = suggest_pattern(pictures, keys)
    if pattern:
        return UserError(
            f"no class folders in {folder}, but names such as {pictures[0]} tell the class: "
            f'try "{keys.pattern}={pattern}"'
        )
    return UserError(
        f"no class folders in {folder}, only {len(pictures)} images such as {pictures[0]}: "
        f"make one folder a class, or take labels from the names with {keys.pattern} (such as "
        f"{PATTERN_EXAMPLE}) or from a table with {keys.csv}"
    )


def suggest_subfolder(root: Path, name: str, keys: Keys) -> str:
    """Where one class folder itself holds folders of images, that is what was meant."""
    walk, inner = Walk(root), root / name
    if not inner.is_dir():
        return ""
    inner = layout.find_classes(inner, walk)
    below = walk.look(inner)[0]
    if len(below) < 2 or not all(next(walk.pictures(folder), None) for folder in below):
        return ""
    return f"; {inner} holds {len(below)} folders of images: did you mean {keys.directory}={inner}?"
