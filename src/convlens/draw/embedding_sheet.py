"""Draw what a transformer's embeddings have learned: of patches and of their positions."""

from __future__ import annotations

import numpy as np

from convlens.draw.canvas import add_title, text_band, tile, vstack
from convlens.draw.colour import DIVERGING, add_colour_bar, colourise_signed
from convlens.draw.filter_sheet import draw_kernels
from convlens.draw.palette import INK
from convlens.draw.picture import Array, as_array, compute_legible_size, resize
from convlens.draw.text import format_dimensions

_COLUMNS = 7
_KERNEL_EDGE = 64  # minimum for the longest edge of a component, pixels
_WIDEST = 1500  # maximum width of the tiles of positions together, pixels
_TILE_EDGES = 24, 88  # of a tile of positions, pixels
_GAP = 4  # between tiles of positions, pixels


def component_sheet(kernels: Array, shares: Array, *, total: int, title: str) -> np.ndarray:
    """Draw the principal components of kernels, each with its share of the kernels' variance.

    Args:
        kernels: ``(N, C, kh, kw)``; ``convlens.draw.filter_sheet.draw_kernels`` explains the
            colours.
        shares: ``(N,)`` in [0, 1].
        total: number of kernels of the layer.
        title: The layer.

    Returns:
        uint8 ``(H, W, 3)``.

    Raises:
        ValueError: A shape is wrong.
    """
    values, parts = as_array(kernels), as_array(shares)
    if values.ndim != 4 or 0 in values.shape or parts.shape != values.shape[:1]:
        shapes = f"{tuple(values.shape)} and {tuple(parts.shape)}"
        raise ValueError(f"components must be (N, C, kh, kw) and their shares (N,), not {shapes}")
    count, inputs, height, width = values.shape
    pictures, reading = draw_kernels(values)
    size = compute_legible_size(height, width, _KERNEL_EDGE)
    cells = [
        vstack([resize(one, size), text_band(size[1], f"{share:.1%}", ink=INK, centre=True)], gap=1)
        for one, share in zip(pictures, parts, strict=True)
    ]
    shape = format_dimensions(inputs, height, width)
    facts = (
        f"the first {count} principal components of the {total} kernels {shape} and their shares "
        f"of the variance, {parts.sum():.0%} together; {reading}, each divided by its maximum, "
        "sign arbitrary"
    )
    bad = int((~np.isfinite(values)).any(axis=(1, 2, 3)).sum())
    alert = f"{bad} of {count} not finite (drawn as 0)" if bad else None
    return add_title(tile(cells, _COLUMNS), title, facts, alert=alert)


def position_sheet(similarities: Array, *, title: str) -> np.ndarray:
    """Draw how similar the embedding of each position is to those of all positions.

    There is a tile for each patch, at the patch's place. It shows the whole grid: blue for -1, grey
    for 0, red for 1. Of a very large grid, every n-th row and column has a tile.

    Args:
        similarities: ``(h, w, h, w)`` in [-1, 1]; NaN is grey.
        title: The embedding.

    Returns:
        uint8 ``(H, W, 3)``.

    Raises:
        ValueError: ``similarities`` has a wrong shape.
    """
    values = as_array(similarities)
    if values.ndim != 4 or values.shape[:2] != values.shape[2:] or 0 in values.shape:
        raise ValueError(f"similarities must be (h, w, h, w), not {tuple(values.shape)}")
    height, width = values.shape[:2]
    edge = max(height, width)
    step = -(-edge * (edge + _GAP) // _WIDEST)
    smallest, largest = _TILE_EDGES
    wanted = min(largest, max(smallest, _WIDEST * step // edge - _GAP))
    scale = max(1, wanted // edge)
    size = height * scale, width * scale
    shown = values[::step, ::step]
    tiles = [resize(colourise_signed(one, 1), size) for row in shown for one in row]
    sheet = add_colour_bar(
        tile(tiles, shown.shape[1], _GAP), "-1", "+1", name=DIVERGING, lead="cosine similarity"
    )
    grid = format_dimensions(height, width)
    facts = (
        f"a tile for each of the {grid} patches, at the patch's place: how similar the learned "
        "embedding of its position is to those of all positions; fixed scale"
    )
    if step > 1:
        facts += f"; every {step}. row and column has a tile"
    bad = int((~np.isfinite(values)).any(axis=(2, 3)).sum())
    alert = f"{bad} of {height * width} not finite (grey)" if bad else None
    return add_title(sheet, title, facts, alert=alert)
