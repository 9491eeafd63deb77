"""Read an image file at its own proportions, for pictures that people look at."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from convlens.core.photograph import WHOLE, Frame, Photograph
from convlens.data.pixels.decode import Recipe, decode_image, read_size_and_orientation

LONGEST = 640  # pixels of the longest side
_WORDS = {"squash": "squashed to", "crop": "cropped to", "pad": "padded to"}


def read_photograph(path: Path, recipe: Recipe) -> Photograph:
    """Return an image file at its own proportions, with the part that the network sees.

    The longest side is at most ``LONGEST`` pixels; a smaller image keeps its size. With
    ``resize="pad"`` the black bars are part of the picture, because the network sees them too.

    Args:
        path: the file; ``pillow_settings`` must be active.
        recipe: how the network's image is made from the file.

    Raises:
        ImageError: the file cannot be decoded.
    """
    (width, height), turn = read_size_and_orientation(path)
    if turn in (5, 6, 7, 8):
        width, height = height, width
    canvas, how = (width, height), "squash"  # to its own proportions: only resized
    if recipe.resize == "pad":
        scale = max(width / recipe.width, height / recipe.height)
        canvas, how = (scale * recipe.width, scale * recipe.height), "pad"
    shrink = min(1.0, LONGEST / max(canvas))
    goal = replace(
        recipe, width=max(1, round(canvas[0] * shrink)), height=max(1, round(canvas[1] * shrink)),
        resize=how, interpolation="bilinear",
    )  # fmt: skip
    pixels = decode_image(path, goal)
    seen = f"{width}×{height} {_WORDS[recipe.resize]} {recipe.width}×{recipe.height}"
    if (width, height) == (recipe.width, recipe.height):
        seen = ""
    picture = np.broadcast_to(pixels, (*pixels.shape[:2], 3)).copy()
    return Photograph(picture, _find_frame(width, height, recipe), seen)


def _find_frame(width: int, height: int, recipe: Recipe) -> Frame:
    """Return the part of an image of this size that the recipe takes."""
    if recipe.resize != "crop":
        return WHOLE
    scale = min(width / recipe.width, height / recipe.height)
    left = (1 - recipe.width * scale / width) / 2
    top = (1 - recipe.height * scale / height) / 2
    return left, top, 1 - left, 1 - top
