"""Outlines of the shapes and of the litter around them: signed distances, negative inside.

Legend: (h, w) is the window in which a thing is drawn; u, v are offsets from its centre.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np

# Shapes extend up to 1 (some up to 1.06) from (0, 0).


def _polygon(corners: list[tuple[float, float]], u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return the distance to a closed polygon; by ray casting, odd crossings mean inside."""
    ax, ay = np.array(corners).T[:, :, None, None]
    bx, by = (np.roll(end, -1, axis=0) for end in (ax, ay))
    ex, ey, wx, wy = bx - ax, by - ay, u - ax, v - ay  # edges and offsets, (edges, h, w)
    along = np.clip((wx * ex + wy * ey) / (ex * ex + ey * ey), 0, 1)
    squared = ((wx - ex * along) ** 2 + (wy - ey * along) ** 2).min(axis=0)
    crossed = ((v >= ay) != (v >= by)) & ((ex * wy > ey * wx) == (ey > 0))
    return np.where(np.logical_xor.reduce(crossed, axis=0), -1, 1) * np.sqrt(squared)


def _spokes(*radii: float) -> list[tuple[float, float]]:
    """Return corners at these distances from the centre, at equal angles, the first at the top."""
    turns = [2 * math.pi * i / len(radii) for i in range(len(radii))]
    return [(r * math.sin(t), -r * math.cos(t)) for r, t in zip(radii, turns, strict=True)]


def _box(u, v, width: float, height: float) -> np.ndarray:
    return np.maximum(np.abs(u) - width, np.abs(v) - height)


def _heart(u, v):  # a square with a disc on each of two sides
    lobes = np.minimum(np.hypot(u - 0.3, v + 0.22), np.hypot(u + 0.22, v - 0.3)) - 0.52
    return np.minimum(_box(u + 0.22, v + 0.22, 0.52, 0.52), lobes)


_ARROW = [(0, -1), (0.9, 0), (0.34, 0), (0.34, 1), (-0.34, 1), (-0.34, 0), (-0.9, 0)]
OUTLINES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "disc": lambda u, v: np.hypot(u, v) - 0.92,
    "triangle": partial(_polygon, _spokes(1.06, 1.06, 1.06)),
    "square": lambda u, v: _box(u, v, 0.75, 0.75),
    "star": partial(_polygon, _spokes(*[1.06, 0.44] * 5)),
    "ring": lambda u, v: np.abs(np.hypot(u, v) - 0.72) - 0.25,
    "cross": lambda u, v: np.minimum(_box(u, v, 1, 0.31), _box(u, v, 0.31, 1)),
    "heart": _heart,
    "crescent": lambda u, v: np.maximum(np.hypot(u, v) - 1, 0.8 - np.hypot(u - 0.48, v)),
    "drop": lambda u, v: np.minimum(np.hypot(u, v) - 0.76, _box(u - 0.38, v - 0.38, 0.38, 0.38)),
    "arrow": partial(_polygon, _ARROW),
    "flower": lambda u, v: 0.7 * (np.hypot(u, v) - 0.74 - 0.26 * np.cos(5 * np.arctan2(v, u))),
    "hourglass": lambda u, v: _box(0.8 * u, v, 0.54 * np.abs(v) + 0.09, 0.83),
}
CLASS_NAMES: tuple[str, ...] = tuple(OUTLINES)


def outline_litter(kind: str, u, v, length: float, bend: float) -> np.ndarray:
    """Return the outline of a distractor; u, v in image widths, ``bend`` in 0..1 varies it."""
    if kind == "leaf":
        radius = length * (0.6 + 0.5 * bend)
        offset = math.sqrt(radius * radius - 0.25 * length * length)
        return np.maximum(np.hypot(u, v - offset), np.hypot(u, v + offset)) - radius
    if kind == "twig":
        curve = v - 1.5 * (bend - 0.5) * (u * u / length - length / 12)
        return np.maximum(np.abs(curve) - 0.045 * length, np.abs(u) - 0.5 * length)
    if kind == "pebble":
        return np.hypot(u * (0.35 + 0.2 * bend), v) - (0.14 + 0.08 * bend) * length
    slab = _box(u, v, 0.4 * length, 0.16 * length)
    return np.maximum(slab, (u + (1 + bend) * v) * 0.6 - 0.1 * length)
