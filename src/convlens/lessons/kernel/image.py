"""One picture file in its own proportions, for looking at it alone.

A network's batch wants every picture at one size (:mod:`convlens.data.pixels.decode`); here only
the longest edge is given. What a file means is settled there all the same.
"""

from __future__ import annotations

import os
import warnings

import numpy as np

from convlens.data.pixels.decode import PictureError, Recipe, decode_picture, size_and_orientation


def decode_in_proportion(path: str | os.PathLike, longest: int) -> np.ndarray:
    """One file as (H, W, C) uint8, reduced until no edge is longer than ``longest``.

    A smaller picture keeps its size. C is 3 (RGB), or 1 where no pixel has any colour.

    Raises PictureError, naming the file, if it gives no picture.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")  # odd metadata is not about pixels
        try:
            (width, height), turn = size_and_orientation(path)
        except PictureError:  # decoding will say in full what is wrong with the file
            width, height, turn = longest, longest, 1
        edges = (width, height) if turn in (5, 6, 7, 8) else (height, width)
        scale = min(1, longest / max(edges))
        picture = decode_picture(path, Recipe(*(max(1, round(edge * scale)) for edge in edges)))
    grey = (picture == picture[..., :1]).all()
    return picture[..., :1].copy() if grey else picture.copy()  # Pillow's own cannot be written
