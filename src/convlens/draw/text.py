"""Lettering: fonts, names made printable, lines shortened or wrapped to a width in pixels.

The font is DejaVu Sans, which every Matplotlib brings along: the same letters on every machine,
the same as in the charts, with Latin, Greek and Cyrillic (Pillow's own font knows ASCII only).
"""

from __future__ import annotations

import unicodedata
from bisect import bisect_left
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
    """The font of all panels at ``size`` pixels."""
    return ImageFont.truetype(str(_font_file(bold)), size)


@lru_cache(maxsize=1)
def _known_characters() -> frozenset[str]:
    """The characters that have a glyph in both the regular and the bold font."""
    from matplotlib.ft2font import FT2Font

    regular, bold = (FT2Font(str(_font_file(bold))).get_charmap() for bold in (False, True))
    return frozenset(map(chr, regular.keys() & bold.keys()))


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


def format_dimensions(*sizes: int) -> str:
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

    def overflows(letters: int) -> bool:
        return text_width(text[:letters].rstrip() + _ELLIPSIS, size, bold) > width

    longest = bisect_left(range(len(text)), True, key=overflows) - 1
    return text[:longest].rstrip() + _ELLIPSIS if longest >= 0 else ""


def shorten_path(path: str, width: int) -> str:
    """A layer's path no wider than ``width`` pixels: its end says most, so its start is cut."""
    text = printable(path)
    parts = text.split(".")
    tails = [_ELLIPSIS + ".".join(parts[start:]) for start in range(1, len(parts))]
    fitting = (each for each in (text, *tails) if text_width(each, SMALL) <= width)
    return next(fitting, None) or shorten(parts[-1], width, SMALL)


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
