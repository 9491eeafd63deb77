"""A kernel slid over a picture: input, kernel, answers, and one patch worked out in numbers.

Legend: ``C`` channels (1 or 3), ``H W`` the picture's edges, ``kh kw`` the kernel's, ``h w`` those
of its answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from convlens.draw.canvas import (
    GAP,
    INK,
    MUTED,
    SLATE,
    Array,
    Colour,
    Label,
    as_array,
    blank,
    framed,
    hstack,
    legible_size,
    scaled_to,
    text_band,
    titled,
    to_uint8,
    vstack,
    write,
)
from convlens.draw.colour import DIVERGING, colour_bar, colourise, full_colour
from convlens.draw.text import BODY, SMALL, dimensions, line_height, printable, text_width
from convlens.lessons.kernel.arithmetic import (
    CHANNELS,
    WorkedPatch,
    digits,
    place_line,
    total_line,
)

_SMALLEST, _LARGEST = 240, 320  # longest edge of an image, pixels
_NARROWEST = 200  # width of a column at least: captions and the bar below a map need it
_SECTION = 18  # pixels between the parts of the panel
_CELL = 22  # height of a number's cell, pixels
_YELLOW: Colour = (255, 214, 0)  # of frames; in no picture of ours and not in the diverging table
_FRAME = 2  # thickness of a frame's yellow, pixels; a dark line of one pixel stands around it
_HOLE = 4  # pixels a frame encloses at least, so that a single place can be seen
_MARGIN = _FRAME + _HOLE // 2 + 1  # around an image, for the frames at its edge


@dataclass(frozen=True)
class Answers:
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
    sizes: Sequence[str] = ()


def kernel_panel(
    picture: Array,
    kernel: Array,
    answers: Answers,
    worked: WorkedPatch,
    *,
    title: str,
    subtitle: str | None = None,
    padding: tuple[tuple[int, int], tuple[int, int]] = ((0, 0), (0, 0)),
    pooled: Answers | None = None,
) -> np.ndarray:
    """What a kernel makes of a picture, uint8 ``(H, W, 3)``.

    From top to bottom: the picture, with its padding, and the kernel's weights; the answers of each
    channel and their sum, blue below 0 and red above, the channels on one scale; the same pooled,
    if it is; and the arithmetic of one patch, whose place has a yellow frame above. Where the
    weights sum to 1, brightness is kept and the answers are a picture again: it is drawn, too.
    Of maps from 32 × 32 on the colours end at the 99.5th percentile of the magnitudes; ≤ and ≥
    at the bar say so.

    Args:
        picture: ``(C, H, W)`` as for :func:`~convlens.draw.canvas.to_uint8`.
        kernel: ``(kh, kw)``.
        answers: of the kernel, for values from 0 to 255.
        worked: the patch to be written out.
        title: the kernel and the picture.
        subtitle: what the kernel answers to.
        padding: zeros ((above, below), (left, right)).
        pooled: the answers after pooling.

    Raises:
        ValueError: shapes that do not belong together.
    """
    weights, maps = as_array(kernel), as_array(answers.maps)
    channels = as_array(picture).shape[0]
    if channels not in CHANNELS or maps.ndim != 3 or len(maps) != channels or 0 in maps.shape:
        raise ValueError(
            f"a picture is (1 or 3, H, W) with as many maps, not {tuple(as_array(picture).shape)} "
            f"with maps {tuple(maps.shape)}"
        )
    patch = as_array(worked.patch)
    if weights.ndim != 2 or patch.shape != (channels, *weights.shape):
        raise ValueError(f"kernel {tuple(weights.shape)} with patches {tuple(patch.shape)}")
    parts = [
        _start(picture, weights, maps, worked, padding, answers.sizes),
        _answers(answers, worked.place),
        *([_answers(pooled, None, pooled.sizes)] if pooled is not None else []),
        _arithmetic(weights, worked, channels),
    ]
    return titled(vstack(parts, gap=_SECTION), title, subtitle)


def _band(text: str, *, bold: bool = False, muted: bool = False, width: int = 0) -> np.ndarray:
    """A line of text as wide as it needs, at least ``width``."""
    size = SMALL if muted else BODY
    needed = text_width(printable(text), size, bold)
    ink = MUTED if muted else INK
    return text_band(max(width, needed), [text], size=size, bold=bold, ink=ink)


def _captioned(image: np.ndarray, above: str, *below: np.ndarray) -> np.ndarray:
    return vstack([_band(above), image, *below], gap=2)


def _framed_place(
    image: np.ndarray, rows: tuple[float, float], columns: tuple[float, float]
) -> np.ndarray:
    """``image`` with a margin, and a yellow frame around rows and columns [from, to) of it."""
    canvas = framed(image, _MARGIN)
    edges = []
    for start, end in (rows, columns):
        first, last = int(start), max(int(start) + 1, round(end))
        more = max(0, _HOLE - (last - first))
        edges.append((first - more // 2 + _MARGIN, last + more - more // 2 + _MARGIN))
    (top, bottom), (left, right) = edges
    inner = canvas[top:bottom, left:right].copy()
    for out, colour in ((_FRAME + 1, INK), (_FRAME, _YELLOW)):
        canvas[top - out : bottom + out, left - out : right + out] = colour
    canvas[top:bottom, left:right] = inner
    return canvas


def _shown(image: np.ndarray) -> np.ndarray:
    """A picture at its size in the panel."""
    size = legible_size(*image.shape[:2], _SMALLEST, _LARGEST)
    return scaled_to(image, size)


def _start(
    picture: Array,
    weights: np.ndarray,
    maps: np.ndarray,
    worked: WorkedPatch,
    padding: tuple[tuple[int, int], tuple[int, int]],
    sizes: Sequence[str],
) -> np.ndarray:
    """The row [picture | answers as a picture, where they are one | kernel]."""
    image = to_uint8(picture)
    caption = f"picture, {dimensions(*image.shape[:2])}"
    (above, below), (left, right) = padding
    padded = np.pad(image, (*padding, (0, 0)))
    notes = []
    if above or below or left or right:
        height, width = image.shape[:2]
        ground = blank(*padded.shape[:2], SLATE)
        ground[above : above + height, left : left + width] = image
        padded = ground
        notes = [_band("blue-grey border: padding, counted as 0", muted=True)]
    drawn = _shown(padded)
    scale = drawn.shape[0] / padded.shape[0], drawn.shape[1] / padded.shape[1]
    starts = worked.corner[0] + above, worked.corner[1] + left
    rows, columns = (
        (start * s, (start + edge) * s)
        for start, edge, s in zip(starts, weights.shape, scale, strict=True)
    )
    notes.append(_band("yellow frame: the patch worked out below", muted=True))
    images = [_captioned(_framed_place(drawn, rows, columns), caption, *notes)]
    if abs(float(weights.sum()) - 1) < 1e-9:
        seen = framed(_shown(to_uint8(maps / 255)), _MARGIN)
        told = _band("the output as a picture, cut to 0–255", muted=True)
        images.append(_captioned(seen, f"result, {dimensions(*maps.shape[1:])}", told))
    return hstack([*images, _kernel_part(weights, sizes)], gap=2 * GAP)


def _kernel_part(weights: np.ndarray, sizes: Sequence[str]) -> np.ndarray:
    """The weights as numbers, what they sum to, and how the size of the output comes about."""
    total = digits(weights.sum())
    plain = "0" if total == "0" else "its own value" if total == "1" else f"{total} times its value"
    lines = [_band("size of the output", bold=True)]
    lines += [_band("⌊(n + 2p − k)/s⌋ + 1", muted=True)]
    lines += [_band("n picture, p padding, k kernel, s stride", muted=True)]
    lines += [_band(line) for line in sizes]
    return vstack(
        [
            vstack(
                [
                    _band(f"kernel, {dimensions(*weights.shape)}"),
                    _kernel_cells(weights),
                    _band("blue below 0, red above", muted=True),
                    _band(f"weights sum to {total}: a plain area gives {plain}", muted=True),
                ],
                gap=3,
            ),
            vstack(lines, gap=3) if sizes else blank(1, 1),
        ],
        gap=GAP,
    )


def _answers(
    answers: Answers, place: tuple[int, int] | None, lines: Sequence[str] = ()
) -> np.ndarray:
    """A map for each channel, on one scale, and their sum on its own; framed at ``place``."""
    maps, total = as_array(answers.maps), as_array(answers.total)
    if total.shape != maps.shape[1:]:
        raise ValueError(f"the sum is {tuple(maps.shape[1:])} as the maps, not {total.shape}")
    names = CHANNELS[len(maps)]
    scale = full_colour(maps)
    columns = [_map_column(map, name, scale, place) for map, name in zip(maps, names, strict=True)]
    if len(maps) > 1:
        columns.append(_map_column(total, " + ".join(names), full_colour(total), place))
    read = "blue below 0, red above"
    if len(maps) > 1:
        read += "; one scale for the channels, another for their sum"
    heads = [_band(f"{answers.heading}: {dimensions(*total.shape)}", bold=True)]
    heads += [_band(line) for line in lines] + [_band(read, muted=True)]
    return vstack([*heads, hstack(columns, gap=2 * GAP)], gap=4)


def _map_column(
    map: np.ndarray, name: str, high: float, place: tuple[int, int] | None
) -> np.ndarray:
    """One map with its name and its bar, ``high`` the magnitude in full colour."""
    size = legible_size(*map.shape, _SMALLEST, _LARGEST)
    values = scaled_to(map.astype(np.float32), size)
    if high > 0:
        image = colourise(values, DIVERGING, -high, high)
    else:  # zero everywhere: the colour of zero, not that of the lowest value
        image = colourise(np.full(size, 0.5), DIVERGING)
    if place is None:
        image = framed(image, _MARGIN)
    else:
        rows, columns = (
            (at * now / before, (at + 1) * now / before)
            for at, now, before in zip(place, size, map.shape, strict=True)
        )
        image = _framed_place(image, rows, columns)
    width = max(image.shape[1], _NARROWEST)
    if high > 0:
        low_word = ("≤ " if map.min() < -high else "") + digits(-high)
        high_word = ("≥ " if map.max() > high else "") + digits(high)
        below = colour_bar(width, low_word, high_word, name=DIVERGING)
    else:
        below = text_band(width, ["0 everywhere"], size=SMALL, ink=MUTED)
    found = f"from {digits(map.min())} to {digits(map.max())}"
    return _captioned(image, name, below, _band(found, muted=True, width=width))


def _cell_width(values: np.ndarray) -> int:
    """Pixels that the widest of the numbers needs, with room at its sides."""
    return max(_CELL, 8 + max(text_width(digits(value)) for value in values.ravel()))


def _cells(values: np.ndarray, colours: np.ndarray, width: int) -> np.ndarray:
    """Numbers ``(kh, kw)`` in cells of the colours ``(kh, kw, 3)``, in black or white."""
    height, (rows, columns) = _CELL, values.shape
    image = blank(rows * (height + 1) - 1, columns * (width + 1) - 1)
    labels = []
    for row in range(rows):
        for column in range(columns):
            top, left = row * (height + 1), column * (width + 1)
            colour = colours[row, column]
            image[top : top + height, left : left + width] = colour
            bright = float(colour @ np.array([0.299, 0.587, 0.114])) > 130
            middle = left + width // 2, top + height // 2
            ink = INK if bright else (255, 255, 255)
            labels.append(Label(*middle, digits(values[row, column]), ink, anchor="mm"))
    return write(image, labels)


def _signed_cells(values: np.ndarray, high: float, width: int) -> np.ndarray:
    """Numbers on blue below 0 and red above; ``high`` is the magnitude in full colour."""
    unit = values / high if high > 0 else np.zeros(values.shape)
    return _cells(values, colourise(unit, DIVERGING, -1, 1), width)


def _kernel_cells(weights: np.ndarray) -> np.ndarray:
    return _signed_cells(weights, float(np.abs(weights).max()), _cell_width(weights))


def _arithmetic(weights: np.ndarray, worked: WorkedPatch, channels: int) -> np.ndarray:
    """Patch × kernel = products and their sum, a row for each channel."""
    patches, products = as_array(worked.patch), as_array(worked.products)
    inside = as_array(worked.inside).astype(bool)
    names = CHANNELS[channels]
    grounds = np.where(inside[..., None], np.rint(patches)[..., None].clip(0, 255), SLATE)
    grounds = grounds.astype(np.uint8)
    wide, wider, high = _cell_width(patches), _cell_width(products), float(np.abs(products).max())
    columns = [
        ("channel", [_label(name, weights) for name in names]),
        ("patch, 0–255", [_cells(*pair, wide) for pair in zip(patches, grounds, strict=True)]),
        ("", [_label("×", weights)] * channels),
        ("kernel", [_kernel_cells(weights)] * channels),
        ("", [_label("=", weights)] * channels),
        ("products", [_signed_cells(one, high, wider) for one in products]),
        ("their sum", [_label(digits(value), weights, bold=True) for value in worked.sums]),
    ]
    table = [vstack([_band(head or " ", muted=True), *images], gap=GAP) for head, images in columns]
    where = place_line(worked.place, worked.corner, weights.shape)
    lines = [_band("the framed place in numbers", bold=True), _band(where)]
    if not inside.all():
        lines.append(_band("blue-grey cells lie in the padding and count as 0", muted=True))
    whole = np.array_equal(products, np.rint(products))
    if not whole:
        lines.append(_band("decimals are rounded where they are written", muted=True))
    parts = [vstack(lines, gap=2), hstack(table, gap=GAP)]
    if channels > 1:
        parts.append(_band(total_line(worked.sums), bold=True))
    return vstack(parts, gap=GAP)


def _label(text: str, weights: np.ndarray, *, bold: bool = False) -> np.ndarray:
    """A word at half the height of the matrices beside it."""
    height = weights.shape[0] * (_CELL + 1) - 1
    width = text_width(text, BODY, bold)
    label = Label(0, height // 2, text, INK, BODY, bold)
    return write(blank(max(height, line_height(BODY)), width), [label])
