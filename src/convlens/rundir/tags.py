"""The files of pictures by their tags, with names that every system allows.

A layer may be called ``aux``, which is a device on Windows, or contain a colon. Such characters
become ``%`` and their two hexadecimal digits, as in addresses; all other names stay as they are.
"""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

SUFFIX = ".jpg"
# names that Windows reserves for devices, with any suffix:
# Microsoft, "Naming Files, Paths, and Namespaces"
_DEVICE = re.compile(
    r"(?:con|prn|aux|nul|conin\$|conout\$|(?:com|lpt)[0-9¹²³])(?= *(?:\.|$))", re.IGNORECASE
)
# characters that Windows refuses, the % of such escapes, and dots or spaces at an end
_REFUSED = re.compile(r'[\x00-\x1f<>:"\\|?*]|%(?=[0-9A-Fa-f]{2})|[. ]+$')


def find_picture(folder: Path, tag: str) -> Path:
    """Return the file of the picture ``tag`` in a folder.

    >>> find_picture(Path("looks"), "activations/aux/00_cat").as_posix()
    'looks/activations/%61ux/00_cat.jpg'
    """
    return folder.joinpath(*map(_escape_name, f"{tag}{SUFFIX}".split("/")))


def read_tag(folder: Path, file: Path) -> str:
    """Return the tag of a picture file below a folder.

    >>> read_tag(Path("looks"), Path("looks/activations/%61ux/00_cat.jpg"))
    'activations/aux/00_cat'
    """
    return unquote(file.relative_to(folder).as_posix().removesuffix(SUFFIX))


def _escape_name(name: str) -> str:
    name = _REFUSED.sub(lambda found: "".join(map(_escape, found[0])), name)
    return f"{_escape(name[0])}{name[1:]}" if _DEVICE.match(name) else name


def _escape(character: str) -> str:
    return f"%{ord(character):02X}"
