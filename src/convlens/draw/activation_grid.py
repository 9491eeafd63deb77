"""Draw the channels of one layer for one image as a grid of small maps."""

from __future__ import annotations

from dataclasses import dataclass
from math import log

import numpy as np

from convlens.draw.activation_levels import (
    ZERO,
    Colours,
    Order,
    Rule,
    compute_reference_levels,
    compute_shared_levels,
    find_scale_end,
    grey_table,
    select_channels,
    signed_table,
)
from convlens.draw.canvas import (
    BLOCK,
    Label,
    add_title,
    align,
    blank,
    diagonals,
    hstack,
    text_band,
    vstack,
    write_labels,
)
from convlens.draw.colour import GREYS, colour_bar, colour_table, format_number
from convlens.draw.palette import BACKGROUND, MUTED, RED, Colour
from convlens.draw.picture import Array, as_array, make_legible, to_uint8
from convlens.draw.text import SMALL, format_dimensions, line_height, text_width

_COLUMNS, _FEW_COLUMNS, _FEW = 16, 8, 64  # maximum number of channels in a row; up to _FEW: fewer
_WIDEST, _TALLEST = 1500, 2400  # limits in pixels for all cells together
_TARGET_WIDTH = 800  # width in pixels that small maps are magnified to
_SMALLEST_CELL, _LARGEST_CELL = 24, 160  # longest edge of a magnified cell, pixels
_LEGIBLE_CELL = 48  # longest edge of a magnified cell if the channels are few, pixels
_REDUCED = 112  # longest edge of a reduced cell with a caption, pixels
_PICTURE = 220, 224  # smallest and largest longest edge of the image beside the grid, pixels
_SCALE, _STRIP = 260, 10  # width and height of the scale's colours, pixels
_PALE: Colour = (190, 190, 200)
_NAMES = {"default": "viridis", "grey": GREYS}  # of the reference rule, by colours
_GROUND, _LINE, _CROSS = 256, 257, 258  # levels after those of the colour table

_HOW_TO_READ = {
    "shared": "Black is 0; the brighter, the stronger the channel responds at that place of the "
    "image",
    "reference": "Each channel on its own scale: it shows where a channel responds more or less "
    "than its mean, not how strongly",
}
# of the shared rule in grey, if there are negative values
_GREY = "Mid-grey is 0; brighter is above 0, darker below"


@dataclass(frozen=True)
class GridLayout:
    """The positions of the cells: cell n is in row ``n // columns``, column ``n % columns``.

    Attributes:
        rows: Number of rows.
        columns: Number of columns.
        cell_height: Height of a cell in pixels.
        cell_width: Width of a cell in pixels.
        gap: Pixels between two columns, and between two rows without captions; there is no gap
            around the grid.
        caption: Pixels below each cell for its channel's number; 0 if rows are numbered instead.
    """

    rows: int
    columns: int
    cell_height: int
    cell_width: int
    gap: int
    caption: int = 0


def compute_grid_layout(
    cells: int, height: int, width: int, *, captions: bool = False
) -> GridLayout:
    """Return the layout for ``cells`` maps of ``height`` × ``width``.

    Small maps are magnified by a whole factor and large ones are reduced. The grid is about 800
    pixels wide, rarely wider than 1500, and at most 2400 pixels high unless cells cannot shrink
    further. With captions, cells begin at JPEG blocks, and a value covers whole blocks or an even
    part of one: where it is a block, it takes a tenth of the bytes, and nothing is lost.

    Args:
        cells: Number of maps.
        height: Height of a map.
        width: Width of a map.
        captions: Whether each cell has its channel's number below it; up to 64 such cells are in
            rows of 8, more in rows of 16, or of 32 if each is a single number.
    """
    edge = max(height, width)
    gap = BLOCK if captions else 3 if edge > 1 else 2
    caption = -(-line_height(SMALL) // BLOCK) * BLOCK if captions else 0
    columns = _FEW_COLUMNS if captions and cells <= _FEW else _COLUMNS
    if captions and edge == 1 and cells > _FEW:
        columns *= 2
    columns = min(columns, cells)
    rows = -(-cells // columns)
    target = min(max(_TARGET_WIDTH // columns, _LEGIBLE_CELL), _LARGEST_CELL)
    if edge == 1 and (cells > _FEW or captions):  # one flat colour needs less room than a map
        target = _LEGIBLE_CELL if captions else _SMALLEST_CELL
    most = min((_WIDEST / columns - gap) / width, (_TALLEST / rows - caption - gap) / height)
    most = max(most, min(_SMALLEST_CELL, _WIDEST / columns) / edge)
    # round down: half a pixel more in each of 16 columns would exceed the limit
    factor = min(_magnify(edge, target), max(1, int(most))) if most >= 1 else most
    if captions and edge > _REDUCED:
        factor = min(factor, _REDUCED / edge)
    cell = [max(int(side * factor + 1e-6), 4) for side in (height, width)]
    return GridLayout(rows, columns, *cell, gap, caption)


def _magnify(edge: int, target: int) -> int:
    """Return the whole factor that brings an edge near ``target`` pixels: blocks or parts of them.

    >>> [_magnify(edge, 100) for edge in (4, 7, 14, 18, 28, 37, 56, 74, 112)]
    [24, 16, 8, 4, 4, 2, 2, 1, 1]
    """
    factors = [1, 2, 4, *range(BLOCK, target + BLOCK, BLOCK)]
    return min(factors, key=lambda factor: abs(log(factor * edge / target)))


def _compute_averaging(old: int, new: int) -> np.ndarray:
    """Return the matrix ``(new, old)`` whose rows average the old pixels under each new one."""
    edges = np.linspace(0, old, new + 1)
    starts, ends = edges[:-1, None], edges[1:, None]
    pixels = np.arange(old)
    shared = np.minimum(ends, pixels + 1) - np.maximum(starts, pixels)
    return (shared.clip(0) * (new / old)).astype(np.float32)


def _resize_levels(levels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize all cells at once: magnify by a whole factor or average, separately for each axis."""
    for axis, new in ((1, height), (2, width)):
        old = levels.shape[axis]
        if new >= old:
            levels = levels.take(np.arange(new) * old // new, axis=axis)
        else:
            weights = _compute_averaging(old, new)
            mean = np.tensordot(levels.astype(np.float32), weights, (axis, 1))
            mean = np.moveaxis(mean, -1, axis)
            levels = np.rint(mean).clip(0, 255).astype(np.uint8)
    return levels


def _draw_row_numbers(layout: GridLayout, channels: int, height: int) -> np.ndarray:
    """Draw the number of each row's first channel; if rows are low, only for every n-th row."""
    step, line = layout.cell_height + layout.gap, line_height(SMALL)
    tall, middle = max(height, line), max(layout.cell_height, line) // 2
    width = text_width(str(channels - 1), SMALL) + 4
    labels = []
    for row in range(0, layout.rows, -(-line // step)):
        if row * step + line <= tall:
            text, y = str(row * layout.columns), row * step + middle
            labels.append(Label(width - 4, y, text, MUTED, SMALL, anchor="rm"))
    return write_labels(blank(tall, width), labels)


def _write_captions(grid: np.ndarray, layout: GridLayout, channels: np.ndarray) -> np.ndarray:
    """Write each channel's number below its cell."""
    down, along = layout.cell_height + layout.caption + layout.gap, layout.cell_width + layout.gap
    labels = [
        Label(
            place % layout.columns * along + layout.cell_width // 2,
            place // layout.columns * down + layout.cell_height + layout.caption // 2,
            str(channel), MUTED, SMALL, anchor="mm",
        )
        for place, channel in enumerate(channels.tolist())
    ]  # fmt: skip
    return write_labels(grid, labels)


def _draw_cells(
    levels: np.ndarray, table: np.ndarray, layout: GridLayout, flat: np.ndarray, dead: np.ndarray
) -> np.ndarray:
    """Draw the grid without text: the coloured cells, and marks on constant and dead ones.

    Levels are placed first and coloured all at once, because levels take fewer bytes to move.
    """
    height, width, gap = layout.cell_height, layout.cell_width, layout.gap
    rows, columns = layout.rows, layout.columns
    tall = height + layout.caption + gap
    cells = np.full((rows * columns, tall, width + gap), _GROUND, np.uint16)
    inner = cells[: len(levels), :height, :width]  # the last row may be short
    inner[:] = _resize_levels(levels, height, width)
    rising, falling = diagonals(height, width, 0.75)
    frame = np.ones((height, width), bool)
    frame[2:-2, 2:-2] = False
    for channels, mark, level in (
        (flat & ~dead, rising, _LINE),
        (dead, frame | rising | falling, _CROSS),
    ):
        inner[np.flatnonzero(channels)[:, None], *np.nonzero(mark)] = level
    grid = cells.reshape(rows, columns, tall, width + gap).transpose(0, 2, 1, 3)
    grid = grid.reshape(rows * tall, columns * (width + gap))[:-gap, :-gap]
    colours = np.concatenate([table, np.array([BACKGROUND, _PALE, RED], np.uint8)])
    return colours.take(grid, axis=0)


def _draw_scale(values: np.ndarray, end: float, table: np.ndarray) -> np.ndarray:
    """Draw the shared scale with the values at its ends and 0, and the value farthest beyond it."""
    low = -end if (values < 0).any() else 0.0
    first = ZERO if low == 0 else 1
    strip = table[np.linspace(first, 255, _SCALE).round().astype(int)]
    line = line_height(SMALL)
    farthest = values.flat[np.abs(values).argmax()]
    beyond = f"a few reach {format_number(farthest)}" if abs(farthest) > 1.2 * end else ""
    scale = blank(_STRIP + line, _SCALE + text_width(beyond, SMALL) + 10)
    scale[:_STRIP, :_SCALE] = strip
    ends = [(0, "lm", low), (_SCALE, "rm", end)] if end else [(0, "lm", 0)]
    ends += [(_SCALE // 2, "mm", 0)] if low else []
    y = _STRIP + line // 2
    labels = [Label(x, y, format_number(v), MUTED, SMALL, anchor=side) for x, side, v in ends]
    labels.append(Label(_SCALE + 10, _STRIP // 2, beyond, MUTED, SMALL))
    return write_labels(scale, labels)


def _draw_grid(
    levels: np.ndarray, table: np.ndarray, channels: np.ndarray, flat: np.ndarray,
    dead: np.ndarray, *, captions: bool,
) -> np.ndarray:  # fmt: skip
    """Draw the cells with the numbers of their channels, or of each row's first one."""
    if not len(channels):
        return text_band(_SCALE, "no channel responds to this image")
    layout = compute_grid_layout(*levels.shape, captions=captions)
    grid = _draw_cells(levels, table, layout, flat, dead)
    if captions:
        return _write_captions(grid, layout, channels)
    if layout.rows > 1:
        return hstack([_draw_row_numbers(layout, len(channels), len(grid)), grid], gap=0)
    return grid


def _draw_beside(image: Array) -> np.ndarray:
    """Draw the image that the network got, with its size below."""
    picture = to_uint8(image)
    caption = f"the image, {format_dimensions(*picture.shape[:2])} pixels"
    picture = make_legible(picture, *_PICTURE)
    width = max(picture.shape[1], text_width(caption, SMALL))
    return vstack([picture, text_band(width, caption)], gap=4)


def _describe_selection(maps: np.ndarray, shown: int, order: Order) -> str:
    """Say how many of the channels are shown, and how many are silent."""
    count, *size = maps.shape
    what = "units" if size == [1, 1] else f"channels of {format_dimensions(*size)}"
    if order == "index":
        return f"{count} {what}" if shown == count else f"first {shown} of {count} {what}"
    silent = count - np.count_nonzero(maps.any(axis=(1, 2)))
    whole = shown == count - silent
    text = f"{count} {what}, strongest first" if whole else f"strongest {shown} of {count} {what}"
    return f"{text}, {silent} of {count} silent (0 everywhere in this image)" if silent else text


def activation_grid(
    maps: Array, *, title: str, image: Array | None = None, rule: Rule = "shared",
    order: Order = "strength", channels: int | None = 64, dead: Array | None = None,
    colours: Colours = "default",
) -> np.ndarray:  # fmt: skip
    """Draw the channels of a layer, each as one cell of a grid, uint8 ``(H, W, 3)``.

    In the order of strength, each cell has its channel's number below it, and the channels that are
    zero everywhere in this image are only counted, in the heading. In the layer's own order, a row
    has 16 cells and starts with the number of its first channel.

    A red cross marks dead channels; under the reference rule, a pale diagonal marks those that are
    constant for this image. The heading counts both, and also channels with values that are not
    finite.

    Args:
        maps: ``(C, h, w)``, or ``(C,)`` for a dense layer; any finite range.
        title: The layer and the image.
        image: ``(1 or 3, H, W)``, see ``to_uint8``: the image that the network got, drawn beside
            the grid.
        rule: How values become colours. "shared" is one scale for all channels: 0 is black, values
            above it are red to yellow, values below it blue to cyan, see ``find_scale_end``.
            "reference" standardises each channel by itself, see ``compute_reference_levels``; a
            single number (a dense layer, or maps of 1 × 1) has no spread, so it is drawn on the
            shared scale.
        order: The order of the channels, see ``select_channels``. Only "index" keeps each channel
            in its place at every epoch.
        channels: Maximum number of channels to show; None for all.
        dead: bool ``(C,)``, channels that respond to no image at all.
        colours: "default", or "grey" from black to white, see ``grey_table``.

    Returns:
        uint8 ``(H, W, 3)``.

    Raises:
        ValueError: ``maps`` or ``dead`` has a wrong shape, or the rule, the order or the colours
            are unknown.
    """
    values = as_array(maps)
    values = values[:, None, None] if values.ndim == 1 else values
    if values.ndim != 3 or 0 in values.shape:
        raise ValueError(f"activations must be (C, H, W) or (C,), not {tuple(values.shape)}")
    if rule not in _HOW_TO_READ:
        raise ValueError(f'unknown rule {rule!r}: use "shared" or "reference"')
    if colours not in _NAMES:
        raise ValueError(f'unknown colours {colours!r}: use "default" or "grey"')
    values = values if values.dtype.kind == "f" else values.astype(np.float32)
    count, height, width = values.shape
    is_dead = np.zeros(count, bool) if dead is None else as_array(dead).astype(bool)
    if is_dead.shape != (count,):
        raise ValueError(f"dead must be ({count},), not {is_dead.shape}")
    finite = np.isfinite(values)
    not_finite = ~finite.all(axis=(1, 2))
    clean = np.where(finite, values, 0) if not_finite.any() else values
    chosen = select_channels(clean, order, channels)
    if height == width == 1:
        rule = "shared"
    flat, has_negative = np.zeros(len(chosen), bool), bool((clean < 0).any())
    if rule == "shared":
        end = find_scale_end(clean)
        table = signed_table() if colours == "default" else grey_table(has_negative)
        levels, scale = compute_shared_levels(clean[chosen], end), _draw_scale(clean, end, table)
    else:
        name = _NAMES[colours]
        (levels, flat), table = compute_reference_levels(values[chosen]), colour_table(name)
        scale = colour_bar(_SCALE, "mean - 2 sd", "+ 2 sd", name=name)
    grid = _draw_grid(levels, table, chosen, flat, is_dead[chosen], captions=order == "strength")
    sheet = vstack([align(scale), grid])
    if image is not None:
        sheet = hstack([align(_draw_beside(image)), sheet], gap=2 * BLOCK)

    facts, alerts = [_describe_selection(clean, len(chosen), order)], []
    if constant := int((flat & ~(is_dead | not_finite)[chosen]).sum()):
        facts += [f"{constant} constant here (pale line)"]
    if is_dead.any():
        mark = " (red cross)" if is_dead[chosen].any() else ""
        alerts += [f"{is_dead.sum()} of {count} dead{mark}"]
    if not_finite.any():
        alerts += [f"{not_finite.sum()} of {count} not finite"]
    reading = _HOW_TO_READ[rule]
    if rule == "shared" and has_negative:
        signs = ": red to yellow above 0, blue to cyan below"
        reading = _GREY if colours == "grey" else reading + signs
    subtitle = f"{', '.join(facts)}. {reading}."
    return add_title(sheet, title, subtitle, alert=", ".join(alerts))
