"""One name in two spellings: composed letters (é, NFC) or letters with their marks (e and ´, NFD).

People and most systems write the first, macOS and what was packed there the second. They look the
same, and are the same name.
"""

from __future__ import annotations

import contextlib
import os
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from convlens.core.errors import UserError


def normalise_name(name: str) -> str:
    """The name in its composed spelling, in which names are compared and classes are called.

    >>> normalise_name("cafe" + chr(0x301)) == "caf" + chr(0xE9)
    True
    """
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def is_same_name(one: str, other: str) -> bool:
    """Whether both are one name, whichever spelling either has."""
    return one == other or normalise_name(one) == normalise_name(other)


def find_name(name: str, names: Iterable[str]) -> int | None:
    """Where ``name`` stands among ``names``, whichever spelling either has; None if it does not."""
    return next((place for place, each in enumerate(names) if is_same_name(name, each)), None)


def find_on_disk(path: Path, known: dict[Path, dict[str, list[str]]] | None = None) -> Path:
    """The path as the file system spells it; as it is where nothing of that name is there.

    Args:
        path: a file or folder, in any spelling of its parts.
        known: what was found in folders; kept over many calls, each folder is listed once.

    Raises:
        UserError: two files of this name in other spellings than the one that was given.
    """
    if str(path).isascii() or os.path.lexists(path):
        return path
    known = {} if known is None else known
    found = Path()
    for part in path.parts:
        if part.isascii() or os.path.lexists(found / part):
            found /= part
            continue
        if found not in known:
            known[found] = _by_composed_name(found)
        spellings = known[found].get(normalise_name(part))
        if not spellings:
            return path
        if len(spellings) > 1:
            raise UserError(
                f"{found} holds {len(spellings)} entries called {part}, in several spellings of "
                f"its accents, and {path} may mean any of them: rename one"
            )
        found /= spellings[0]
    return found


def _by_composed_name(folder: Path) -> dict[str, list[str]]:
    names: dict[str, list[str]] = {}
    with contextlib.suppress(OSError):  # no folder: nothing of that name is there
        for name in os.listdir(folder):
            names.setdefault(normalise_name(name), []).append(name)
    return names
