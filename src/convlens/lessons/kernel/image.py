"""One picture file in its own proportions, for looking at it alone.

A network's batch wants every picture at one size (:mod:`convlens.data.pixels.decode`); here only
the longest edge is given. What a file means is settled there all the same.
"""

from __future__ import annotations

import os
import warnings

import numpy as np

from convlens.data.masks.rows import ORIENTATION
from convlens.data.pixels.decode import Recipe, decode_picture, open_picture


def upright_size(path: str | os.PathLike) -> tuple[int, int]:
    """(height, width) of a picture file in pixels, its EXIF orientation applied.

    Raises what Pillow raises where the file is no picture.
    """
    with open_picture(path) as image:
        width, height = image.size
        try:
            turn = image.getexif().get(ORIENTATION, 1)
        except Exception:  # garbage for EXIF: it is decoded as it lies, too
            turn = 1
        # Pillow gives a TIFF's size as it will stand, of every other kind as it lies
        on_its_side = turn in (5, 6, 7, 8) and image.format != "TIFF"
        return (width, height) if on_its_side else (height, width)


def decode_in_proportion(path: str | os.PathLike, longest: int) -> np.ndarray:
    """One file as (H, W, C) uint8, reduced until no edge is longer than ``longest``.

    A smaller picture keeps its size. C is 3 (RGB), or 1 where no pixel has any colour.

    Raises PictureError, naming the file, if it gives no picture.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")  # odd metadata is not about pixels
        try:
            height, width = upright_size(path)
        except Exception:  # Pillow raises almost anything on damaged data; decoding will say what
            height = width = longest
        scale = min(1, longest / max(height, width))
        edges = [max(1, round(edge * scale)) for edge in (height, width)]
        picture = decode_picture(path, Recipe(*edges))
    grey = (picture == picture[..., :1]).all()
    return picture[..., :1].copy() if grey else picture.copy()  # Pillow's own cannot be written
