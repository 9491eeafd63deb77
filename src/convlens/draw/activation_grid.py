"""Draw all channels of one layer for one image as a grid of small maps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from convlens.draw.canvas import Label, add_title, blank, diagonals, hstack, write_labels
from convlens.draw.colour import add_colour_bar, colour_table, format_number, rescale
from convlens.draw.palette import BACKGROUND, MUTED, RED, Colour
from convlens.draw.picture import Array, as_array
from convlens.draw.text import SMALL, format_dimensions, line_height, text_width

Rule = Literal["reference", "shared"]

_COLUMNS = 16  # maximum number of channels in a row
_WIDEST, _TALLEST = 1500, 2400  # limits in pixels for all cells together
_TARGET_WIDTH = 800  # width in pixels that small maps are magnified to
_SMALLEST_CELL, _LARGEST_CELL = 24, 160  # longest edge of a magnified cell, pixels
_PALE: Colour = (190, 190, 200)
_NAME = "viridis"
_GROUND, _LINE, _CROSS = 256, 257, 258  # levels after those of the colour table


@dataclass(frozen=True)
class GridLayout:
    """The positions of the cells: channel c is in row ``c // columns``, column ``c % columns``.

    Attributes:
        rows: Number of rows.
        columns: Number of columns.
        cell_height: Height of a cell in pixels.
        cell_width: Width of a cell in pixels.
        gap: Pixels between two cells; there is no gap around the grid.
    """

    rows: int
    columns: int
    cell_height: int
    cell_width: int
    gap: int


def compute_grid_layout(channels: int, height: int, width: int) -> GridLayout:
    """Return the layout for ``channels`` maps of ``height`` × ``width``.

    Small maps are magnified by a whole factor and large ones are reduced. The grid is about 800
    pixels wide, rarely wider than 1500, and at most 2400 pixels high unless cells cannot shrink
    further.
    """
    columns = min(_COLUMNS, channels)
    rows = -(-channels // columns)
    edge = max(height, width)
    gap = 3 if edge > 1 else 2
    target = min(max(_TARGET_WIDTH // columns, 2 * _SMALLEST_CELL), _LARGEST_CELL)
    if edge == 1 and channels > 64:  # one flat colour needs less room than a map
        target = _SMALLEST_CELL
    most = min((_WIDEST / columns - gap) / width, (_TALLEST / rows - gap) / height)
    most = max(most, min(_SMALLEST_CELL, _WIDEST / columns) / edge)
    # round down: half a pixel more in each of 16 columns would exceed the limit
    factor = min(-(-target // edge), max(1, int(most))) if most >= 1 else most
    cell = [max(int(side * factor + 1e-6), 4) for side in (height, width)]
    return GridLayout(rows, columns, *cell, gap)


def compute_channel_levels(
    maps: np.ndarray, rule: Rule = "reference"
) -> tuple[np.ndarray, np.ndarray]:
    """Convert maps ``(C, h, w)`` to levels of a colour table.

    Args:
        maps: ``(C, h, w)``. Values that are not finite get level 0.
        rule: "reference" standardises each channel by itself, ``(x - mean) / std · 64 + 128``,
            clipped to 0–255. It shows where a channel responds, not how strongly. A constant
            channel has no std and gets level 0. "shared" uses one scale from the lowest to the
            highest value of all channels, so that the strength of channels can be compared.

    Returns:
        The levels, uint8 ``(C, h, w)``, and which channels are constant, bool ``(C,)``.

    Raises:
        ValueError: The rule is unknown.
    """
    bad = ~np.isfinite(maps)
    if bad.any():
        maps = np.where(bad, 0, maps)
    # Divide by the largest magnitude first, so that huge and tiny values stay within float32.
    peak = np.abs(maps).max(axis=(1, 2), keepdims=True)
    unit = (maps / np.where(peak > 0, peak, 1)).astype(np.float32)
    mean = unit.mean(axis=(1, 2), keepdims=True)
    centred = unit - mean
    spread = np.sqrt(np.square(centred).mean(axis=(1, 2), keepdims=True))
    flat = spread <= 1e-6  # rounding error of a constant
    if rule == "reference":
        centred *= 64 / np.where(flat, 1, spread)
        levels = (centred + 128).clip(0, 255).astype(np.uint8)
        levels[flat[:, 0, 0]] = 0
    elif rule == "shared":
        levels = np.rint(rescale(maps, maps.min(), maps.max()) * 255).astype(np.uint8)
    else:
        raise ValueError(f'unknown rule {rule!r}: use "reference" or "shared"')
    if bad.any():
        levels[bad] = 0
    return levels, flat[:, 0, 0]


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


def _draw_cells(
    levels: np.ndarray, layout: GridLayout, flat: np.ndarray, dead: np.ndarray
) -> np.ndarray:
    """Draw the grid without text: the coloured cells, and marks on constant and dead ones.

    Levels are placed first and coloured all at once, because levels take fewer bytes to move.
    """
    height, width, gap = layout.cell_height, layout.cell_width, layout.gap
    rows, columns = layout.rows, layout.columns
    cells = np.full((rows * columns, height + gap, width + gap), _GROUND, np.uint16)
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
    grid = cells.reshape(rows, columns, height + gap, width + gap).transpose(0, 2, 1, 3)
    grid = grid.reshape(rows * (height + gap), columns * (width + gap))[:-gap, :-gap]
    colours = np.concatenate([colour_table(_NAME), np.array([BACKGROUND, _PALE, RED], np.uint8)])
    return colours.take(grid, axis=0)


def activation_grid(
    maps: Array, *, title: str, rule: Rule = "reference", dead: Array | None = None
) -> np.ndarray:
    """Draw every channel of a layer as one cell of a grid, uint8 ``(H, W, 3)``.

    Channel c is in row ``c // 16``, column ``c % 16``; each row starts with the number of its first
    channel. The vector of a dense layer, or maps of 1 × 1, become plain cells on one scale under
    either rule, because a single number has no spread of its own.

    A red cross marks dead channels, a pale diagonal those that are constant for this image. The
    heading counts both, and also channels with values that are not finite.

    Args:
        maps: ``(C, h, w)`` or ``(C,)``, any finite range.
        title: The layer and the image.
        rule: How values become colours, see ``compute_channel_levels``.
        dead: bool ``(C,)``, channels that respond to no image at all.

    Returns:
        uint8 ``(H, W, 3)``.

    Raises:
        ValueError: ``maps`` or ``dead`` has a wrong shape, or the rule is unknown.
    """
    values = as_array(maps)
    values = values[:, None, None] if values.ndim == 1 else values
    if values.ndim != 3 or 0 in values.shape:
        raise ValueError(f"activations must be (C, H, W) or (C,), not {tuple(values.shape)}")
    values = values if values.dtype.kind == "f" else values.astype(np.float32)
    count, height, width = values.shape
    is_dead = np.zeros(count, bool) if dead is None else as_array(dead).astype(bool)
    if is_dead.shape != (count,):
        raise ValueError(f"dead must be ({count},), not {is_dead.shape}")
    single = height == width == 1
    own_scale = rule == "reference" and not single
    levels, flat = compute_channel_levels(values, "shared" if single else rule)
    flat &= own_scale
    layout = compute_grid_layout(count, height, width)
    image = _draw_cells(levels, layout, flat, is_dead)
    if layout.rows > 1:
        image = hstack([_draw_row_numbers(layout, count, len(image)), image], gap=0)

    finite = np.isfinite(values)
    not_finite = ~finite.all(axis=(1, 2))
    facts = (
        f"{count} units" if single else f"{count} channels of {format_dimensions(height, width)}"
    )
    facts += ", each on its own scale" if own_scale else ", one scale for all"
    if constant := int((flat & ~is_dead & ~not_finite).sum()):
        facts += f", {constant} constant here (pale line)"
    alerts = [f"{is_dead.sum()} of {count} dead (red cross)"] if is_dead.any() else []
    alerts += [f"{not_finite.sum()} of {count} not finite"] if not_finite.any() else []
    if own_scale:
        ends = "mean - 2 sd", "+ 2 sd"
    elif finite.any():
        ends = format_number(values[finite].min()), format_number(values[finite].max())
    else:
        ends = "nan", "nan"
    sheet = add_colour_bar(image, *ends, name=_NAME)
    return add_title(sheet, title, facts, alert=", ".join(alerts))
