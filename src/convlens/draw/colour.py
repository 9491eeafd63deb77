"""Colour maps with a colour table, blend heat over an image, and draw colour bars."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from convlens.draw.canvas import Label, blank, vstack, write_labels
from convlens.draw.palette import GREY, MUTED
from convlens.draw.picture import Array, as_array
from convlens.draw.text import SMALL, line_height, printable, shorten, text_width

HEAT = "inferno"  # dark to bright: lightness rises too, so it also works in greyscale
DIVERGING = "coolwarm"  # blue, grey at zero (white would vanish in the background), red
GREYS = "gray"  # black to white
_COVER = 0.75  # fraction of the image that the strongest heat covers
FINE = 32  # shorter edge from which a map is fine: a few pixels could take up the scale
_PERCENTILE = 99.5  # of the magnitudes of a fine map


@lru_cache(maxsize=16)
def colour_table(name: str) -> np.ndarray:
    """Return Matplotlib's colormap ``name`` as 256 colours, uint8 ``(256, 3)``, read-only."""
    import matplotlib

    colours = matplotlib.colormaps[name](np.arange(256), bytes=True)
    entries = np.ascontiguousarray(colours[:, :3])
    entries.setflags(write=False)
    return entries


def rescale(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Map ``values`` from [low, high] to [0, 1] and clip them; zero if the range is empty."""
    if not high > low:
        return np.zeros(values.shape, np.float32)
    unit = (values.astype(np.float64) - float(low)) / (float(high) - float(low))
    return unit.clip(0, 1).astype(np.float32)


def find_full_colour_value(maps: np.ndarray) -> float:
    """Return the magnitude at which signed maps ``(…, h, w)`` reach full colour.

    That is the largest magnitude. For fine maps, where a few pixels would otherwise take up the
    whole scale, it is the 99.5th percentile.
    """
    sizes = np.abs(maps)
    largest = float(sizes.max())
    if min(maps.shape[-2:]) < FINE:
        return largest
    # "higher" returns a value that occurs, so maps of a few large patches keep their largest
    return float(np.percentile(sizes, _PERCENTILE, method="higher")) or largest


def colourise(map: Array, name: str = "viridis", low: float = 0, high: float = 1) -> np.ndarray:
    """Colour a map ``(H, W)`` (or any shape ``S``) with a colour table, uint8 ``(*S, 3)``.

    ``low`` gets the first colour of the table and ``high`` the last. Values outside are clipped,
    NaN is grey. If ``high`` is not above ``low``, everything gets the first colour.
    """
    values = as_array(map)
    missing = np.isnan(values)
    levels = rescale(np.where(missing, low, values), low, high)
    colours = colour_table(name).take(np.rint(levels * 255).astype(np.uint8), axis=0)
    colours[missing] = GREY
    return colours


def colourise_signed(map: Array, high: float) -> np.ndarray:
    """Colour a map blue below zero, grey at zero and red above, in full colour at ``±high``."""
    end = high if high > 0 else 1.0  # zero everywhere
    return colourise(map, DIVERGING, -end, end)


def blend(picture: np.ndarray, colours: np.ndarray, cover: np.ndarray) -> np.ndarray:
    """Blend ``colours`` over a picture of the same size; a higher ``cover`` hides more of it.

    A pixel is ``(1 - a) · picture + a · colour`` with ``a = 0.75 · cover``.
    """
    cover = (_COVER * cover)[..., None]
    mixed = (1 - cover) * picture + cover * colours
    return np.rint(mixed).clip(0, 255).astype(np.uint8)


def colour_bar(
    width: int, low: str, high: str, *, name: str = "viridis", lead: str = ""
) -> np.ndarray:
    """Draw one line ``lead  low ▭▭▭ high``: a colour table and the values at its two ends.

    The strip fills the room that the words leave. If that is less than 20 pixels, only ``low …
    high`` is written.
    """
    height = line_height(SMALL)
    words = [printable(word) for word in (lead, low, high)]
    widths = [text_width(word, SMALL) if word else 0 for word in words]
    start = widths[0] + 10 if lead else 0
    left, right = start + widths[1] + 5, width - widths[2] - 5
    bar, middle = blank(height, width), height // 2
    if right - left < 20:
        text = shorten(f"{words[0]} {words[1]} … {words[2]}", width, SMALL)
        return write_labels(bar, [Label(0, middle, text, MUTED, SMALL)])
    bar[middle - 4 : middle + 4, left:right] = colourise(np.linspace(0, 1, right - left), name)
    places = (0, "lm"), (start, "lm"), (width, "rm")
    labels = [
        Label(x, middle, word, MUTED, SMALL, anchor=anchor)
        for word, (x, anchor) in zip(words, places, strict=True)
    ]
    return write_labels(bar, labels)


def add_colour_bar(
    picture: np.ndarray, low: str, high: str, *, name: str, lead: str = ""
) -> np.ndarray:
    """Place a ``colour_bar`` of about the same width above ``picture``."""
    width = min(320, max(picture.shape[1], 180))
    return vstack([colour_bar(width, low, high, name=name, lead=lead), picture], gap=6)


def format_number(value: float) -> str:
    """Format a number for a label, with three significant digits.

    >>> format_number(0.12345), format_number(0), format_number(-1234567.0)
    ('0.123', '0', '-1.23e+06')
    """
    return f"{value:.3g}" if value else "0"
