"""What speaks for a class and what against it: [picture | map | overlay], a row for each class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from convlens.draw.canvas import (
    GAP,
    MUTED,
    RED,
    Array,
    as_array,
    hstack,
    resize,
    text_band,
    titled,
    vstack,
)
from convlens.draw.colour import (
    DIVERGING,
    HEAT,
    colour_bar,
    colourise,
    full_colour,
    number,
    overlay,
)
from convlens.draw.grad_cam_panel import ClassMap, class_rows
from convlens.draw.text import SMALL, dimensions

_NARROWEST = 192  # width of a column at least: a bar with a sign at both ends needs it


def attribution_panel(
    picture: Array,
    maps: Sequence[ClassMap],
    *,
    title: str,
    note: str | None = None,
    signed: bool | None = None,
) -> np.ndarray:
    """A row [picture | map | overlay] for each class, uint8 ``(H, W, 3)``.

    Signed maps are red where they speak for the class and blue where they speak against it, with
    zero in the middle; their overlay lies on the picture in grey, which has no red or blue of its
    own. Maps that are nowhere negative are drawn as heat from 0. The bar below the map tells the
    ends of the colours: ``scale``, or else the largest value (of maps from 32 × 32 on, the
    99.5th percentile of the magnitudes; what lies beyond gets the end's colour, and ≥ says so).

    The band above a row is that of :func:`~convlens.draw.grad_cam_panel.grad_cam_panel`.

    Args:
        picture: ``(C, H, W)`` as for :func:`~convlens.draw.canvas.to_uint8`.
        maps: one entry for each class, drawn in this order; here a map may be negative.
        title: the picture, the method, the epoch.
        note: what a reader should know of these maps, on a line of its own in red.
        signed: how to colour; None for each map by its own values.

    Raises:
        ValueError: no map, or a picture or map of another shape.
    """
    if not maps:
        raise ValueError("attribution_panel needs at least one class map")
    rows = class_rows(picture, maps, lambda image, entry: _row(image, entry, signed), _NARROWEST)
    return titled(rows, title, alert=note)


def _row(image: np.ndarray, entry: ClassMap, signed: bool | None) -> np.ndarray:
    values = as_array(entry.map).astype(np.float32)
    if values.ndim != 2 or 0 in values.shape:
        raise ValueError(f"a class map is (H, W), not {tuple(values.shape)}")
    broken = not np.isfinite(values).all()
    values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    signed = bool((values < 0).any()) if signed is None else signed
    values = values if signed else values.clip(min=0)
    high = full_colour(values) if entry.scale is None else float(entry.scale)
    beyond = float(np.abs(values).max()) > high
    low, name = (-high, DIVERGING) if signed else (0.0, HEAT)

    size = image.shape[:2]
    width = max(size[1], _NARROWEST)
    cells = values.shape[0] <= size[0] and values.shape[1] <= size[1]
    flat = resize(values, size, "nearest" if cells else "bilinear")
    if high > 0:
        drawn = colourise(flat, name, low, high)
    else:  # zero everywhere: the colour of zero, not that of the lowest value
        drawn = colourise(np.full(size, 0.5 if signed else 0.0), name)
    covered = _signed_overlay(image, values, high) if signed else overlay(image, values, high=high)

    if broken:
        below = text_band(width, ["map not finite"], size=SMALL, ink=RED)
    elif not values.any():
        empty = "zero everywhere" if signed else "no positive evidence"
        below = text_band(width, [empty], size=SMALL, ink=RED)
    else:
        more, less = ("≥ ", "≤ ") if beyond else ("", "")
        ends = (f"{less}{number(low)}" if signed else "0"), f"{more}{number(high)}"
        lead = dimensions(*values.shape)
        below = colour_bar(width, *ends, name=name, lead=lead)
    meaning = "red: for, blue: against" if signed else "overlay"
    captions = (
        text_band(width, ["picture"], size=SMALL, ink=MUTED),
        below,
        text_band(width, [meaning], size=SMALL, ink=MUTED),
    )
    columns = zip((image, drawn, covered), captions, strict=True)
    return hstack([vstack(pair, gap=2) for pair in columns], gap=GAP)


def _signed_overlay(image: np.ndarray, values: np.ndarray, high: float) -> np.ndarray:
    """The picture in grey below the map's colours; the larger the value, the more they cover."""
    luma = (image @ np.array([0.299, 0.587, 0.114])).astype(np.float32)
    grey = np.repeat(luma[..., None], 3, axis=2)
    if not high > 0:
        return np.rint(grey).astype(np.uint8)
    parts = resize((values / high).clip(-1, 1), image.shape[:2], "bilinear").clip(-1, 1)
    cover = 0.75 * np.abs(parts)[..., None]
    mixed = (1 - cover) * grey + cover * colourise(parts, DIVERGING, -1, 1)
    return np.rint(mixed).clip(0, 255).astype(np.uint8)
