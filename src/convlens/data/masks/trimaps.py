"""Convert the trimaps of Oxford-IIIT Pet to masks of the animal.

A trimap is a PNG with 1 on the object, 2 on the background and 3 on the border between them. A mask
is True on object (1) and border (3). The border is a band a few pixels wide that contains the
outline; with it no part of the animal (ears, whiskers, fur) is missing, at the price of a little
background.

A mask is rotated as its image's EXIF says. A trimap with other proportions than its image is
stretched over it and reported.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from convlens.data.masks.load import ImageShape, MaskKind
from convlens.data.pixels.decode import open_image

_BACKGROUND = 2
_STRETCHED = "stretched"


def find_trimap(image: Path) -> Path:
    """Return an image's trimap in the layout of the official archives."""
    return image.parent.parent / "annotations" / "trimaps" / f"{image.stem}.png"


def _read_mask(trimap: Path, shape: ImageShape) -> tuple[np.ndarray, int, str]:
    """Return a mask, (h, w) bool, the image's orientation, and a remark if it was stretched."""
    with open_image(trimap, formats=("PNG",)) as image:
        classes = np.asarray(image)  # the indices, if it has a palette
    if classes.ndim != 2 or not np.isin(classes, (1, 2, 3)).all():
        raise ValueError("it is not a trimap of 1 (object), 2 (background) and 3 (border)")
    mask, (width, height) = Image.fromarray(classes != _BACKGROUND), shape.stored
    fits = abs(mask.width * height - mask.height * width) <= width + height  # to about a pixel
    mask = np.asarray(mask.resize((width, height), Image.Resampling.NEAREST))
    return mask, shape.turn, "" if fits else _STRETCHED


TRIMAPS = MaskKind(
    version=("trimaps", 2),
    read=_read_mask,
    remarks={
        _STRETCHED: "masks stretched because their proportions differ from their images': {count}, "
        "the first: {first}"
    },
    way_out="; replace it with the one from the official annotations",
    needed=True,
)
