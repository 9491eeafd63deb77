"""Draw a kernel slid over an image: input, kernel, output, and one patch worked out in numbers.

Legend: ``C`` channels (1 or 3), ``H W`` height and width of the image, ``kh kw`` those of the
kernel, ``h w`` those of the output.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from convlens.draw.canvas import (
    GAP,
    Label,
    add_margin,
    add_title,
    blank,
    hstack,
    text_band,
    vstack,
    write_labels,
)
from convlens.draw.colour import DIVERGING, colour_bar, colourise_signed, find_full_colour_value
from convlens.draw.palette import INK, MUTED, SLATE, WHITE, Colour
from convlens.draw.picture import Array, as_array, make_legible, to_uint8
from convlens.draw.text import BODY, SMALL, format_dimensions, line_height, printable, text_width
from convlens.lessons.kernel.arithmetic import (
    CHANNELS,
    WorkedPatch,
    describe_place,
    format_total,
    format_value,
)

_SMALLEST, _LARGEST = 240, 320  # longest edge of a picture, pixels
_NARROWEST = 200  # minimum width of a column in pixels: room for captions and colour bars
_SECTION = 18  # pixels between two parts of the panel
_CELL = 22  # height in pixels of a cell with a number
_YELLOW: Colour = (255, 214, 0)  # of frames; the diverging colour table does not contain it
_FRAME = 2  # thickness of the yellow in pixels; a dark line of one pixel surrounds it
_HOLE = 4  # minimum number of pixels in a frame, so that a single place remains visible
_MARGIN = _FRAME + _HOLE // 2 + 1  # around a picture, room for a frame at its edge


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


def kernel_panel(
    image: Array,
    kernel: Array,
    outputs: KernelMaps,
    worked: WorkedPatch,
    *,
    title: str,
    subtitle: str,
    padding: tuple[tuple[int, int], tuple[int, int]],
    pooled: KernelMaps | None,
) -> np.ndarray:
    """Draw what a kernel makes of an image.

    The panel has four parts: the image, with its padding, and the kernel's weights; the output of
    each channel and the sum of the channels, blue below 0 and red above; the same after pooling, if
    there is any; and the arithmetic of one patch, which has a yellow frame in the other parts. All
    channels share one scale. If the weights sum to 1, brightness is kept and the output is an image
    again, which is drawn too.

    For maps of 32 × 32 pixels or more, full colour is at the 99.5th percentile of the magnitudes;
    ≤ and ≥ at the colour bar mark values beyond it.

    Args:
        image: ``(C, H, W)``, uint8 or float in [0, 1].
        kernel: ``(kh, kw)``.
        outputs: The kernel's output, for pixels from 0 to 255.
        worked: The patch to write out.
        title: Names of the kernel and of the image.
        subtitle: What the kernel responds to, and the settings.
        padding: Pixels of zeros, ((above, below), (left, right)).
        pooled: The output after pooling; None without pooling.

    Returns:
        uint8 ``(H, W, 3)``.
    """
    weights = as_array(kernel)
    parts = [
        _draw_input(to_uint8(image), weights, outputs, worked, padding),
        _draw_maps(outputs, worked.place),
        *([_draw_maps(pooled, None, pooled.sizes)] if pooled is not None else []),
        _draw_arithmetic(weights, worked),
    ]
    return add_title(vstack(parts, gap=_SECTION), title, subtitle)


def _band(text: str, *, bold: bool = False, muted: bool = False, width: int = 0) -> np.ndarray:
    """Draw a line of text as wide as it needs, but at least ``width`` pixels."""
    size, ink = (SMALL, MUTED) if muted else (BODY, INK)
    needed = text_width(printable(text), size, bold)
    return text_band(max(width, needed), text, size=size, bold=bold, ink=ink)


def _add_captions(picture: np.ndarray, above: str, *below: np.ndarray) -> np.ndarray:
    """Add a line of text above a picture, and bands below it."""
    return vstack([_band(above), picture, *below], gap=2)


def _frame_part(
    picture: np.ndarray, size: Sequence[int], corner: Sequence[int], edges: Sequence[int]
) -> np.ndarray:
    """Add a margin to a picture, and a yellow frame around a part of it.

    Args:
        picture: The picture, magnified or reduced.
        size: Height and width that the picture had before it was resized.
        corner: First row and column of the part, before resizing.
        edges: Height and width of the part, before resizing.
    """
    canvas = add_margin(picture, _MARGIN)
    spans = []
    for now, before, start, edge in zip(picture.shape[:2], size, corner, edges, strict=True):
        first = int(start * now / before)
        last = max(first + 1, round((start + edge) * now / before))
        more = max(0, _HOLE - (last - first))
        spans.append((first - more // 2 + _MARGIN, last + more - more // 2 + _MARGIN))
    (top, bottom), (left, right) = spans
    inner = canvas[top:bottom, left:right].copy()
    for out, colour in ((_FRAME + 1, INK), (_FRAME, _YELLOW)):
        canvas[top - out : bottom + out, left - out : right + out] = colour
    canvas[top:bottom, left:right] = inner
    return canvas


def _draw_input(
    picture: np.ndarray,
    weights: np.ndarray,
    outputs: KernelMaps,
    worked: WorkedPatch,
    padding: tuple[tuple[int, int], tuple[int, int]],
) -> np.ndarray:
    """Draw the row [image | output as an image, if the weights sum to 1 | kernel]."""
    (above, below), (left, right) = padding
    height, width = picture.shape[:2]
    padded = blank(above + height + below, left + width + right, SLATE)
    padded[above : above + height, left : left + width] = picture
    notes = [_band("yellow frame: the patch worked out below", muted=True)]
    if padded.size > picture.size:
        notes.insert(0, _band("blue-grey border: padding, counted as 0", muted=True))
    corner = worked.corner[0] + above, worked.corner[1] + left
    picture = make_legible(padded, _SMALLEST, _LARGEST)
    picture = _frame_part(picture, padded.shape[:2], corner, weights.shape)
    pictures = [_add_captions(picture, f"image, {format_dimensions(height, width)}", *notes)]
    if abs(float(weights.sum()) - 1) < 1e-9:
        maps = as_array(outputs.maps)
        result = add_margin(make_legible(to_uint8(maps / 255), _SMALLEST, _LARGEST), _MARGIN)
        note = _band("the output as an image, cut to 0–255", muted=True)
        pictures.append(
            _add_captions(result, f"result, {format_dimensions(*maps.shape[1:])}", note)
        )
    return hstack([*pictures, _draw_kernel(weights, outputs.sizes)], gap=2 * GAP)


def _draw_kernel(weights: np.ndarray, sizes: Sequence[str]) -> np.ndarray:
    """Draw the weights as numbers, their sum, and the formulas of the output's size."""
    total = format_value(weights.sum())
    plain = "0" if total == "0" else "its own value" if total == "1" else f"{total} times its value"
    kernel = [
        _band(f"kernel, {format_dimensions(*weights.shape)}"),
        _draw_signed_cells(weights, weights),
        _band("blue below 0, red above", muted=True),
        _band(f"weights sum to {total}: a plain area gives {plain}", muted=True),
    ]
    lines = [
        _band("size of the output", bold=True),
        _band("⌊(n + 2p − k)/s⌋ + 1", muted=True),
        _band("n image, p padding, k kernel, s stride", muted=True),
        *map(_band, sizes),
    ]
    return vstack([vstack(kernel, gap=3), vstack(lines, gap=3)])


def _draw_maps(
    outputs: KernelMaps, place: tuple[int, int] | None, lines: Sequence[str] = ()
) -> np.ndarray:
    """Draw the maps of the channels, on one scale, and their sum, on another.

    Args:
        outputs: The maps.
        place: Row and column to frame; None for no frame.
        lines: Lines of text below the heading.
    """
    maps, total = as_array(outputs.maps), as_array(outputs.total)
    names, high = CHANNELS[len(maps)], find_full_colour_value(maps)
    columns = [_draw_map(map, name, high, place) for map, name in zip(maps, names, strict=True)]
    legend = "blue below 0, red above"
    if len(maps) > 1:
        columns.append(_draw_map(total, " + ".join(names), find_full_colour_value(total), place))
        legend += "; one scale for the channels, another for their sum"
    heading = _band(f"{outputs.heading}: {format_dimensions(*total.shape)}", bold=True)
    heads = [heading, *map(_band, lines), _band(legend, muted=True)]
    return vstack([*heads, hstack(columns, gap=2 * GAP)], gap=4)


def _draw_map(map: np.ndarray, name: str, high: float, place: tuple[int, int] | None) -> np.ndarray:
    """Draw one map with its name and its colour bar; ``high`` is the magnitude in full colour."""
    picture = colourise_signed(make_legible(map.astype(np.float32), _SMALLEST, _LARGEST), high)
    if place is None:
        picture = add_margin(picture, _MARGIN)
    else:
        picture = _frame_part(picture, map.shape, place, (1, 1))
    width = max(picture.shape[1], _NARROWEST)
    if high > 0:
        low_word = ("≤ " if map.min() < -high else "") + format_value(-high)
        high_word = ("≥ " if map.max() > high else "") + format_value(high)
        below = colour_bar(width, low_word, high_word, name=DIVERGING)
    else:
        below = text_band(width, "0 everywhere")
    value_range = f"from {format_value(map.min())} to {format_value(map.max())}"
    return _add_captions(picture, name, below, _band(value_range, muted=True, width=width))


def _compute_cell_width(values: np.ndarray) -> int:
    """Return the width in pixels of a cell that has room for each of the numbers."""
    return max(_CELL, 8 + max(text_width(format_value(value)) for value in values.ravel()))


def _draw_cells(values: np.ndarray, colours: np.ndarray, width: int) -> np.ndarray:
    """Write numbers ``(kh, kw)`` into cells of the colours ``(kh, kw, 3)``, in black or white."""
    rows, columns = values.shape
    picture = blank(rows * (_CELL + 1), columns * (width + 1))
    cells = picture.reshape(rows, _CELL + 1, columns, width + 1, 3)
    cells[:, :_CELL, :, :width] = colours[:, None, :, None]
    labels = []
    for (row, column), value in np.ndenumerate(values):
        is_bright = float(colours[row, column] @ np.array([0.299, 0.587, 0.114])) > 130
        x, y = column * (width + 1) + width // 2, row * (_CELL + 1) + _CELL // 2
        labels.append(Label(x, y, format_value(value), INK if is_bright else WHITE, anchor="mm"))
    return write_labels(picture[:-1, :-1], labels)


def _draw_signed_cells(values: np.ndarray, all_values: np.ndarray) -> np.ndarray:
    """Write numbers on blue below 0 and red above.

    Args:
        values: The numbers, ``(kh, kw)``.
        all_values: Numbers of all channels, which set the scale and the width of the cells.
    """
    unit = values / (float(np.abs(all_values).max()) or 1)
    return _draw_cells(values, colourise_signed(unit, 1), _compute_cell_width(all_values))


def _draw_arithmetic(weights: np.ndarray, worked: WorkedPatch) -> np.ndarray:
    """Draw patch × kernel = products and their sum, one row for each channel."""
    patches, products = as_array(worked.patch), as_array(worked.products)
    inside, names = as_array(worked.inside), CHANNELS[len(patches)]
    greys = np.rint(patches)[..., None].clip(0, 255)
    backgrounds = np.where(inside[..., None], greys, SLATE).astype(np.uint8)
    width = _compute_cell_width(patches)
    columns = {
        "channel": [_draw_label(name, weights) for name in names],
        "patch, 0–255": [
            _draw_cells(*pair, width) for pair in zip(patches, backgrounds, strict=True)
        ],
        " ": [_draw_label("×", weights)] * len(names),
        "kernel": [_draw_signed_cells(weights, weights)] * len(names),
        "  ": [_draw_label("=", weights)] * len(names),
        "products": [_draw_signed_cells(one, products) for one in products],
        "their sum": [
            _draw_label(format_value(value), weights, bold=True) for value in worked.sums
        ],
    }
    table = [vstack([_band(head, muted=True), *pictures]) for head, pictures in columns.items()]
    description = describe_place(worked.place, worked.corner, weights.shape)
    lines = [_band("the framed place in numbers", bold=True), _band(description)]
    if not inside.all():
        lines.append(_band("blue-grey cells are padding and count as 0", muted=True))
    if not np.array_equal(products, np.rint(products)):
        lines.append(_band("numbers are rounded for display only", muted=True))
    parts = [vstack(lines, gap=2), hstack(table)]
    if len(names) > 1:
        parts.append(_band(format_total(worked.sums), bold=True))
    return vstack(parts)


def _draw_label(text: str, weights: np.ndarray, *, bold: bool = False) -> np.ndarray:
    """Draw a word centred vertically beside a matrix as high as ``weights``."""
    height = weights.shape[0] * (_CELL + 1) - 1
    picture = blank(max(height, line_height(BODY)), text_width(text, BODY, bold))
    return write_labels(picture, [Label(0, height // 2, text, bold=bold)])
