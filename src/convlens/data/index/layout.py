"""What the folders of a data set stand for: splits, classes, or neither that could be known.

Names that are usual tell a split. Where folders are arranged as splits, folds, years or cameras
are, and their names do not tell, nothing is guessed: it is refused, with the keys that say it.
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

_LOWER = "*/{class}/*"  # patterns that say which folders are the classes
_UPPER = "{class}/*"


def find_split_folders(
    root: Path, walk: Walk, keys: Keys, nested: bool, for_test: bool = False
) -> dict[str, Path]:
    """``{"train": folder, …}`` in the order of SPLITS, or {} if ``root`` is not split.

    ``nested``: split folders hold class folders; without, the images themselves.
    ``for_test``: nothing is trained on them, and train/ may lack.
    """
    folders, _ = walk.look(root)
    roles = _roles([folder.name for folder in folders])
    found: dict[str, Path] = {}
    for folder in folders:
        split = roles[folder.name]
        if split in found:
            raise UserError(f"{found[split]} and {folder} are both the {split} split: keep one")
        if split in SPLITS:
            found[split] = folder
    either = [folder for folder in folders if roles[folder.name] == HELD_OUT]
    others = [folder for folder in folders if roles[folder.name] is None]
    holding = [*found.values(), *either]
    if not holding or (nested and others and not any(walk.look(f)[0] for f in holding)):
        return {}  # class folders, one of which happens to be called "train" or "test"
    if "train" not in found and not for_test:
        raise UserError(
            f"{root} has {holding[0].name}/ but no train/ folder: make one for the "
            f"training images, or point {keys.directory} at a folder of class folders"
        )
    _place_held_out(found, either, for_test)
    for other in others:
        lost = next(Walk(other).pictures(other), None)
        if lost is not None:
            raise UserError(
                f"{other} holds images ({lost.name}) but lies beside "
                f"{found.get('train', holding[0]).name}/ and "
                f"belongs to no split: move it out of {root}"
            )
    return {split: found[split] for split in SPLITS if split in found}


def _roles(names: Sequence[str]) -> dict[str, str | None]:
    """The split that each name tells, also behind what all of them begin with (seg_train)."""
    lead = _shared_letters(names) if len(names) > 1 else 0
    return {name: parse_split(name) or parse_split(name[lead:]) for name in names}


def _place_held_out(found: dict[str, Path], either: Sequence[Path], for_test: bool) -> None:
    """``eval/`` or ``holdout/`` is the one that is lacking of validation and test.

    Where nothing is trained and chosen it may be any of them.
    """
    lacking = [split for split in ("test", "validation") if split not in found]
    if len(either) == len(lacking) == 1 or (for_test and len(either) <= len(lacking)):
        found.update(zip(lacking, either, strict=False))
    elif either:
        raise UserError(
            f"{either[0]} may hold validation or test images: call it validation/ or test/"
        )


def find_classes(folder: Path, walk: Walk) -> Path:
    """``folder``, or where its class folders lie: below a single one that holds all of it.

    A split of a single class is none, so that a single folder of folders is no class.
    """
    inner, strays = walk.look(folder)
    while len(inner) == 1 and not strays and walk.look(inner[0])[0] and not walk.look(inner[0])[1]:
        folder = inner[0]
        inner, strays = walk.look(folder)
    return folder


def are_splits_in_classes(classes: Sequence[Path], walk: Walk) -> bool:
    """Whether every class folder holds split folders and nothing else: cats/train, cats/test, …"""
    return len(classes) > 1 and all(_is_split(folder, walk) for folder in classes)


def _is_split(folder: Path, walk: Walk) -> bool:
    """Whether a folder holds two or more split folders of images, train/ among them."""
    inner, loose = walk.look(folder)
    splits = [parse_split(part.name) for part in inner]
    if loose or len(inner) < 2 or "train" not in splits or not set(splits) <= set(SPLITS):
        return False
    return len(set(splits)) == len(splits) and not any(walk.look(part)[0] for part in inner)


def refuse_data_set(folder: Path, parts: Iterable[Path], keys: Keys) -> None:
    """Raises UserError where a class folder is split itself; ``parts``: the folders in it."""
    below = [part.relative_to(folder).parts for part in parts]
    if any(len(path) > 1 and parse_split(path[0]) == "train" for path in below):
        raise UserError(
            f"{folder} is a data set of its own, with train/, not a class: "
            f"did you mean {keys.directory}={folder}?"
        )
    splits = {parse_split(path[0]): path[0] for path in below if path and parse_split(path[0])}
    if "train" in splits and len(splits) > 1:
        raise UserError(
            f"{folder} is split, into {join_names(sorted(splits.values()))}, but other classes are "
            f"not: lay out all classes the same way, or move the images out of these folders"
        )


# --------------------------------------------------------------------------- one level too much


@dataclass(frozen=True)
class Branch:
    """A class folder as it lies: ``own`` tells of images directly in it, ``inner`` names its
    folders that hold images. A single folder around all the others does not count."""

    name: str
    own: bool
    inner: frozenset[str]


def describe_branch(folder: Path, parts: Iterable[Path]) -> Branch:
    """``parts``: the folders below ``folder``, and itself, that directly hold images."""
    below = [part.relative_to(folder).parts for part in parts]
    while len(below) and all(len(path) > 1 for path in below) and len({p[0] for p in below}) == 1:
        below = [path[1:] for path in below]
    return Branch(folder.name, () in below, frozenset(path[0] for path in below if path))


def refuse_levels(folder: Path, branches: Sequence[Branch], keys: Keys) -> None:
    """Raises UserError where the folders in ``folder`` are no classes, or might not be.

    Most of them hold folders of the same names, as splits, folds, years and cameras do; or one
    holds folders named like the classes beside it.
    """
    names = {branch.name.casefold() for branch in branches}
    for each in branches:
        beside = sorted(n for n in each.inner if n.casefold() in names - {each.name.casefold()})
        if beside and 2 * len(beside) >= len(each.inner):
            raise UserError(
                f"{folder / each.name} holds folders named like classes beside it, "
                f"{join_names(beside)}: move it out of {folder}{_masks([each.name])}, "
                f"or, if it is a class of its own, "
                f'set "{keys.pattern}={_UPPER}"'
            )
    nested = [branch for branch in branches if branch.inner and not branch.own]
    counts = Counter(name.casefold() for branch in nested for name in branch.inner)
    shared = sorted(name for name, count in counts.items() if count > 1)
    if len(counts) < 2 or 2 * len(shared) < len(counts) or 2 * len(nested) <= len(branches):
        return
    inner = sorted({n for branch in nested for n in branch.inner if n.casefold() in set(shared)})
    raise UserError(
        f"{len(nested)} folders in {folder}, {join_names(b.name for b in nested)}, hold folders of "
        f"the same names, {join_names(inner)}: if those are the classes, set "
        f'"{keys.pattern}={_LOWER}" to take all together, or rename the upper folders to train, '
        f'validation and test; if the upper folders are the classes, set "{keys.pattern}={_UPPER}"'
        f"{_masks([b.name for b in nested] + inner)}"
    )


_MASKS = re.compile(r"(?i)mask|segment|trimap|annotation|ground.?truth|\blabels?\b")


def _masks(names: Iterable[str]) -> str:
    found = next((name for name in names if _MASKS.search(name)), None)
    return f" (if {found}/ holds masks, give them as data.masks)" if found else ""


# ------------------------------------------------------------------------------------- mirrors


def find_mirrors(parts: Sequence[tuple[Path, list[str]]]) -> list[tuple[Path, int]]:
    """Folders in a class whose files are named like others of it, and how many they hold.

    parts  (folder, names of images directly in it), a folder before those in it

    Smaller copies and masks lie so. Names are compared without suffixes, and without what all
    names of a folder begin or end with (thumb_1, 1_small). Between folders side by side mere
    numbers say nothing: each may number its own images.
    """
    if len(parts) < 2:
        return []
    earlier: set[str] = set()
    of_folder: dict[Path, set[str]] = {}
    found = []
    for part, names in parts:
        if not names:
            continue
        stems, forms = _forms(names)
        pools = [of_folder[above] for above in part.parents if above in of_folder]
        if not all(form.isdecimal() for form in forms):
            pools.append(earlier)
        alike = [
            sum(any(form in pool for pool in pools) for form in each) for each in (stems, forms)
        ]
        if 10 * max(alike) >= 9 * len(names):
            found.append((part, len(names)))
        of_folder[part] = stems | forms
        earlier |= of_folder[part]
    return found


def _forms(names: Sequence[str]) -> tuple[set[str], set[str]]:
    """Names without suffix; and those without what they all begin and end with."""
    stems = {os.path.splitext(name)[0].casefold() for name in names}
    if len(stems) < 2:
        return stems, stems
    start = _shared_letters(list(stems))
    stop = _shared_letters([stem[::-1] for stem in stems])
    return stems, {stem[start : len(stem) - stop] or stem for stem in stems}


def _shared_letters(names: Sequence[str]) -> int:
    """How many letters all names begin with, up to and with the last one that parts words."""
    beginning = os.path.commonprefix(names)  # noqa: RUF071  (letters are meant, not folders)
    return max(beginning.rfind(mark) for mark in "-_. @(") + 1
