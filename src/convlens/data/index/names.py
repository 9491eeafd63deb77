"""One name in two spellings: composed letters (é, NFC), or letters and their marks (e and ´, NFD).

People and most systems write the first; macOS and archives made there use the second. Both look the
same and are the same name.
"""

from __future__ import annotations

import contextlib
import os
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from convlens.core.errors import UserError


def normalise_name(name: str) -> str:
    """Return the name in composed spelling, which comparisons and class names use.

    >>> normalise_name("cafe" + chr(0x301)) == "caf" + chr(0xE9)
    True
    """
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def is_same_name(one: str, other: str) -> bool:
    """Return whether both are one name, in either spelling."""
    return one == other or normalise_name(one) == normalise_name(other)


def find_name(name: str, names: Iterable[str]) -> int | None:
    """Return the position of ``name`` in ``names``, in either spelling; None if it is absent."""
    return next((place for place, each in enumerate(names) if is_same_name(name, each)), None)


def find_on_disk(path: Path, known: dict[Path, dict[str, list[str]]] | None = None) -> Path:
    """Return the path as the file system spells it; unchanged if no such file exists.

    Args:
        path: a file or folder, in any spelling of its parts.
        known: contents of folders, kept over many calls so that each folder is listed once.

    Raises:
        UserError: two files have this name, both spelled differently from the given one.
    """
    if str(path).isascii() or os.path.lexists(path):
        return path
    known = {} if known is None else known
    resolved = Path()
    for part in path.parts:
        if part.isascii() or os.path.lexists(resolved / part):
            resolved /= part
            continue
        if resolved not in known:
            known[resolved] = _group_by_composed_name(resolved)
        spellings = known[resolved].get(normalise_name(part))
        if not spellings:
            return path
        if len(spellings) > 1:
            raise UserError(
                f"{resolved} contains {len(spellings)} entries called {part} that spell accents "
                f"differently, and {path} may be any of them: rename one"
            )
        resolved /= spellings[0]
    return resolved


def _group_by_composed_name(folder: Path) -> dict[str, list[str]]:
    names: dict[str, list[str]] = {}
    with contextlib.suppress(OSError):  # no such folder, so no such name
        for name in os.listdir(folder):
            names.setdefault(normalise_name(name), []).append(name)
    return names
