"""Where the animal is in a picture of Oxford-IIIT Pet: trimaps to masks.

Legend: N pictures, H height, W width. A trimap is a PNG with 1 on the object, 2 on the background
and 3 on the border between them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from convlens.data.masks.load import gathered, laid
from convlens.data.pixels.decode import PictureError, Recipe, open_picture, size_and_orientation

VERSION = 2  # of the masks a trimap gives: raise it when that changes, and caches are rebuilt
_BACKGROUND = 2
_AGAIN = "; put that of the official annotations in its place"


def masks(
    pictures: Sequence[Path],
    *,
    size: int,
    resize: str,
    cache: str,
    cache_dir: str | os.PathLike,
) -> tuple[np.ndarray, list[str]]:
    """(N, H, W) bool, H = W = ``size``, and lines a person should read.

    True is the animal with its border: of the trimap's three classes, object (1) and border (3).
    The border is a band a few pixels wide in which the outline lies; with it no part of the animal
    (ears, whiskers, fur) is missing, at the price of a little background.

    A mask goes the way of its picture: turned as the picture's EXIF says, then ``resize`` (squash,
    crop or pad, with False around a padded picture), nearest neighbour. A trimap of other
    proportions than its picture is stretched over it and reported.

    cache  "disk": memory-mapped, made anew when a path, size or modification time changed; "ram"

    Raises UserError: a trimap that cannot be read or holds other values than 1, 2 and 3.
    """
    recipe = Recipe(size, size, channels=1, resize=resize, interpolation="nearest")
    trimaps = [p.parent.parent / "annotations" / "trimaps" / f"{p.stem}.png" for p in pictures]

    def read(row: int) -> tuple[np.ndarray, str]:
        mask, fits = _mask(pictures[row], trimaps[row], recipe)
        return mask, "" if fits else "stretched"

    array, stretched = gathered(
        read, range(len(pictures)), recipe, count=len(pictures), made_by=("trimaps", VERSION),
        paths=[*pictures, *trimaps], cache=cache, cache_dir=cache_dir,
    )  # fmt: skip
    if not stretched:
        return array, []
    return array, [
        f"{len(stretched)} masks have other proportions than their pictures and are stretched over "
        f"them, the first: {trimaps[stretched[0][0]]}"
    ]


def _mask(picture: Path, trimap: Path, recipe: Recipe) -> tuple[np.ndarray, bool]:
    """(H, W) bool, and whether the trimap has the proportions of its picture."""
    (width, height), turn = size_and_orientation(picture)
    try:
        with open_picture(trimap, formats=("PNG",)) as image:
            classes = np.asarray(image)  # of a palette the indices
    except Exception as error:  # Pillow's readers raise almost anything on damaged data
        raise PictureError(trimap, getattr(error, "strerror", None) or str(error), _AGAIN) from None
    if classes.ndim != 2 or not np.isin(classes, (1, 2, 3)).all():
        raise PictureError(
            trimap, "it is no trimap: 1 (object), 2 (background), 3 (border) are expected", _AGAIN
        )
    mask = Image.fromarray((classes != _BACKGROUND).astype(np.uint8))
    fits = abs(mask.width * height - mask.height * width) <= width + height  # to about a pixel
    if mask.size != (width, height):
        mask = mask.resize((width, height), Image.Resampling.NEAREST)
    return laid(np.asarray(mask), turn, recipe), fits
