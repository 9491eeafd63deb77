"""Maps in colour: a map through a table, heat laid over an image, the bar that explains it."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from convlens.draw.canvas import Label, blank, vstack, write_labels
from convlens.draw.palette import GREY, MUTED
from convlens.draw.picture import Array, as_array, resize, to_uint8
from convlens.draw.text import SMALL, line_height, printable, shorten, text_width

HEAT = "inferno"  # dark to bright: grows in lightness too, so it survives grey printing
DIVERGING = "coolwarm"  # blue, grey at zero (white would melt into the background), red
_COVER = 0.75  # of the image below the strongest heat
_FINE = 32  # edge of a map from which on single values may stick out
_PERCENTILE = 99.5  # of a fine map's magnitudes


@lru_cache(maxsize=16)
def colour_table(name: str) -> np.ndarray:
    """Matplotlib's colormap ``name`` as 256 colours, uint8 ``(256, 3)``, read-only."""
    import matplotlib

    colours = matplotlib.colormaps[name](np.arange(256), bytes=True)
    entries = np.ascontiguousarray(colours[:, :3])
    entries.setflags(write=False)
    return entries


def rescale(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """``values`` brought from [low, high] to [0, 1] and clipped; zero where there is no range."""
    if not high > low:
        return np.zeros(values.shape, np.float32)
    parts = (values.astype(np.float64) - float(low)) / (float(high) - float(low))
    return parts.clip(0, 1).astype(np.float32)


def full_colour_value(maps: np.ndarray) -> float:
    """The magnitude that signed maps ``(…, h, w)`` show in full colour.

    That is the largest. Of fine maps, where a few pixels would else take all the colour, it is the
    99.5th percentile of the magnitudes.
    """
    sizes = np.abs(maps)
    largest = float(sizes.max())
    if min(maps.shape[-2:]) < _FINE:
        return largest
    # "higher": a value that occurs, so that maps of a few large patches keep their largest
    return float(np.percentile(sizes, _PERCENTILE, method="higher")) or largest


def colourise(map: Array, name: str = "viridis", low: float = 0, high: float = 1) -> np.ndarray:
    """A map ``(H, W)`` (or any shape ``S``) as colours of a table, uint8 ``(*S, 3)``.

    ``low`` gets the table's first colour and ``high`` its last; values beyond are clipped, NaN is
    grey. Where ``high`` is not above ``low`` everything gets the first colour.
    """
    values = as_array(map)
    missing = np.isnan(values)
    levels = rescale(np.where(missing, low, values), low, high)
    colours = colour_table(name).take(np.rint(levels * 255).astype(np.uint8), axis=0)
    colours[missing] = GREY
    return colours


def colourise_signed(map: Array, high: float) -> np.ndarray:
    """A map as blue below zero, grey at zero and red above, in full colour at ``±high``."""
    end = high if high > 0 else 1.0  # zero everywhere
    return colourise(map, DIVERGING, -end, end)


def overlay(image: Array, map: Array, *, high: float = 1) -> np.ndarray:
    """Heat on an image, uint8 ``(H, W, 3)``: the higher the map, the more heat covers.

    ``image`` is ``(C, H, W)`` as for :func:`to_uint8`, or a picture already drawn (numpy uint8
    ``(H, W, 3)``). ``map`` is ``(h, w)``, brought to the image's size bilinearly, with values
    from 0 to ``high``. A pixel is ``(1 - a) · image + a · heat`` with ``a = 0.75 · value``: at 0
    and where the map is NaN the image shows untouched.
    """
    drawn = isinstance(image, np.ndarray) and image.dtype == np.uint8
    picture = image if drawn and image.shape[-1] == 3 else to_uint8(image)
    values = np.nan_to_num(rescale(as_array(map), 0, high), nan=0.0)
    values = resize(values, picture.shape[:2], "bilinear").clip(0, 1)
    return blend(picture, colourise(values, HEAT), values)


def blend(picture: np.ndarray, colours: np.ndarray, cover: np.ndarray) -> np.ndarray:
    """``colours`` over a picture of their size; they cover the more the higher ``cover`` is."""
    cover = (_COVER * cover)[..., None]
    mixed = (1 - cover) * picture + cover * colours
    return np.rint(mixed).clip(0, 255).astype(np.uint8)


def colour_bar(
    width: int, low: str, high: str, *, name: str = "viridis", lead: str = ""
) -> np.ndarray:
    """One line ``lead  low ▭▭▭ high``: a table with what its two ends mean, ``width`` wide.

    The strip takes the room the words leave; where less than 20 pixels are left, only
    ``low … high`` is written.
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


def add_colour_bar(picture: np.ndarray, low: str, high: str, *, name: str) -> np.ndarray:
    """``picture`` below a :func:`colour_bar` of about its width."""
    width = min(260, max(picture.shape[1], 180))
    return vstack([colour_bar(width, low, high, name=name), picture], gap=6)


def format_number(value: float) -> str:
    """A number as short as a label wants it: three significant digits.

    >>> format_number(0.12345), format_number(0), format_number(-1234567.0)
    ('0.123', '0', '-1.23e+06')
    """
    return f"{value:.3g}" if value else "0"
