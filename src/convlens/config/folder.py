"""The folders that contain config groups: our own, and the user's ``config_dir=DIR``."""

from __future__ import annotations

import re
import sys
from importlib import resources
from pathlib import Path

from convlens.core.errors import UserError

WORD = "config_dir"


def take_folder(words: list[str]) -> tuple[Path | None, list[str]]:
    """Return the folder of ``config_dir=DIR``, or None, and the other words.

    The folder is also appended to Python's search path, so that modules in it can be imported.

    Raises:
        UserError: there is no such folder.
    """
    folder, others = None, []
    for word in words:
        key, equals, text = word.partition("=")
        if key != WORD or not equals:
            others.append(word)
            continue
        folder = Path(text).expanduser().absolute()
        if not folder.is_dir():
            raise UserError(
                f"{word}: there is no such folder; name one that contains groups, such as "
                f"model/NAME.yaml"
            )
        if str(folder) not in sys.path:
            sys.path.append(str(folder))
    return folder, others


def search_path(folder: Path | None) -> list[str]:
    """Return the overrides that make Hydra search the folder too, after our own configs."""
    if folder is None:
        return []
    # Hydra takes the path literally: no % escapes, and slashes on Windows, too
    quoted = re.sub(r"(\\*)('|$)", _escape_quote, folder.as_posix())
    return [f"hydra.searchpath=['file://{quoted}']"]


def _escape_quote(found: re.Match) -> str:
    """Double the backslashes before a quote or the end; Hydra takes all others literally."""
    return 2 * found[1] + found[2].replace("'", "\\'")


def list_groups(folder: Path | None = None) -> dict[str, list[str]]:
    """Return the config groups and the choices in each: ``{"data": ["cifar10", …], …}``.

    Args:
        folder: the user's folder, whose groups are included.
    """
    choices: dict[str, list[str]] = {}
    for root in filter(None, (Path(str(resources.files("convlens.configs"))), folder)):
        for file in sorted(root.rglob("*.yaml")):
            group, _, name = file.relative_to(root).with_suffix("").as_posix().partition("/")
            if name and name != "base" and name not in choices.setdefault(group, []):
                choices[group].append(name)
    return choices
