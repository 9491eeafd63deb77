"""What speaks for a class and what against it: [image | map | overlay], a row for each class."""

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
    format_number,
    full_colour_value,
    overlay,
)
from convlens.draw.grad_cam_panel import ClassMap, as_finite_map, class_rows, map_legend
from convlens.draw.picture import Array, resize, resize_cells
from convlens.draw.text import format_dimensions

_NARROWEST = 192  # width of a column at least: a bar with a sign at both ends needs it


def attribution_panel(
    image: Array, maps: Sequence[ClassMap], *, title: str, note: str | None = None
) -> np.ndarray:
    """A row [image | map | overlay] for each class, uint8 ``(H, W, 3)``.

    Signed maps are red where they speak for the class and blue where they speak against it, with
    zero in the middle; their overlay lies on the image in grey, which has no red or blue of its
    own. Maps that are nowhere negative are drawn as heat from 0. The bar below the map tells the
    ends of the colours: ``scale``, or else the largest value (of maps from 32 × 32 on, the
    99.5th percentile of the magnitudes; what lies beyond gets the end's colour, and ≥ says so).

    The band above a row is that of :func:`~convlens.draw.grad_cam_panel.grad_cam_panel`.

    Args:
        image: ``(C, H, W)`` as for :func:`~convlens.draw.canvas.to_uint8`.
        maps: one entry for each class, drawn in this order; here a map may be negative.
        title: the image, the method, the epoch.
        note: what a reader should know of these maps, on a line of its own in red.

    Raises:
        ValueError: no map, or an image or map of another shape.
    """
    return add_title(class_rows(image, maps, _row, _NARROWEST), title, alert=note)


def _row(picture: np.ndarray, entry: ClassMap) -> np.ndarray:
    values, finite = as_finite_map(entry.map)
    high = full_colour_value(values) if entry.scale is None else float(entry.scale)
    beyond = bool(np.abs(values).max() > high)
    flat = resize_cells(values, picture.shape[:2])
    if (values < 0).any():
        name, low, meaning = (
            DIVERGING,
            "≤ " * beyond + format_number(-high),
            "red: for, blue: against",
        )
        drawn, covered = colourise_signed(flat, high), _signed_overlay(picture, values, high)
    else:
        name, low, meaning = HEAT, "0", "overlay"
        drawn, covered = colourise(flat, HEAT, 0, high), overlay(picture, values, high=high)
    width = max(picture.shape[1], _NARROWEST)
    ends = low, "≥ " * beyond + format_number(high)
    below = map_legend(values, finite, width, *ends, format_dimensions(*values.shape), name)
    return add_captions(
        (picture, text_band(width, "image")),
        (drawn, below),
        (covered, text_band(width, meaning)),
    )


def _signed_overlay(picture: np.ndarray, values: np.ndarray, high: float) -> np.ndarray:
    """The image in grey below the map's colours; the larger the value, the more they cover."""
    luma = (picture @ np.array([0.299, 0.587, 0.114])).astype(np.float32)
    grey = np.repeat(luma[..., None], 3, axis=2)
    parts = resize((values / high).clip(-1, 1), picture.shape[:2], "bilinear").clip(-1, 1)
    return blend(grey, colourise_signed(parts, 1), np.abs(parts))
