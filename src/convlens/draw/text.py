"""Lettering: fonts, names made printable, lines shortened or wrapped to a width in pixels.

The font is DejaVu Sans, which every Matplotlib brings along: the same letters on every machine,
the same as in the charts, with Latin, Greek and Cyrillic (Pillow's own font knows ASCII only).
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache
from pathlib import Path

from PIL import ImageFont

SMALL, BODY, TITLE = 11, 12, 15  # letter sizes in pixels; nothing is ever written smaller

_LONGEST = 1000  # characters looked at; no panel shows as many
_ELLIPSIS = "…"


def _font_file(bold: bool) -> Path:
    import matplotlib  # only where text is drawn: importing convlens.draw stays quick

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name


@lru_cache(maxsize=32)
def font(size: int = BODY, bold: bool = False) -> ImageFont.FreeTypeFont:
    """The font of all panels at ``size`` pixels (Pillow's own if Matplotlib came without fonts)."""
    try:
        return ImageFont.truetype(str(_font_file(bold)), size)
    except OSError:
        return ImageFont.load_default(size=size)


@lru_cache(maxsize=1)
def _known_characters() -> frozenset[str]:
    """The characters that have a glyph in both the regular and the bold font."""
    try:
        from matplotlib.ft2font import FT2Font

        maps = [FT2Font(str(_font_file(bold))).get_charmap() for bold in (False, True)]
    except (ImportError, OSError, RuntimeError):
        return frozenset(map(chr, range(0x20, 0x7F)))
    return frozenset(chr(code) for code in maps[0].keys() & maps[1].keys())


@lru_cache(maxsize=4096)
def printable(text: str) -> str:
    """``text`` on one line, with what the font cannot show written as its code.

    Two Chinese class names must not both become rows of empty boxes, hence ``\\u72d7`` for a
    character without a glyph. Line breaks and tabs become blanks; control characters vanish.

    >>> printable("caf\\u00e9\\n\\u72d7")
    'café \\\\u72d7'
    """
    shown = []
    for character in unicodedata.normalize("NFC", str(text)[:_LONGEST]):
        if character.isspace():
            shown.append(" ")
        elif unicodedata.category(character) in ("Cc", "Cf"):
            continue
        elif character in _known_characters():
            shown.append(character)
        else:
            shown.append(f"\\u{ord(character):04x}")
    return " ".join("".join(shown).split())


def dimensions(*sizes: int) -> str:
    """Sizes with multiplication signs between them, such as 7 by 7."""
    return "\N{MULTIPLICATION SIGN}".join(map(str, sizes))


@lru_cache(maxsize=4096)
def text_width(text: str, size: int = BODY, bold: bool = False) -> int:
    """Pixels that ``text`` (already printable) needs from left to right, rounded up."""
    letters = font(size, bold)
    left, _, right, _ = letters.getbbox(text)
    return int(max(right, letters.getlength(text)) - min(left, 0)) + 1


def line_height(size: int = BODY) -> int:
    """Pixels from one line to the next; ascenders and descenders fit in."""
    return round(size * 1.4)


def shorten(text: str, width: int, size: int = BODY, bold: bool = False) -> str:
    """``text`` made printable and, where it is wider than ``width`` pixels, cut to end in ``…``.

    Empty where not even the ellipsis fits.
    """
    text = printable(text)
    if text_width(text, size, bold) <= width:
        return text
    low, high = -1, len(text)  # the longest prefix that fits, by halving; -1: not even none
    while high - low > 1:
        middle = (low + high) // 2
        fits = text_width(text[:middle].rstrip() + _ELLIPSIS, size, bold) <= width
        low, high = (middle, high) if fits else (low, middle)
    return "" if low < 0 else text[:low].rstrip() + _ELLIPSIS


def shorten_path(path: str, width: int, size: int = BODY, bold: bool = False) -> str:
    """A layer's path no wider than ``width`` pixels: its end says most, so its start is cut."""
    path = printable(path)
    if text_width(path, size, bold) <= width:
        return path
    parts = path.split(".")
    for first in range(1, len(parts)):
        tail = _ELLIPSIS + ".".join(parts[first:])
        if text_width(tail, size, bold) <= width:
            return tail
    return shorten(parts[-1], width, size, bold)


def wrap(text: str, width: int, size: int = BODY, bold: bool = False, most: int = 3) -> list[str]:
    """``text`` broken at blanks into at most ``most`` lines no wider than ``width`` pixels.

    What is left over ends the last line with ``…``; a single word that is too wide is shortened.
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
