"""Choose the channels of a layer that a grid shows, and turn their values into levels of colour."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import numpy as np

Rule = Literal["shared", "reference"]
Colours = Literal["default", "grey"]
Order = Literal["strength", "index"]

ZERO = 128  # level of the value 0 on the shared scale
_PLACES = (-1, -0.75, -0.4, 0, 0.4, 0.75, 1)  # of these colours on the shared scale
_COLOURS = (
    (150, 240, 255), (30, 150, 250), (0, 85, 210), (0, 0, 0), (205, 20, 10), (250, 140, 0),
    (255, 245, 130),
)  # fmt: skip
_PERCENTILE = 99.5  # of the magnitudes that are not 0: where the shared scale ends


def select_channels(maps: np.ndarray, order: Order, most: int | None) -> np.ndarray:
    """Return the channels to show, in the order in which they are shown, int ``(n,)``.

    Args:
        maps: ``(C, h, w)``, finite.
        order: "strength" sorts by the mean magnitude of a channel's values over the image, the
            strongest first and equal ones by their index, and leaves out the channels that are zero
            everywhere. "index" is the layer's own order; it is the same at every epoch.
        most: Maximum number of channels; None for all.

    Raises:
        ValueError: The order is unknown.
    """
    if order == "index":
        return np.arange(len(maps))[:most]
    if order != "strength":
        raise ValueError(f'unknown order {order!r}: use "strength" or "index"')
    strengths = np.abs(maps).mean(axis=(1, 2), dtype=np.float64)
    ranked = np.argsort(-strengths, kind="stable")
    return ranked[strengths[ranked] > 0][:most]


def find_scale_end(maps: np.ndarray) -> float:
    """Return the magnitude at which the shared scale of finite maps ends: 0 if all values are 0.

    That is the 99.5th percentile of the magnitudes that are not 0, so a few extreme values do not
    darken all others, and zeros, however many, do not brighten them.
    """
    sizes = np.abs(maps)
    sizes = sizes[sizes > 0]
    return float(np.percentile(sizes, _PERCENTILE, method="higher")) if len(sizes) else 0.0


def compute_shared_levels(maps: np.ndarray, end: float) -> np.ndarray:
    """Convert finite maps to levels on one scale, uint8 of the same shape.

    0 has level 128, ``end`` 255 and ``-end`` 1; values beyond are clipped.
    """
    with np.errstate(over="ignore"):
        unit = maps / (end or 1)
    return np.rint(unit.clip(-1, 1) * 127 + ZERO).astype(np.uint8)


def compute_reference_levels(maps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Standardise each channel by itself: ``(x - mean) / std · 64 + 128``, clipped to 0–255.

    It shows where a channel responds, not how strongly. A constant channel has no std and gets
    level 0.

    Args:
        maps: ``(C, h, w)``. Values that are not finite get level 0.

    Returns:
        The levels, uint8 ``(C, h, w)``, and which channels are constant, bool ``(C,)``.
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
    centred *= 64 / np.where(flat, 1, spread)
    levels = (centred + 128).clip(0, 255).astype(np.uint8)
    levels[flat[:, 0, 0]] = 0
    levels[bad] = 0
    return levels, flat[:, 0, 0]


@lru_cache(maxsize=1)
def signed_table() -> np.ndarray:
    """Return the colours of the shared scale, uint8 ``(256, 3)``: level 128 is black.

    From there they brighten through red to yellow above, and through blue to cyan below.
    """
    units = (np.arange(256).clip(1) - ZERO) / 127
    parts = [np.interp(units, _PLACES, part) for part in zip(*_COLOURS, strict=True)]
    return np.stack(parts, axis=1).round().astype(np.uint8)


def grey_table(has_negative: bool) -> np.ndarray:
    """Return the shared scale in grey, uint8 ``(256, 3)``.

    Without negative values, 0 is black and the end of the scale white. With them, the negative end
    is black and 0, level 128, is mid-grey.
    """
    first = 1 if has_negative else ZERO
    greys = np.interp(np.arange(256), (first, 255), (0, 255)).round().astype(np.uint8)
    return np.repeat(greys[:, None], 3, axis=1)
