"""Read image files at their own proportions, for pictures that people look at."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from convlens.core.photograph import WHOLE, Frame, Photograph
from convlens.data.pixels.decode import (
    ImageError,
    Recipe,
    convert_image,
    decode_image,
    get_size_and_orientation,
    read_size_and_orientation,
)
from convlens.data.pixels.load import pillow_settings

LONGEST = 640  # pixels of the longest side
_WORDS = {"squash": "squashed to", "crop": "cropped to", "pad": "padded to"}

log = logging.getLogger("convlens")


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
    size, turn = read_size_and_orientation(path)
    return _make(size, turn, recipe, lambda goal: decode_image(path, goal))


def read_photographs(
    files: Iterable[Path], images: Sequence[Tensor] | Tensor, recipe: Recipe
) -> list[Photograph]:
    """Return files at their own proportions.

    A file that has become unreadable since it was decoded into the cache is shown as the network
    gets it; a line says so.

    Args:
        files: the files.
        images: the images that the network gets of them, (C, H, W) in [0, 1] each.
        recipe: see ``read_photograph``.
    """
    photographs = []
    with pillow_settings():
        for path, image in zip(files, images, strict=True):
            try:
                photographs.append(read_photograph(path, recipe))
            except ImageError as error:
                log.warning("%s; it is shown as the network gets it", error)
                photographs.append(make_photograph(image))
    return photographs


def convert_photograph(image: Image.Image, recipe: Recipe) -> tuple[np.ndarray, Photograph]:
    """Return an image of Pillow as the network gets it, (H, W, C) uint8, and as a photograph.

    Args:
        image: the image; it need not be loaded.
        recipe: see ``read_photograph``.
    """
    size, turn = get_size_and_orientation(image)
    seen = convert_image(image, recipe)  # first: it may load a large file at a lower resolution
    return seen, _make(size, turn, recipe, lambda goal: convert_image(image, goal))


def make_photograph(image: Tensor) -> Photograph:
    """Return an image (1 or 3, H, W) in [0, 1] as it is."""
    pixels = (image.detach().cpu().float().nan_to_num().clamp(0, 1) * 255).round().byte()
    return Photograph(pixels.expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy())


def _make(
    size: tuple[int, int], turn: int, recipe: Recipe, decode: Callable[[Recipe], np.ndarray]
) -> Photograph:
    """Return a photograph of an image.

    Args:
        size: width and height of the stored pixels.
        turn: EXIF orientation.
        recipe: how the network's image is made.
        decode: makes an image by another recipe.
    """
    width, height = size[::-1] if turn in (5, 6, 7, 8) else size
    canvas, how = (width, height), "squash"  # to its own proportions: only resized
    if recipe.resize == "pad":
        scale = max(width / recipe.width, height / recipe.height)
        canvas, how = (scale * recipe.width, scale * recipe.height), "pad"
    shrink = min(1.0, LONGEST / max(canvas))
    goal = replace(
        recipe, width=max(1, round(canvas[0] * shrink)), height=max(1, round(canvas[1] * shrink)),
        resize=how, interpolation="bilinear",
    )  # fmt: skip
    pixels = decode(goal)
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
