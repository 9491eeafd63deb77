"""Draw what supports a class and what contradicts it: [image | map | overlay], a row per class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from convlens.draw.canvas import add_captions, add_title, text_band
from convlens.draw.colour import (
    DIVERGING,
    HEAT,
    blend,
    colourise,
    colourise_signed,
    find_full_colour_value,
    format_number,
    overlay,
)
from convlens.draw.grad_cam_panel import ClassMap, as_finite_map, draw_class_rows, draw_map_legend
from convlens.draw.picture import Array, resize, resize_cells
from convlens.draw.text import format_dimensions

_NARROWEST = 192  # minimum width of a column, for a bar with signed numbers at both ends


def attribution_panel(
    image: Array, maps: Sequence[ClassMap], *, title: str, note: str | None = None
) -> np.ndarray:
    """Draw a row [image | map | overlay] for each class, uint8 ``(H, W, 3)``.

    Signed maps are red where they support the class and blue where they contradict it, with zero in
    the middle of the scale. Their overlay is drawn on the image in grey, so that red and blue come
    from the map alone. Maps without negative values are drawn as heat from 0. The bar below the map
    shows the ends of the colour scale: ``scale``, or else the largest value. For maps of at least
    32 × 32 it is the 99.5th percentile of the magnitudes; larger values get the colour of the end,
    which the bar marks with ≥.

    The band above each row is that of ``convlens.draw.grad_cam_panel.grad_cam_panel``.

    Args:
        image: ``(C, H, W)`` as for ``convlens.draw.picture.to_uint8``.
        maps: One entry for each class, drawn in this order; maps may be negative here.
        title: The image, the method, the epoch.
        note: A caveat about these maps, written on a red line of its own.

    Returns:
        uint8 ``(H, W, 3)``.

    Raises:
        ValueError: There is no map, or the image or a map has a wrong shape.
    """
    return add_title(draw_class_rows(image, maps, _draw_row, _NARROWEST), title, alert=note)


def _draw_row(picture: np.ndarray, entry: ClassMap) -> np.ndarray:
    """Draw [image | map | overlay] of one class."""
    values, finite = as_finite_map(entry.map)
    high = find_full_colour_value(values) if entry.scale is None else float(entry.scale)
    beyond = bool(np.abs(values).max() > high)
    flat = resize_cells(values, picture.shape[:2])
    if (values < 0).any():
        name, low, meaning = (
            DIVERGING,
            "≤ " * beyond + format_number(-high),
            "red: for, blue: against",
        )
        heat, blended = colourise_signed(flat, high), _draw_signed_overlay(picture, values, high)
    else:
        name, low, meaning = HEAT, "0", "overlay"
        heat, blended = colourise(flat, HEAT, 0, high), overlay(picture, values, high=high)
    width = max(picture.shape[1], _NARROWEST)
    ends = low, "≥ " * beyond + format_number(high)
    below = draw_map_legend(values, finite, width, *ends, format_dimensions(*values.shape), name)
    return add_captions(
        (picture, text_band(width, "image")),
        (heat, below),
        (blended, text_band(width, meaning)),
    )


def _draw_signed_overlay(picture: np.ndarray, values: np.ndarray, high: float) -> np.ndarray:
    """Draw the image in grey with the map on top; larger magnitudes cover more of the image."""
    luma = (picture @ np.array([0.299, 0.587, 0.114])).astype(np.float32)
    grey = np.repeat(luma[..., None], 3, axis=2)
    unit = resize((values / high).clip(-1, 1), picture.shape[:2], "bilinear").clip(-1, 1)
    return blend(grey, colourise_signed(unit, 1), np.abs(unit))
