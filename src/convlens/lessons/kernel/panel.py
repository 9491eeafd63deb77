"""A kernel slid over an image: input, kernel, answers, and one patch worked out in numbers.

Legend: ``C`` channels (1 or 3), ``H W`` the image's edges, ``kh kw`` the kernel's, ``h w`` those
of its answers.
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
from convlens.draw.colour import DIVERGING, colour_bar, colourise_signed, full_colour_value
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
_NARROWEST = 200  # width of a column at least: captions and the bar below a map need it
_SECTION = 18  # pixels between the parts of the panel
_CELL = 22  # height of a number's cell, pixels
_YELLOW: Colour = (255, 214, 0)  # of frames; in no image of ours and not in the diverging table
_FRAME = 2  # thickness of a frame's yellow, pixels; a dark line of one pixel stands around it
_HOLE = 4  # pixels a frame encloses at least, so that a single place can be seen
_MARGIN = _FRAME + _HOLE // 2 + 1  # around a picture, for the frames at its edge


@dataclass(frozen=True)
class KernelMaps:
    """Maps to be drawn side by side.

    Attributes:
        maps: ``(C, h, w)``, a channel each.
        total: ``(h, w)``, their sum, or the sum's pooled map.
        heading: what they are, such as "max pooling, 2×2".
        sizes: lines telling how ``h`` and ``w`` come about.
    """

    maps: Array
    total: Array
    heading: str
    sizes: Sequence[str]


def kernel_panel(
    image: Array,
    kernel: Array,
    answers: KernelMaps,
    worked: WorkedPatch,
    *,
    title: str,
    subtitle: str,
    padding: tuple[tuple[int, int], tuple[int, int]],
    pooled: KernelMaps | None,
) -> np.ndarray:
    """What a kernel makes of an image, uint8 ``(H, W, 3)``.

    From top to bottom: the image, with its padding, and the kernel's weights; the answers of each
    channel and their sum, blue below 0 and red above, the channels on one scale; the same pooled,
    if it is; and the arithmetic of one patch, whose place has a yellow frame above. Where the
    weights sum to 1, brightness is kept and the answers are an image again: it is drawn, too.
    Of maps from 32 × 32 on the colours end at the 99.5th percentile of the magnitudes; ≤ and ≥
    at the bar say so.

    Args:
        image: ``(C, H, W)`` as for :func:`~convlens.draw.canvas.to_uint8`.
        kernel: ``(kh, kw)``.
        answers: of the kernel, for values from 0 to 255.
        worked: the patch to be written out.
        title: the kernel and the image.
        subtitle: what the kernel answers to.
        padding: zeros ((above, below), (left, right)).
        pooled: the answers after pooling, if they are pooled.
    """
    weights = as_array(kernel)
    parts = [
        _start(to_uint8(image), weights, answers, worked, padding),
        _answers(answers, worked.place),
        *([_answers(pooled, None, pooled.sizes)] if pooled is not None else []),
        _arithmetic(weights, worked),
    ]
    return add_title(vstack(parts, gap=_SECTION), title, subtitle)


def _band(text: str, *, bold: bool = False, muted: bool = False, width: int = 0) -> np.ndarray:
    """A line of text as wide as it needs, at least ``width``."""
    size, ink = (SMALL, MUTED) if muted else (BODY, INK)
    needed = text_width(printable(text), size, bold)
    return text_band(max(width, needed), text, size=size, bold=bold, ink=ink)


def _captioned(picture: np.ndarray, above: str, *below: np.ndarray) -> np.ndarray:
    return vstack([_band(above), picture, *below], gap=2)


def _framed_part(
    picture: np.ndarray, size: Sequence[int], corner: Sequence[int], edges: Sequence[int]
) -> np.ndarray:
    """``picture`` with a margin, and a yellow frame around a part of it.

    Args:
        size: rows and columns that the picture had before it was brought to its size.
        corner, edges: first row and column of the part, and how many, of these.
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


def _start(
    picture: np.ndarray,
    weights: np.ndarray,
    answers: KernelMaps,
    worked: WorkedPatch,
    padding: tuple[tuple[int, int], tuple[int, int]],
) -> np.ndarray:
    """The row [image | answers as an image, where they are one | kernel]."""
    (above, below), (left, right) = padding
    height, width = picture.shape[:2]
    padded = blank(above + height + below, left + width + right, SLATE)
    padded[above : above + height, left : left + width] = picture
    notes = [_band("yellow frame: the patch worked out below", muted=True)]
    if padded.size > picture.size:
        notes.insert(0, _band("blue-grey border: padding, counted as 0", muted=True))
    corner = worked.corner[0] + above, worked.corner[1] + left
    drawn = make_legible(padded, _SMALLEST, _LARGEST)
    drawn = _framed_part(drawn, padded.shape[:2], corner, weights.shape)
    pictures = [_captioned(drawn, f"image, {format_dimensions(height, width)}", *notes)]
    if abs(float(weights.sum()) - 1) < 1e-9:
        maps = as_array(answers.maps)
        seen = add_margin(make_legible(to_uint8(maps / 255), _SMALLEST, _LARGEST), _MARGIN)
        note = _band("the output as an image, cut to 0–255", muted=True)
        pictures.append(_captioned(seen, f"result, {format_dimensions(*maps.shape[1:])}", note))
    return hstack([*pictures, _kernel_part(weights, answers.sizes)], gap=2 * GAP)


def _kernel_part(weights: np.ndarray, sizes: Sequence[str]) -> np.ndarray:
    """The weights as numbers, what they sum to, and how the size of the output comes about."""
    total = format_value(weights.sum())
    plain = "0" if total == "0" else "its own value" if total == "1" else f"{total} times its value"
    kernel = [
        _band(f"kernel, {format_dimensions(*weights.shape)}"),
        _signed_cells(weights, weights),
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


def _answers(
    answers: KernelMaps, place: tuple[int, int] | None, lines: Sequence[str] = ()
) -> np.ndarray:
    """A map for each channel, on one scale, and their sum on its own; framed at ``place``."""
    maps, total = as_array(answers.maps), as_array(answers.total)
    names, high = CHANNELS[len(maps)], full_colour_value(maps)
    columns = [_map_column(map, name, high, place) for map, name in zip(maps, names, strict=True)]
    read = "blue below 0, red above"
    if len(maps) > 1:
        columns.append(_map_column(total, " + ".join(names), full_colour_value(total), place))
        read += "; one scale for the channels, another for their sum"
    heading = _band(f"{answers.heading}: {format_dimensions(*total.shape)}", bold=True)
    heads = [heading, *map(_band, lines), _band(read, muted=True)]
    return vstack([*heads, hstack(columns, gap=2 * GAP)], gap=4)


def _map_column(
    map: np.ndarray, name: str, high: float, place: tuple[int, int] | None
) -> np.ndarray:
    """One map with its name and its bar, ``high`` the magnitude in full colour."""
    picture = colourise_signed(make_legible(map.astype(np.float32), _SMALLEST, _LARGEST), high)
    if place is None:
        picture = add_margin(picture, _MARGIN)
    else:
        picture = _framed_part(picture, map.shape, place, (1, 1))
    width = max(picture.shape[1], _NARROWEST)
    if high > 0:
        low_word = ("≤ " if map.min() < -high else "") + format_value(-high)
        high_word = ("≥ " if map.max() > high else "") + format_value(high)
        below = colour_bar(width, low_word, high_word, name=DIVERGING)
    else:
        below = text_band(width, "0 everywhere")
    found = f"from {format_value(map.min())} to {format_value(map.max())}"
    return _captioned(picture, name, below, _band(found, muted=True, width=width))


def _cell_width(values: np.ndarray) -> int:
    """Pixels that the widest of the numbers needs, with room at its sides."""
    return max(_CELL, 8 + max(text_width(format_value(value)) for value in values.ravel()))


def _cells(values: np.ndarray, colours: np.ndarray, width: int) -> np.ndarray:
    """Numbers ``(kh, kw)`` in cells of the colours ``(kh, kw, 3)``, in black or white."""
    rows, columns = values.shape
    picture = blank(rows * (_CELL + 1), columns * (width + 1))
    cells = picture.reshape(rows, _CELL + 1, columns, width + 1, 3)
    cells[:, :_CELL, :, :width] = colours[:, None, :, None]
    labels = []
    for (row, column), value in np.ndenumerate(values):
        bright = float(colours[row, column] @ np.array([0.299, 0.587, 0.114])) > 130
        x, y = column * (width + 1) + width // 2, row * (_CELL + 1) + _CELL // 2
        labels.append(Label(x, y, format_value(value), INK if bright else WHITE, anchor="mm"))
    return write_labels(picture[:-1, :-1], labels)


def _signed_cells(values: np.ndarray, all_values: np.ndarray) -> np.ndarray:
    """Numbers on blue below 0 and red above, on the scale and as wide as all of them need."""
    unit = values / (float(np.abs(all_values).max()) or 1)
    return _cells(values, colourise_signed(unit, 1), _cell_width(all_values))


def _arithmetic(weights: np.ndarray, worked: WorkedPatch) -> np.ndarray:
    """Patch × kernel = products and their sum, a row for each channel."""
    patches, products = as_array(worked.patch), as_array(worked.products)
    inside, names = as_array(worked.inside), CHANNELS[len(patches)]
    greys = np.rint(patches)[..., None].clip(0, 255)
    grounds = np.where(inside[..., None], greys, SLATE).astype(np.uint8)
    wide = _cell_width(patches)
    columns = {
        "channel": [_label(name, weights) for name in names],
        "patch, 0–255": [_cells(*pair, wide) for pair in zip(patches, grounds, strict=True)],
        " ": [_label("×", weights)] * len(names),
        "kernel": [_signed_cells(weights, weights)] * len(names),
        "  ": [_label("=", weights)] * len(names),
        "products": [_signed_cells(one, products) for one in products],
        "their sum": [_label(format_value(value), weights, bold=True) for value in worked.sums],
    }
    table = [vstack([_band(head, muted=True), *pictures]) for head, pictures in columns.items()]
    where = describe_place(worked.place, worked.corner, weights.shape)
    lines = [_band("the framed place in numbers", bold=True), _band(where)]
    if not inside.all():
        lines.append(_band("blue-grey cells are padding and count as 0", muted=True))
    if not np.array_equal(products, np.rint(products)):
        lines.append(_band("decimals are rounded where they are written", muted=True))
    parts = [vstack(lines, gap=2), hstack(table)]
    if len(names) > 1:
        parts.append(_band(format_total(worked.sums), bold=True))
    return vstack(parts)


def _label(text: str, weights: np.ndarray, *, bold: bool = False) -> np.ndarray:
    """A word at half the height of the matrices beside it."""
    height = weights.shape[0] * (_CELL + 1) - 1
    picture = blank(max(height, line_height(BODY)), text_width(text, BODY, bold))
    return write_labels(picture, [Label(0, height // 2, text, bold=bold)])
