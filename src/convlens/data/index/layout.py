"""Decide what the folders of a data set mean: splits, classes, or neither.

Common names identify a split. If folders are arranged like splits, folds, years or cameras but
their names do not say which, nothing is guessed: the layout is refused, and the error names the
keys that decide.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from convlens.core.errors import UserError
from convlens.data.index.folders import Walk, join_names
from convlens.data.index.labels import HELD_OUT, SPLITS, Keys, parse_split

_LOWER = "*/{class}/*"  # patterns that say which folders are classes
_UPPER = "{class}/*"


def find_split_folders(
    root: Path, walk: Walk, keys: Keys, nested: bool, for_test: bool = False
) -> dict[str, Path]:
    """Return ``{"train": folder, …}`` in the order of SPLITS, or {} if ``root`` has no splits.

    Args:
        root: the data set.
        walk: the walk through the data set.
        keys: what errors call the arguments.
        nested: whether split folders contain class folders; if not, they contain the images.
        for_test: nothing is trained, so train/ may be missing.

    Raises:
        UserError: the split folders are ambiguous or incomplete.
    """
    folders, _ = walk.read_folder(root)
    roles = parse_roles([folder.name for folder in folders])
    split_folders: dict[str, Path] = {}
    for folder in folders:
        split = roles[folder.name]
        if split in split_folders:
            raise UserError(
                f"{split_folders[split]} and {folder} are both the {split} split: keep one"
            )
        if split in SPLITS:
            split_folders[split] = folder
    held_out = [folder for folder in folders if roles[folder.name] == HELD_OUT]
    others = [folder for folder in folders if roles[folder.name] is None]
    candidates = [*split_folders.values(), *held_out]
    if not candidates or (
        nested and others and not any(walk.read_folder(f)[0] for f in candidates)
    ):
        return {}  # class folders, one of which happens to be called "train" or "test"
    if "train" not in split_folders and not for_test:
        raise UserError(
            f"{root} has {candidates[0].name}/ but no train/ folder: add one with the training "
            f"images, or point {keys.directory} at a folder of class folders"
        )
    _assign_held_out(split_folders, held_out, for_test)
    for other in others:
        stray = next(Walk(other).find_images(other), None)
        if stray is not None:
            raise UserError(
                f"{other} contains images ({stray.name}) but is beside "
                f"{split_folders.get('train', candidates[0]).name}/ and belongs to no split: move "
                f"it out of {root}"
            )
    return {split: split_folders[split] for split in SPLITS if split in split_folders}


def parse_roles(names: Sequence[str]) -> dict[str, str | None]:
    """Return the split that each name means, with or without a shared prefix (seg_train)."""
    lead = _count_shared_letters(names) if len(names) > 1 else 0
    return {name: parse_split(name) or parse_split(name[lead:]) for name in names}


def _assign_held_out(
    split_folders: dict[str, Path], held_out: Sequence[Path], for_test: bool
) -> None:
    """Assign ``eval/`` or ``holdout/`` to the missing split: validation or test.

    If nothing is trained, it may be either.
    """
    missing = [split for split in ("test", "validation") if split not in split_folders]
    if len(held_out) == len(missing) == 1 or (for_test and len(held_out) <= len(missing)):
        split_folders.update(zip(missing, held_out, strict=False))
    elif held_out:
        raise UserError(
            f"{held_out[0]} may hold validation or test images: call it validation/ or test/"
        )


def find_classes(folder: Path, walk: Walk) -> Path:
    """Return ``folder``, or the only folder in it that contains all its class folders.

    A split with a single class is useless, so a single folder of folders is not a class.
    """
    inner, strays = walk.read_folder(folder)
    while len(inner) == 1 and not strays:
        below, loose = walk.read_folder(inner[0])
        if loose or not below:
            break
        folder, inner, strays = inner[0], below, loose
    return folder


def are_splits_in_classes(classes: Sequence[Path], walk: Walk) -> bool:
    """Return whether every class folder has split folders and nothing else: cats/train, …"""
    return len(classes) > 1 and all(_is_split(folder, walk) for folder in classes)


def _is_split(folder: Path, walk: Walk) -> bool:
    """Return whether a folder has two or more split folders of images, including train/."""
    inner, loose = walk.read_folder(folder)
    splits = [parse_split(part.name) for part in inner]
    if loose or len(inner) < 2 or "train" not in splits or not set(splits) <= set(SPLITS):
        return False
    return len(set(splits)) == len(splits) and not any(walk.read_folder(part)[0] for part in inner)


def refuse_data_set(folder: Path, parts: Iterable[Path], keys: Keys) -> None:
    """Raise UserError if a class folder is itself a data set or has splits of its own.

    Args:
        folder: the class folder.
        parts: the folders in it.
        keys: what errors call the arguments.
    """
    below = [part.relative_to(folder).parts for part in parts]
    if any(len(path) > 1 and parse_split(path[0]) == "train" for path in below):
        raise UserError(
            f"{folder} is a data set with train/, not a class: "
            f"did you mean {keys.directory}={folder}?"
        )
    splits = {parse_split(path[0]): path[0] for path in below if path and parse_split(path[0])}
    if "train" in splits and len(splits) > 1:
        raise UserError(
            f"{folder} has split folders ({join_names(sorted(splits.values()))}), but other "
            f"classes do not: lay out all classes alike, or move the images out of these folders"
        )


# --------------------------------------------------------------------------- one level too many


@dataclass(frozen=True)
class Branch:
    """A class folder.

    Attributes:
        name: the folder's name.
        own: whether images are directly in it.
        inner: names of the folders in it that contain images; a single folder that contains all
            the others is skipped.
    """

    name: str
    own: bool
    inner: frozenset[str]


def describe_branch(folder: Path, parts: Iterable[Path]) -> Branch:
    """Describe a class folder.

    Args:
        folder: the class folder.
        parts: the folders at and below ``folder`` that directly contain images.
    """
    below = [part.relative_to(folder).parts for part in parts]
    while len(below) and all(len(path) > 1 for path in below) and len({p[0] for p in below}) == 1:
        below = [path[1:] for path in below]
    return Branch(folder.name, () in below, frozenset(path[0] for path in below if path))


def refuse_levels(folder: Path, branches: Sequence[Branch], keys: Keys) -> None:
    """Raise UserError if the folders in ``folder`` are not classes, or may not be.

    This is the case if most of them contain folders with the same names, as splits, folds, years
    and cameras do, or if one contains folders named like the classes beside it.
    """
    names = {branch.name.casefold() for branch in branches}
    for each in branches:
        beside = sorted(n for n in each.inner if n.casefold() in names - {each.name.casefold()})
        if beside and 2 * len(beside) >= len(each.inner):
            raise UserError(
                f"{folder / each.name} contains folders named like classes beside it "
                f"({join_names(beside)}): move it out of {folder}{_mention_masks([each.name])}, "
                f'or, if it is a class, set "{keys.pattern}={_UPPER}"'
            )
    nested = [branch for branch in branches if branch.inner and not branch.own]
    counts = Counter(name.casefold() for branch in nested for name in branch.inner)
    shared = sorted(name for name, count in counts.items() if count > 1)
    if len(counts) < 2 or 2 * len(shared) < len(counts) or 2 * len(nested) <= len(branches):
        return
    inner = sorted({n for branch in nested for n in branch.inner if n.casefold() in set(shared)})
    upper = [branch.name for branch in nested]
    raise UserError(
        f"{join_names(upper)} in {folder} contain the same folders "
        f'({join_names(inner)}): set "{keys.pattern}={_LOWER}" if these are classes, '
        f'"{keys.pattern}={_UPPER}" if the outer are; name splits train, validation, test'
        f"{_mention_masks(upper + inner)}"
    )


_MASKS = re.compile(r"(?i)mask|segment|trimap|annotation|ground.?truth|\blabels?\b")


def _mention_masks(names: Iterable[str]) -> str:
    name = next((name for name in names if _MASKS.search(name)), None)
    return f" (if {name}/ contains masks, set data.masks to it)" if name else ""


# ------------------------------------------------------------------------------------- mirrors


def find_mirrors(parts: Sequence[tuple[Path, list[str]]]) -> list[tuple[Path, int]]:
    """Return the folders in a class whose images are named like others there, with their counts.

    Smaller copies and masks are often stored this way. Names are compared without suffixes, and
    without what all names of a folder begin or end with (thumb_1, 1_small). Plain numbers that
    sibling folders share mean nothing: each folder may number its own images.

    Args:
        parts: (folder, names of images directly in it), each folder before its sub-folders.
    """
    if len(parts) < 2:
        return []
    earlier: set[str] = set()
    of_folder: dict[Path, set[str]] = {}
    mirrors = []
    for part, names in parts:
        if not names:
            continue
        stems, forms = _strip_shared_letters(names)
        pools = [of_folder[above] for above in part.parents if above in of_folder]
        if not all(form.isdecimal() for form in forms):
            pools.append(earlier)
        alike = [
            sum(any(form in pool for pool in pools) for form in each) for each in (stems, forms)
        ]
        if 10 * max(alike) >= 9 * len(names):
            mirrors.append((part, len(names)))
        of_folder[part] = stems | forms
        earlier |= of_folder[part]
    return mirrors


def _strip_shared_letters(names: Sequence[str]) -> tuple[set[str], set[str]]:
    """Return names without suffix, and names without what they all begin and end with."""
    stems = {os.path.splitext(name)[0].casefold() for name in names}
    if len(stems) < 2:
        return stems, stems
    start = _count_shared_letters(list(stems))
    stop = _count_shared_letters([stem[::-1] for stem in stems])
    return stems, {stem[start : len(stem) - stop] or stem for stem in stems}


def _count_shared_letters(names: Sequence[str]) -> int:
    """Return the length of the names' common beginning, up to its last word separator."""
    beginning = os.path.commonprefix(names)  # noqa: RUF071  (letters are meant, not folders)
    return max(beginning.rfind(mark) for mark in "-_. @(") + 1
