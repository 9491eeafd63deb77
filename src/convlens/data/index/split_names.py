"""Which split each part of a data set is, from what the parts are called."""

from __future__ import annotations

from collections.abc import Sequence

from convlens.core.errors import UserError
from convlens.data.index.folders import join_names
from convlens.data.index.labels import HELD_OUT, SPLITS
from convlens.data.index.layout import parse_roles


def match_splits(names: Sequence[str], place: str) -> dict[str, str | None]:
    """Return the split of each part of a data set.

    Args:
        names: names of the parts, such as ``train2017`` and ``val2017``.
        place: what an error calls the data set.

    Returns:
        Name to split. None: a single part whose name means no split contains all images; beside
        parts that are splits, one whose name means none is not used.

    Raises:
        UserError: two parts are the same split, or the names of several do not tell their splits.
    """
    roles = parse_roles(names)
    held_out = [name for name, split in roles.items() if split == HELD_OUT]
    missing = [split for split in ("test", "validation") if split not in roles.values()]
    if len(held_out) == len(missing) == 1:
        roles[held_out[0]] = missing[0]
    elif held_out:
        raise UserError(
            f"{held_out[0]} in {place} may be validation or test images: call it validation or test"
        )
    if len(names) > 1 and not any(roles.values()):
        raise UserError(
            f"{place} has the parts {join_names(names)}: call them train, validation and test"
        )
    for split in SPLITS:
        same = [name for name in names if roles[name] == split]
        if len(same) > 1:
            raise UserError(f"{same[0]} and {same[1]} in {place} are both the {split} split: "
                            "keep one")  # fmt: skip
    return roles
