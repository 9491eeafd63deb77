"""All channels of one layer for one picture, as a grid of small maps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from convlens.draw.canvas import (
    BACKGROUND,
    MUTED,
    RED,
    Array,
    Colour,
    Label,
    as_array,
    blank,
    hstack,
    titled,
    vstack,
    write,
)
from convlens.draw.colour import colour_bar, number, scaled, table
from convlens.draw.text import SMALL, dimensions, line_height, text_width

Rule = Literal["reference", "shared"]

_WIDEST, _TALLEST = 1500, 2400  # pixels all cells together should stay below
_WISHED = 800  # a grid of small maps is magnified towards this width
_SMALLEST_CELL, _LARGEST_CELL = 24, 160  # longest edge of a cell a small map is magnified to
_PALE: Colour = (190, 190, 200)


@dataclass(frozen=True)
class GridLayout:
    """Where channel c stands: row ``c // columns``, column ``c % columns``.

    ``cell_height``, ``cell_width`` and ``gap`` are pixels; there is a gap between cells only.
    """

    rows: int
    columns: int
    cell_height: int
    cell_width: int
    gap: int

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the whole grid in pixels."""
        down, along = self.cell_height + self.gap, self.cell_width + self.gap
        return self.rows * down - self.gap, self.columns * along - self.gap

    def cell(self, channel: int) -> tuple[slice, slice]:
        """The rows and columns of pixels in the grid that belong to ``channel``."""
        top = channel // self.columns * (self.cell_height + self.gap)
        left = channel % self.columns * (self.cell_width + self.gap)
        return slice(top, top + self.cell_height), slice(left, left + self.cell_width)


def grid_layout(channels: int, height: int, width: int, columns: int = 16) -> GridLayout:
    """The layout for ``channels`` maps of ``height`` × ``width``.

    Small maps are magnified by a whole factor, large ones reduced, so that the grid is about 800
    pixels wide and never much more than 1500, and not taller than 2400 while cells can shrink.
    """
    columns = min(columns, channels)
    rows = -(-channels // columns)
    edge = max(height, width)
    gap = 3 if edge > 1 else 2
    wished = min(max(_WISHED // columns, 2 * _SMALLEST_CELL), _LARGEST_CELL)
    if edge == 1 and channels > 64:  # one flat colour needs less room than a map
        wished = _SMALLEST_CELL
    most = min((_WIDEST / columns - gap) / width, (_TALLEST / rows - gap) / height)
    most = max(most, min(_SMALLEST_CELL, _WIDEST / columns) / edge)
    # floor: a half pixel more in each of 16 columns would break the limit
    factor = min(-(-wished // edge), max(1, int(most))) if most >= 1 else most
    cell = [max(int(side * factor + 1e-6), 4) for side in (height, width)]
    return GridLayout(rows, columns, *cell, gap)


def channel_levels(maps: np.ndarray, rule: Rule = "reference") -> tuple[np.ndarray, np.ndarray]:
    """Maps ``(C, h, w)`` as levels of a colour table, uint8 of the same shape, and who is flat.

    - "reference", the documents' rule: every channel standardised by itself,
      ``(x - mean) / std · 64 + 128``, clipped to 0–255. It shows where a channel responds, not
      how strongly. A constant channel has no std; it gets level 0.
    - "shared": one scale from the lowest to the highest value of all channels. It shows how
      strongly channels respond beside each other.

    Flat is bool ``(C,)``: constant channels. Values that are not finite get level 0.
    """
    bad = ~np.isfinite(maps)
    if bad.any():
        maps = np.where(bad, 0, maps)
    # Divided by the largest magnitude first: neither huge nor tiny values leave float32's range.
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
        levels = np.rint(scaled(maps, maps.min(), maps.max()) * 255).astype(np.uint8)
    else:
        raise ValueError(f'rule is "reference" or "shared", not {rule!r}')
    if bad.any():
        levels[bad] = 0
    return levels, flat[:, 0, 0]


def _averaging(old: int, new: int) -> np.ndarray:
    """The matrix ``(new, old)`` whose rows average the old pixels under each new one."""
    edges = np.linspace(0, old, new + 1)
    starts, ends = edges[:-1, None], edges[1:, None]
    pixels = np.arange(old)
    shared = np.minimum(ends, pixels + 1) - np.maximum(starts, pixels)
    return (shared.clip(0) * (new / old)).astype(np.float32)


def _fit(levels: np.ndarray, height: int, width: int) -> np.ndarray:
    """All cells at once at their size: whole-number magnification or averaging, each axis."""
    for axis, new in ((1, height), (2, width)):
        old = levels.shape[axis]
        if new >= old:
            levels = levels.take(np.arange(new) * old // new, axis=axis)
        else:
            weights = _averaging(old, new)
            mean = np.moveaxis(
                np.tensordot(levels.astype(np.float32), weights, (axis, 1)), -1, axis
            )
            levels = np.rint(mean).clip(0, 255).astype(np.uint8)
    return levels


def _marks(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of a cell, bool ``(height, width)``: one diagonal; frame with both diagonals."""
    y, x = np.mgrid[:height, :width]
    y, x = (y + 0.5) / height, (x + 0.5) / width
    thin = 0.75 / min(height, width)
    rising, falling = np.abs(y + x - 1) <= thin, np.abs(y - x) <= thin
    frame = np.ones((height, width), bool)
    frame[2:-2, 2:-2] = False
    return rising, frame | rising | falling


def _row_numbers(layout: GridLayout, channels: int) -> np.ndarray:
    """A column of the first channel's number of every row (of every n-th where rows are low)."""
    step, line = layout.cell_height + layout.gap, line_height(SMALL)
    tall = max(layout.size[0], line)
    every = -(-line // step)
    width = text_width(str(channels - 1), SMALL) + 4
    return write(
        blank(tall, width),
        [
            Label(
                width - 4,
                row * step + max(layout.cell_height, line) // 2,
                str(row * layout.columns),
                MUTED,
                SMALL,
                anchor="rm",
            )
            for row in range(0, layout.rows, every)
            if row * step + line <= tall
        ],
    )


def _cells(
    levels: np.ndarray, layout: GridLayout, flat: np.ndarray, dead: np.ndarray, name: str
) -> np.ndarray:
    """The grid without lettering: coloured cells in their places, marks on flat and dead ones.

    Levels are put in place first and coloured all at once: a third of the bytes to move about.
    """
    height, width, gap = layout.cell_height, layout.cell_width, layout.gap
    count, places = len(levels), layout.rows * layout.columns
    cells = np.zeros((places, height + gap, width + gap), np.uint8)
    cells[:count, :height, :width] = _fit(levels, height, width)
    cells = cells.reshape(layout.rows, layout.columns, height + gap, width + gap)
    tall, wide = layout.rows * (height + gap), layout.columns * (width + gap)
    grid = table(name).take(cells.transpose(0, 2, 1, 3).reshape(tall, wide), axis=0)

    between_rows = np.arange(tall) % (height + gap) >= height
    between_columns = np.arange(wide) % (width + gap) >= width
    grid[between_rows] = BACKGROUND
    grid[:, between_columns] = BACKGROUND
    for channel in range(count, places):  # the last row may be short
        grid[layout.cell(channel)] = BACKGROUND
    line, cross = _marks(height, width)
    for channels, mark, ink in ((flat & ~dead, line, _PALE), (dead, cross, RED)):
        for channel in np.flatnonzero(channels):
            grid[layout.cell(channel)][mark] = ink
    return grid[: tall - gap, : wide - gap]


def _as_maps(maps: Array) -> tuple[np.ndarray, bool]:
    """Maps as float ``(C, h, w)``, and whether they are single numbers."""
    values = as_array(maps)
    if values.ndim == 1:
        values = values[:, None, None]
    if values.ndim != 3 or 0 in values.shape:
        raise ValueError(f"activations are (C, H, W) or (C,), not {tuple(values.shape)}")
    values = values if values.dtype.kind == "f" else values.astype(np.float32)
    return values, values.shape[1:] == (1, 1)


def activation_grid(
    maps: Array,
    *,
    title: str,
    rule: Rule = "reference",
    columns: int = 16,
    dead: Array | None = None,
    name: str = "viridis",
) -> np.ndarray:
    """Every channel of a layer as one cell of a grid, uint8 ``(H, W, 3)``.

    Channel c stands in row ``c // columns``, column ``c % columns``; the first channel's number is
    written before each row. A dense layer's vector, or maps of 1 × 1, become flat cells on one
    scale under either rule, for a single number has no spread of its own.

    A red cross marks dead channels, a pale diagonal those that are constant for this picture; the
    heading counts both, and channels with values that are not finite.

    Args:
        maps: ``(C, h, w)`` or ``(C,)``, any finite range.
        title: the layer, and the tap.
        rule: how values become colours, see :func:`channel_levels`.
        columns: channels in a row, at most.
        dead: bool ``(C,)``, channels that answer to no picture at all.
        name: Matplotlib's name of the colour table.

    Raises:
        ValueError: another shape of ``maps`` or ``dead``, an unknown rule, no columns.
    """
    values, single = _as_maps(maps)
    count, height, width = values.shape
    gone = np.zeros(count, bool) if dead is None else as_array(dead).astype(bool)
    if gone.shape != (count,) or columns < 1:
        raise ValueError(f"dead has shape {gone.shape} for {count} channels, {columns} columns")
    levels, flat = channel_levels(values, "shared" if single else rule)
    layout = grid_layout(count, height, width, columns)
    own_scale = rule == "reference" and not single
    marked = flat if own_scale else np.zeros(count, bool)
    grid = _cells(levels, layout, marked, gone, name)
    picture = hstack([_row_numbers(layout, count), grid], gap=0) if layout.rows > 1 else grid

    what = f"{count} units" if single else f"{count} channels of {dimensions(height, width)}"
    broken = ~np.isfinite(values).all(axis=(1, 2))
    facts = [what, "each on its own scale" if own_scale else "one scale for all"]
    if quiet := int((marked & ~gone & ~broken).sum()):
        facts.append(f"{quiet} constant here (pale line)")
    alerts = [f"{gone.sum()} of {count} dead (red cross)"] if gone.any() else []
    alerts += [f"{broken.sum()} of {count} not finite"] if broken.any() else []
    if own_scale:
        ends = "mean - 2 sd", "+ 2 sd"
    else:
        finite = values[np.isfinite(values)]
        ends = (number(finite.min()), number(finite.max())) if finite.size else ("nan", "nan")
    bar = colour_bar(min(260, max(picture.shape[1], 180)), *ends, name=name)
    return titled(
        vstack([bar, picture], gap=6), title, ", ".join(facts), alert=", ".join(alerts) or None
    )
