"""Where the animal is in an image of Oxford-IIIT Pet: trimaps to masks.

A trimap is a PNG with 1 on the object, 2 on the background and 3 on the border between them. True
in a mask is the animal with its border: object (1) and border (3). The border is a band a few
pixels wide in which the outline lies; with it no part of the animal (ears, whiskers, fur) is
missing, at the price of a little background.

A mask is turned as its image's EXIF says. A trimap of other proportions than its image is
stretched over it and reported.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from convlens.data.masks.load import MaskKind, Picture
from convlens.data.pixels.decode import open_image

_BACKGROUND = 2
_STRETCHED = "stretched"


def find_trimap(picture: Path) -> Path:
    """Where the official archives have it."""
    return picture.parent.parent / "annotations" / "trimaps" / f"{picture.stem}.png"


def _mask(trimap: Path, picture: Picture) -> tuple[np.ndarray, int, str]:
    """(h, w) bool, the image's orientation, and whether the trimap has other proportions."""
    with open_image(trimap, formats=("PNG",)) as image:
        classes = np.asarray(image)  # of a palette the indices
    if classes.ndim != 2 or not np.isin(classes, (1, 2, 3)).all():
        raise ValueError("it is no trimap: 1 (object), 2 (background), 3 (border) are expected")
    mask, (width, height) = Image.fromarray(classes != _BACKGROUND), picture.stored
    fits = abs(mask.width * height - mask.height * width) <= width + height  # to about a pixel
    mask = np.asarray(mask.resize((width, height), Image.Resampling.NEAREST))
    return mask, picture.turn, "" if fits else _STRETCHED


TRIMAPS = MaskKind(
    version=("trimaps", 2),
    read=_mask,
    remarks={
        _STRETCHED: "{count} masks have other proportions than their images and are stretched "
        "over them, the first: {first}"
    },
    way_out="; put that of the official annotations in its place",
    needed=True,
)
