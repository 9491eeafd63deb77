"""What is planted in drawn images, to be found again: shortcuts to the class, and wrong labels.

A network that sees training images with a shortcut learns the shortcut instead of the object, and
fails on images without it: a Clever Hans, which its explanations reveal (Lapuschkin et al. 2019,
https://doi.org/10.1038/s41467-019-08987-4).
"""

from __future__ import annotations

import colorsys
import math
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from convlens.data.index.generators import make_generator

SMALLEST_TEXT = 32  # pixels: smallest image on which a watermark can be read
_LETTERS = 4  # of a class's name in a watermark: the fewest by which all classes differ


class Place(NamedTuple):
    """Where a shortcut is, in pixels: rows ``top`` to ``bottom - 1``, likewise the columns."""

    left: int
    top: int
    right: int
    bottom: int


def find_place(kind: str, size: int, seed: int) -> Place:
    """Return where shortcuts of a kind are: the same place in all images of a seed.

    Args:
        kind: one of ``KINDS``.
        size: height and width of the images, pixels.
        seed: decides the corner (corner, watermark) or the side of the image (the others).
    """
    turn = int(make_generator(seed, 0, 0, 2).integers(4))
    if kind in ("corner", "watermark"):
        margin = max(1, size // 64)
        width = height = max(3, size // 9)
        if kind == "watermark":
            width, height = 6 * _LETTERS * _scale_text(size), 11 * _scale_text(size)
        top = size - margin - height if turn & 1 else margin
        left = size - margin - width if turn & 2 else margin
        return Place(left, top, left + width, top + height)
    thickness = max(2, size // 24) if kind == "border" else size // 4
    low, high = (size - thickness, size) if turn & 1 else (0, thickness)
    return Place(0, low, size, high) if turn & 2 else Place(low, 0, high, size)


def paint_shortcut(
    images: np.ndarray,
    labels: np.ndarray,
    fraction: float,
    class_names: tuple[str, ...],
    *,
    seed: int,
    stream: int,
    kind: str = "corner",
) -> np.ndarray:
    """Paint what reveals the class into some images, in place; see ``KINDS``.

    Args:
        images: (N, H, W, C) uint8, H = W, C 1 or 3; changed in place.
        labels: (N,) indices into ``class_names``, which decide what is painted.
        fraction: fraction of the images to mark, 0..1; exactly ``round(fraction * N)`` are marked.
        class_names: K names.
        seed: with ``stream``, decides which images; alone, the place, the same in all streams.
        stream: as for ``draw_shapes``.
        kind: one of ``KINDS``. A watermark needs images of at least ``SMALLEST_TEXT`` pixels.

    Returns:
        (N,) bool, True for marked images.
    """
    count, size = images.shape[:2]
    marked = make_generator(seed, stream, 0, 1).permutation(count) < round(fraction * count)
    left, top, right, bottom = find_place(kind, size, seed)
    region = images[:, top:bottom, left:right]  # a view
    for label, name in enumerate(class_names):
        rows = np.flatnonzero(marked & (labels == label))
        below = region[rows] / 255
        painted = KINDS[kind](below, label / len(class_names), name)
        region[rows] = np.rint(255 * np.clip(painted, 0, 1)).astype(np.uint8)
    return marked


def _make_colour(step: float, channels: int) -> np.ndarray:
    """Return a class's colour, (C,) in 0..1: its hue, or its level of grey."""
    return np.array((step,) if channels == 1 else colorsys.hsv_to_rgb(step, 0.9, 0.95))


def _paint_colour(below: np.ndarray, step: float, name: str) -> np.ndarray:
    return np.broadcast_to(_make_colour(step, below.shape[-1]), below.shape)


def _tint(below: np.ndarray, step: float, name: str) -> np.ndarray:
    return 0.65 * below + 0.35 * _make_colour(step, below.shape[-1])


def _add_stripes(below: np.ndarray, step: float, name: str) -> np.ndarray:
    """Add waves of four to five pixels, whose direction is the class's: (N, h, w, C)."""
    height, width = below.shape[1:3]
    rows, columns = np.arange(height)[:, None], np.arange(width)
    phase = columns * math.cos(math.pi * step) + rows * math.sin(math.pi * step)
    return below + 0.15 * np.sin(2 * math.pi / 4.5 * phase)[..., None]


def _write_text(below: np.ndarray, step: float, name: str) -> np.ndarray:
    """Write the beginning of the name in white on a darkened box."""
    height, width = below.shape[1:3]
    font, scale = ImageFont.load_default_imagefont(), height // 11
    text = Image.new("L", (width // scale, height // scale))
    ImageDraw.Draw(text).text((0, 0), name[:_LETTERS].upper(), fill=255, font=font)
    letters = np.asarray(text.resize((width, height), Image.Resampling.NEAREST)) > 0
    return np.where(letters[..., None], 0.9, 0.5 * below)


def _scale_text(size: int) -> int:
    return max(1, size // 64)


# Shortcuts: from the pixels below, (N, h, w, C) in 0..1, a class's step in 0..1 and its name.
KINDS = {
    "corner": _paint_colour,  # a square in the class's colour
    "tint": _tint,  # a cast of the class's colour over a quarter of the image
    "border": _paint_colour,  # a line in the class's colour along one side
    "watermark": _write_text,  # the class's name in a corner, in white
    "texture": _add_stripes,  # fine waves in the class's direction over a quarter of the image
}


def flip_labels(
    labels: np.ndarray, fraction: float, classes: int, seed: int, stream: int
) -> np.ndarray:
    """Return labels of which some are wrong, each other class being equally likely.

    Args:
        labels: (N,) whole numbers in 0..classes-1.
        fraction: fraction of wrong labels, 0..1; exactly ``round(fraction * N)`` are wrong.
        classes: number of classes, at least 2.
        seed: with ``stream``, decides which labels become which.
        stream: as for ``draw_shapes``.
    """
    rng, count = make_generator(seed, stream, 0, 3), len(labels)
    wrong = rng.permutation(count) < round(fraction * count)
    return np.where(wrong, (labels + rng.integers(1, classes, count)) % classes, labels)
