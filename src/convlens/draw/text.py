"""Fonts and text: make names printable, shorten or wrap lines to a width in pixels.

The font is DejaVu Sans, which is part of Matplotlib. Text therefore looks the same on every machine
and in the charts, and may be Latin, Greek or Cyrillic (Pillow's default font has ASCII only).
"""

from __future__ import annotations

import unicodedata
from bisect import bisect_left
from functools import lru_cache
from pathlib import Path

from PIL import ImageFont

SMALL, BODY, TITLE = 11, 12, 15  # letter sizes in pixels; SMALL is the minimum

_LONGEST = 1000  # maximum number of characters; no panel has room for more
_ELLIPSIS = "…"


def _get_font_file(bold: bool) -> Path:
    import matplotlib  # imported here, so that importing convlens.draw is fast

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name


@lru_cache(maxsize=32)
def font(size: int = BODY, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Return the font of all panels at ``size`` pixels."""
    return ImageFont.truetype(str(_get_font_file(bold)), size)


@lru_cache(maxsize=1)
def _read_known_characters() -> frozenset[str]:
    """Return the characters that have a glyph in both the regular and the bold font."""
    from matplotlib.ft2font import FT2Font

    regular, bold = (FT2Font(str(_get_font_file(bold))).get_charmap() for bold in (False, True))
    return frozenset(map(chr, regular.keys() & bold.keys()))


@lru_cache(maxsize=4096)
def printable(text: str) -> str:
    """Return ``text`` on one line, with escape codes for characters that the font lacks.

    A character without a glyph becomes ``\\u72d7``, because two Chinese class names must not both
    become rows of empty boxes. Line breaks and tabs become spaces; control characters are dropped.

    >>> printable("caf\\u00e9\\n\\u72d7")
    'café \\\\u72d7'
    """
    letters = []
    for character in unicodedata.normalize("NFC", str(text)[:_LONGEST]):
        if character.isspace():
            letters.append(" ")
        elif unicodedata.category(character) in ("Cc", "Cf"):
            continue
        elif character in _read_known_characters():
            letters.append(character)
        else:
            letters.append(f"\\u{ord(character):04x}")
    return " ".join("".join(letters).split())


def format_dimensions(*sizes: int) -> str:
    """Join sizes with multiplication signs, such as 7×7."""
    return "\N{MULTIPLICATION SIGN}".join(map(str, sizes))


@lru_cache(maxsize=4096)
def text_width(text: str, size: int = BODY, bold: bool = False) -> int:
    """Return the width in pixels of a text that is already printable, rounded up."""
    letters = font(size, bold)
    left, _, right, _ = letters.getbbox(text)
    return int(max(right, letters.getlength(text)) - min(left, 0)) + 1


def line_height(size: int = BODY) -> int:
    """Return the distance between lines in pixels, with room for ascenders and descenders."""
    return round(size * 1.4)


def shorten(text: str, width: int, size: int = BODY, bold: bool = False) -> str:
    """Make ``text`` printable, and cut it to end in ``…`` if it is wider than ``width`` pixels.

    If not even the ellipsis fits, the result is empty.
    """
    text = printable(text)
    if text_width(text, size, bold) <= width:
        return text

    def overflows(letters: int) -> bool:
        return text_width(text[:letters].rstrip() + _ELLIPSIS, size, bold) > width

    longest = bisect_left(range(len(text)), True, key=overflows) - 1
    return text[:longest].rstrip() + _ELLIPSIS if longest >= 0 else ""


def shorten_middle(text: str, width: int, size: int = BODY, bold: bool = False) -> str:
    """Make ``text`` printable; if it is wider than ``width`` pixels, put ``…`` in its middle.

    If not even the ellipsis fits, the result is empty.

    >>> shorten_middle("layers.2.blocks.17.attn", 110)
    'layers.2…17.attn'
    """
    text = printable(text)
    fitting = (
        each
        for kept in range(len(text), -1, -1)
        if text_width(each := _keep_ends(text, kept), size, bold) <= width
    )
    return next(fitting, "")


def _keep_ends(text: str, kept: int) -> str:
    """Return a text of ``kept`` letters, from both of its ends, and an ellipsis if it is cut."""
    if kept == len(text):
        return text
    return text[: -(-kept // 2)] + _ELLIPSIS + text[len(text) - kept // 2 :]


def shorten_path(path: str, width: int, separator: str = ".") -> str:
    """Shorten a path to ``width`` pixels by cutting its start; layers and files differ at the end.

    Args:
        path: the path of a layer or a file.
        width: in pixels.
        separator: what divides the path into parts, ``.`` for layers and ``/`` for files.
    """
    text = printable(path)
    parts = text.split(separator)
    tails = [_ELLIPSIS + separator.join(parts[start:]) for start in range(1, len(parts))]
    fitting = (each for each in (text, *tails) if text_width(each, SMALL) <= width)
    return next(fitting, None) or shorten(parts[-1], width, SMALL)


def wrap(text: str, width: int, size: int = BODY, bold: bool = False, most: int = 3) -> list[str]:
    """Break ``text`` at spaces into lines.

    Args:
        text: The text.
        width: Maximum width of a line in pixels.
        size: Height of the letters in pixels.
        bold: Whether the text is bold.
        most: Maximum number of lines.

    Returns:
        The lines. If they do not hold all of the text, the last one ends with ``…``. A single word
        that is too wide is shortened.
    """
    words, lines = printable(text).split(" "), []
    while words and len(lines) < most - 1:
        line = words.pop(0)
        while words and text_width(f"{line} {words[0]}", size, bold) <= width:
            line = f"{line} {words.pop(0)}"
        lines.append(shorten(line, width, size, bold))
    if words:
        lines.append(shorten(" ".join(words), width, size, bold))
    return lines
