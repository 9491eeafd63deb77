"""Draw rows of maps with names, colour bars and frames, for the kernel lesson.

Legend: ``C`` channels (1 or 3), ``h w`` height and width of a map.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from convlens.draw.canvas import GAP, add_margin, hstack, text_band, vstack
from convlens.draw.colour import (
    DIVERGING,
    GREYS,
    colour_bar,
    colourise,
    colourise_signed,
    find_full_colour_value,
)
from convlens.draw.palette import INK, MUTED, Colour
from convlens.draw.picture import Array, as_array, make_legible
from convlens.draw.text import BODY, SMALL, format_dimensions, printable, text_width
from convlens.lessons.kernel.arithmetic import CHANNELS, format_value

SMALLEST, LARGEST = 240, 320  # longest edge of a picture, pixels
YELLOW: Colour = (255, 214, 0)  # of frames; the diverging colour table does not contain it
LEGENDS = {False: "blue below 0, red above", True: "black is low, white is high"}  # by is_grey
_NARROWEST = 200  # minimum width of a column in pixels: room for captions and colour bars
_FRAME = 2  # thickness of the yellow in pixels; a dark line of one pixel surrounds it
_HOLE = 4  # minimum number of pixels in a frame, so that a single place remains visible
MARGIN = _FRAME + _HOLE // 2 + 1  # around a picture, room for a frame at its edge


@dataclass(frozen=True)
class MapRow:
    """Maps of one size to be drawn side by side, each under its name.

    Attributes:
        heading: A title, such as "bias -500, activation relu".
        maps: ``(h, w)`` each, by name.
        sizes: Lines with the formulas for ``h`` and ``w``.
        at_place: Whether the place that is worked out has a frame in these maps.
        has_one_scale: Whether the maps share one scale; otherwise each has its own.
    """

    heading: str
    maps: Mapping[str, Array]
    sizes: Sequence[str] = ()
    at_place: bool = False
    has_one_scale: bool = True


@dataclass(frozen=True)
class KernelMaps:
    """Maps to be drawn side by side.

    Attributes:
        maps: ``(C, h, w)``, one for each channel.
        total: ``(h, w)``, the sum of the maps, pooled if the maps are.
        heading: A title, such as "max pooling, 2×2".
        sizes: Lines with the formulas for ``h`` and ``w``.
    """

    maps: Array
    total: Array
    heading: str
    sizes: Sequence[str]


def band(text: str, *, bold: bool = False, muted: bool = False, width: int = 0) -> np.ndarray:
    """Draw a line of text as wide as it needs, but at least ``width`` pixels."""
    size, ink = (SMALL, MUTED) if muted else (BODY, INK)
    needed = text_width(printable(text), size, bold)
    return text_band(max(width, needed), text, size=size, bold=bold, ink=ink)


def add_captions(picture: np.ndarray, above: str, *below: np.ndarray) -> np.ndarray:
    """Add a line of text above a picture, and bands below it."""
    return vstack([band(above), picture, *below], gap=2)


def frame_part(
    picture: np.ndarray, size: Sequence[int], corner: Sequence[int], edges: Sequence[int]
) -> np.ndarray:
    """Add a margin to a picture, and a yellow frame around a part of it.

    Args:
        picture: The picture, magnified or reduced.
        size: Height and width that the picture had before it was resized.
        corner: First row and column of the part, before resizing.
        edges: Height and width of the part, before resizing.
    """
    canvas = add_margin(picture, MARGIN)
    spans = []
    for now, before, start, edge in zip(picture.shape[:2], size, corner, edges, strict=True):
        first = int(start * now / before)
        last = max(first + 1, round((start + edge) * now / before))
        more = max(0, _HOLE - (last - first))
        spans.append((first - more // 2 + MARGIN, last + more - more // 2 + MARGIN))
    (top, bottom), (left, right) = spans
    inner = canvas[top:bottom, left:right].copy()
    for out, colour in ((_FRAME + 1, INK), (_FRAME, YELLOW)):
        canvas[top - out : bottom + out, left - out : right + out] = colour
    canvas[top:bottom, left:right] = inner
    return canvas


@dataclass(frozen=True)
class _Scale:
    """How values become colours: the values at the ends of the table ``name``."""

    low: float
    high: float
    name: str

    def colour(self, map: np.ndarray) -> np.ndarray:
        """Return the colours of a map, uint8 ``(h, w, 3)``; 0 everywhere is the colour of 0."""
        if self.name == DIVERGING:
            return colourise_signed(map, self.high)
        return colourise(map, self.name, self.low, self.high or 1.0)


def _choose_scale(maps: np.ndarray, is_grey: bool) -> _Scale:
    """Return the scale of maps ``(…, h, w)``; black is 0 if no value is below."""
    high = find_full_colour_value(maps)
    if not is_grey:
        return _Scale(-high, high, DIVERGING)
    return _Scale(-high if maps.min() < 0 else 0.0, high, GREYS)


def draw_maps(
    outputs: KernelMaps, place: tuple[int, int] | None, lines: Sequence[str] = (), *, is_grey: bool
) -> np.ndarray:
    """Draw the maps of the channels, on one scale, and their sum, on another.

    Args:
        outputs: The maps.
        place: Row and column to frame; None for no frame.
        lines: Lines of text below the heading.
        is_grey: Whether maps are drawn from black to white.
    """
    maps, total = as_array(outputs.maps), as_array(outputs.total)
    names, scale = CHANNELS[len(maps)], _choose_scale(maps, is_grey)
    columns = [_draw_map(map, name, scale, place) for map, name in zip(maps, names, strict=True)]
    more = ""
    if len(maps) > 1:
        columns.append(_draw_map(total, " + ".join(names), _choose_scale(total, is_grey), place))
        more = "; one scale for the channels, another for their sum"
    return _add_heading(columns, outputs.heading, total.shape, lines, LEGENDS[is_grey] + more)


def draw_row(row: MapRow, place: tuple[int, int], is_grey: bool) -> np.ndarray:
    """Draw the maps of a row."""
    maps = {name: as_array(map) for name, map in row.maps.items()}
    shared = _choose_scale(np.stack(list(maps.values())), is_grey)
    columns = [
        _draw_map(
            map, name, shared if row.has_one_scale else _choose_scale(map, is_grey),
            place if row.at_place else None,
        )
        for name, map in maps.items()
    ]  # fmt: skip
    more = "" if len(maps) == 1 else "; one scale" if row.has_one_scale else "; a scale each"
    size = next(iter(maps.values())).shape
    return _add_heading(columns, row.heading, size, row.sizes, LEGENDS[is_grey] + more)


def _add_heading(
    columns: Sequence[np.ndarray], heading: str, size: tuple[int, ...], lines: Sequence[str],
    legend: str,
) -> np.ndarray:  # fmt: skip
    """Stack a heading with the maps' size, lines of text and the legend above columns."""
    title = band(f"{heading}: {format_dimensions(*size)}", bold=True)
    heads = [title, *map(band, lines), band(legend, muted=True)]
    return vstack([*heads, hstack(columns, gap=2 * GAP)], gap=4)


def _draw_map(
    map: np.ndarray, name: str, scale: _Scale, place: tuple[int, int] | None
) -> np.ndarray:
    """Draw one map with its name and its colour bar."""
    picture = scale.colour(make_legible(map.astype(np.float32), SMALLEST, LARGEST))
    if place is None:
        picture = add_margin(picture, MARGIN)
    else:
        picture = frame_part(picture, map.shape, place, (1, 1))
    width = max(picture.shape[1], _NARROWEST)
    if scale.high > 0:
        low_word = ("≤ " if map.min() < scale.low else "") + format_value(scale.low)
        high_word = ("≥ " if map.max() > scale.high else "") + format_value(scale.high)
        below = colour_bar(width, low_word, high_word, name=scale.name)
    else:
        below = text_band(width, "0 everywhere")
    value_range = f"from {format_value(map.min())} to {format_value(map.max())}"
    return add_captions(picture, name, below, band(value_range, muted=True, width=width))
