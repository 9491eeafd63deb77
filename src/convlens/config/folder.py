"""A person's own folder of configs, ``config_dir=DIR``, beside ours in Hydra's search path."""

from __future__ import annotations

import sys
from importlib import resources
from pathlib import Path

from convlens.core.errors import UserError

WORD = "config_dir"


def take_folder(words: list[str]) -> tuple[Path | None, list[str]]:
    """The folder that ``config_dir=`` names, and the other words.

    Modules that lie in it can be imported from then on, behind all others.

    Raises:
        UserError: there is no such folder.
    """
    folder, left = None, []
    for word in words:
        key, equals, text = word.partition("=")
        if key != WORD or not equals:
            left.append(word)
            continue
        folder = Path(text).expanduser().absolute()
        if not folder.is_dir():
            raise UserError(f"{word}: there is no such folder; it holds groups, as model/NAME.yaml")
        if str(folder) not in sys.path:
            sys.path.append(str(folder))
    return folder, left


def search_path(folder: Path | None) -> list[str]:
    """What Hydra has to be told to look there too, behind our own configs."""
    if folder is None:
        return []
    quoted = folder.as_uri().replace("\\", "\\\\").replace("'", "\\'")
    return [f"hydra.searchpath=['{quoted}']"]


def list_groups(folder: Path | None = None) -> dict[str, list[str]]:
    """Config groups and the names one can choose in each: ``{"data": ["cifar10", …], …}``."""
    found: dict[str, list[str]] = {}
    for root in filter(None, (Path(str(resources.files("convlens.configs"))), folder)):
        for file in sorted(root.rglob("*.yaml")):
            group, _, name = str(file.relative_to(root).with_suffix("")).partition("/")
            if name and name != "base" and name not in found.setdefault(group, []):
                found[group].append(name)
    return found
